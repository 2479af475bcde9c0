"""D3, compared with the program of its authors, s-dftd3."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, graphene, molecule

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.deploy.reach import exchanges_ghosts, layers_of
from graph_pes.models import AdditionModel, D3Dispersion, SchNet, load_model, save_model
from graph_pes.units import BOHR, HARTREE

#: That of s-dftd3, and its value for what counts as a neighbour, in Bohr radii.
CUTOFF, COORDINATION = 60.0, 40.0


def structures() -> dict[str, ase.Atoms]:
    crowded = bulk("Si", "fcc", a=3.0)  # more neighbours than in any reference
    found = {
        "ethanol": molecule("CH3CH2OH"),
        "salt": bulk("NaCl", "rocksalt", a=5.6),
        "crowded": crowded,
        "slab": graphene(vacuum=10.0),
        "heavy": molecule("CH3Cl"),
    }
    found["slab"].set_cell(found["slab"].cell.array + [[0, 0, 0], [0, 0, 0], [0, 0, 20.0]])
    found["slab"].pbc = [True, True, False]
    found["heavy"].symbols[-1] = "U"
    for n, atoms in enumerate(found.values()):
        atoms.rattle(0.1, seed=n)
    return found


def reference(atoms: ase.Atoms, functional: str, damping: str, cutoff: float) -> dict:
    interface = pytest.importorskip("dftd3.interface", reason="dftd3 is not installed")
    periodic = atoms.pbc.any()
    model = interface.DispersionModel(
        atoms.numbers,
        atoms.positions / BOHR,
        atoms.cell.array / BOHR if periodic else None,
        atoms.pbc if periodic else None,
    )
    model.set_realspace_cutoff(cutoff, COORDINATION, COORDINATION)
    kind = "RationalDampingParam" if damping == "bj" else "ZeroDampingParam"
    found = model.get_dispersion(getattr(interface, kind)(method=functional, atm=False), grad=True)
    return {
        "energy": found["energy"] * HARTREE,
        "forces": -found["gradient"] * HARTREE / BOHR,
        "virial": -found["virial"] * HARTREE,
    }


@pytest.mark.parametrize("damping", ["bj", "zero"])
@pytest.mark.parametrize("functional", ["pbe", "B3-LYP"])
def test_equals_s_dftd3(functional: str, damping: str, default_dtype) -> None:
    default_dtype(torch.float64)
    model = D3Dispersion(functional, damping, CUTOFF * BOHR).eval()
    everything = structures()
    keys = ["energy", "forces", "virial"]
    graphs = [AtomicGraph.from_ase(atoms, model.cutoff_value) for atoms in everything.values()]
    batch = model.predict(to_batch(graphs), keys)
    for n, (name, atoms) in enumerate(everything.items()):
        expected = reference(atoms, functional, damping, CUTOFF)
        found = {key: x.numpy() for key, x in model.predict(graphs[n], keys).items()}
        if not atoms.pbc.any():
            del expected["virial"]
        for key, value in expected.items():
            # radii of the damping "zero" are given in Å, with another Bohr radius
            np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=1e-7, err_msg=name)
        assert batch["energy"][n].item() == pytest.approx(expected["energy"], rel=1e-6)


#: A molecule of the benchmark MB16-43, in Bohr radii.
MOLECULE = """
    2.792748102838 3.829982288283 -2.792870549592
    -1.434474541868 0.434187299879 5.538543451298
    -3.262683436652 -2.506440324262 -1.56631149351
    2.145487599591 -0.88798018954 -2.245925345062
    -4.302330974232 -3.9363151867 -0.489307541091
    0.061076435649 -3.824679317314 -2.223333444695
    0.411685504019 0.581055731728 5.568546099161
    4.413638366357 3.925158718093 2.57961724984
    1.337077589987 1.401944716616 1.975300049495
    3.083427098349 1.725200246668 -4.426661161068
    -3.023469320785 0.044381999342 -0.27636197425
    1.115083908685 -0.976174128092 6.254628477182
    0.61938955433 2.179035473892 -6.21279842417
    -2.674916813468 3.001758997619 1.050388136148
    -4.131810802895 -2.342267398637 -3.443561593929
    2.850071730097 -2.648848927576 0.710108064242
"""


@pytest.mark.parametrize(
    ("functional", "damping", "hartree"),
    [("pbe0", "bj", -0.029589132634178342), ("b3lyp", "zero", -0.022814172019166058)],
)
def test_published_energies(functional: str, damping: str, hartree: float) -> None:
    """Those that the authors of s-dftd3 test it with, without the three-body term."""
    R = BOHR * np.array(MOLECULE.split(), dtype=float).reshape(-1, 3)
    model = D3Dispersion(functional, damping).double()
    graph = AtomicGraph.from_ase(ase.Atoms("H2CBHPOClAlPBHFPHP", R), 20.0, dtype=torch.float64)
    assert model.predict_energy(graph).item() == pytest.approx(hartree * HARTREE, rel=1e-6)


def test_single_precision() -> None:
    for atoms in structures().values():
        graph = AtomicGraph.from_ase(atoms, 12.0)
        model = D3Dispersion(cutoff=12.0)
        single, double = (m.predict(graph, ["energy", "forces"]) for m in (model, model.double()))
        for key, value in double.items():
            torch.testing.assert_close(single[key].double(), value, rtol=1e-5, atol=1e-6)


def test_supercell(default_dtype) -> None:
    default_dtype(torch.float64)
    model = D3Dispersion(elements=["Na", "Cl"])
    salt = bulk("NaCl", "rocksalt", a=5.6)
    energies = [
        model.predict_energy(AtomicGraph.from_ase(atoms, 20.0)).item()
        for atoms in (salt, salt * (1, 2, 1))
    ]
    assert energies[1] == pytest.approx(2 * energies[0], rel=1e-12)


def test_elements(default_dtype) -> None:
    """The order of the elements, and how many there are, do not matter."""
    default_dtype(torch.float64)
    graph = AtomicGraph.from_ase(molecule("CH3CH2OH"), 20.0)
    some, every = D3Dispersion(elements=["O", "H", "C"]), D3Dispersion()
    torch.testing.assert_close(some.predict_forces(graph), every.predict_forces(graph))
    with pytest.raises(ValueError, match="contains O, but the model"):
        D3Dispersion(elements=["H", "C"]).predict_energy(graph)
    with pytest.raises(ValueError, match="up to Lr, got Rf"):
        D3Dispersion(elements=["Rf"])


def test_it_has_messages_of_its_own() -> None:
    """Coordination numbers of neighbours: LAMMPS exchanges them."""
    model = D3Dispersion(cutoff=6.0, elements=["H", "C"])
    assert layers_of(model) == 2
    assert exchanges_ghosts(model)


def test_in_a_sum(tmp_path: Path, default_dtype) -> None:
    """The network sees its own, few edges; files hold all that there is."""
    default_dtype(torch.float64)
    network = SchNet(cutoff=3.0, channels=4, layers=1)
    edges = []
    network.register_forward_pre_hook(lambda _, args: edges.append(args[0].neighbour_list.shape[1]))
    model = AdditionModel(network=network, dispersion=D3Dispersion("r2scan")).eval()
    graph = AtomicGraph.from_ase(bulk("Si", cubic=True), model.cutoff_value)
    energy = model.predict_energy(graph)
    assert graph.neighbour_list.shape[1] > 100 * edges[0]
    parts = [part.predict_energy(graph) for part in model.models.values()]
    torch.testing.assert_close(energy, sum(parts))
    save_model(model, tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt")
    torch.testing.assert_close(again.predict_energy(graph), energy, rtol=0, atol=0)


def test_unknown() -> None:
    with pytest.raises(ValueError, match="damping: expected one of .*'bj', 'zero'.* got 'none'"):
        D3Dispersion(damping="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no parameters of 'pbee' with damping='bj'"):
        D3Dispersion("pbee")


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tad_dftd3.param", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[d3\]'"):
        D3Dispersion()
