"""Point charges: laws of electrostatics, lattice sums, conservation of charge."""

from __future__ import annotations

import math
from pathlib import Path

import ase
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.deploy import ExportError, export_model
from graph_pes.models import (
    AdditionModel,
    Coulomb,
    Ewald,
    GraphPESModel,
    LearnedCharges,
    LennardJones,
    PaiNN,
    SchNet,
    load_model,
    save_model,
)
from graph_pes.testing.derivatives import check_forces, check_stress
from graph_pes.testing.subject import ModelUnderTest
from graph_pes.units import COULOMB_CONSTANT
from tests.strategies import structure_lists

#: Energies per pair of ions, times their distance: minus the constants of Madelung.
CRYSTALS = {
    "NaCl": (bulk("NaCl", "rocksalt", a=5.64), 5.64 / 2, 1.747564594633),
    "CsCl": (bulk("CsCl", "cesiumchloride", a=4.12), 4.12 * math.sqrt(3) / 2, 1.762674773070),
    "ZnS": (bulk("ZnS", "zincblende", a=5.4), 5.4 * math.sqrt(3) / 4, 1.638055053388),
}


def ions(name: str) -> dict[str, float]:
    first, second = CRYSTALS[name][0].symbols
    return {str(first): 1.0, str(second): -1.0}


def energy_of(model: GraphPESModel, atoms: ase.Atoms) -> float:
    graph = AtomicGraph.from_ase(atoms, model.cutoff_value, dtype=torch.float64)
    return model.double().predict_energy(graph).item()


def learned(cutoff: float = 3.5) -> LearnedCharges:
    network = PaiNN(channels=4, radial_features=4, layers=1, cutoff=cutoff)
    return LearnedCharges(network, initial={"Na": 0.7, "Cl": -0.6, "O": -0.5})


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize(("method", "tolerance"), [("ewald", 1e-8), ("pme", 1e-7)])
@pytest.mark.parametrize("cutoff", [4.0, 7.0])
def test_madelung(name: str, method: str, tolerance: float, cutoff: float) -> None:
    atoms, distance, constant = CRYSTALS[name]
    model = Ewald(ions(name), cutoff, method)
    for repeats in (1, 2):  # what is charge-free adds up
        energy = energy_of(model, atoms * (1, repeats, 1)) / repeats
        assert -energy * distance / COULOMB_CONSTANT == pytest.approx(constant, rel=tolerance)


@pytest.mark.parametrize("method", ["ewald", "pme"])
def test_any_place_in_the_cell(method: str) -> None:
    """The mesh is no part of the physics: atoms of a rattled crystal are moved together."""
    atoms = CRYSTALS["NaCl"][0] * (2, 2, 1)
    atoms.rattle(0.2, seed=0)
    model = Ewald(ions("NaCl"), 5.0, method)
    energy = energy_of(model, atoms)
    assert energy == pytest.approx(energy_of(Ewald(ions("NaCl"), 8.0), atoms), rel=1e-6)
    atoms.positions += [0.37, 1.21, -4.3]
    assert energy_of(model, atoms) == pytest.approx(energy, rel=1e-6)


def test_two_ions() -> None:
    pair = ase.Atoms("NaCl", [[0, 0, 0], [1.2, 0.5, 2.0]])
    expected = -COULOMB_CONSTANT / pair.get_distance(0, 1)
    assert energy_of(Ewald(ions("NaCl")), pair) == pytest.approx(expected, rel=1e-12)
    shifted = COULOMB_CONSTANT / 50 * (1 - pair.get_distance(0, 1) / 50)
    found = energy_of(Coulomb(ions("NaCl"), 50.0, 0.0), pair)
    assert found == pytest.approx(expected + shifted, rel=1e-12)
    # a large cell with nothing else in it: a dipole of images remains, which falls off as 1 / V
    pair.set_cell([40, 40, 40])
    pair.pbc = True
    assert energy_of(Ewald(ions("NaCl"), 10.0), pair) == pytest.approx(expected, rel=1e-3)


def test_charged_cell() -> None:
    """One charge in its background, in a cubic cell: -2.837297 q^2 / 2L (Makov and Payne)."""
    ion = ase.Atoms("Na", cell=[5.0] * 3, pbc=True)
    expected = -2.837297479 * COULOMB_CONSTANT / (2 * 5.0)
    assert energy_of(Ewald({"Na": 1.0}), ion) == pytest.approx(expected, rel=1e-8)


def test_damped_and_shifted() -> None:
    """The published formula, for two ions; nothing beyond the cutoff but the ions themselves."""
    alpha, end, r = 0.15, 9.0, 2.5
    v = math.erfc(alpha * end) / end
    slope = v / end + 2 * alpha / math.sqrt(math.pi) * math.exp(-((alpha * end) ** 2)) / end
    between = -(math.erfc(alpha * r) / r - v + slope * (r - end))
    own = -2 * (v / 2 + alpha / math.sqrt(math.pi))
    model = Coulomb(ions("NaCl"), end, alpha)
    for distance, expected in ((r, between + own), (9.5, own)):
        pair = ase.Atoms("NaCl", [[0, 0, 0], [0, distance, 0]])
        assert energy_of(model, pair) == pytest.approx(COULOMB_CONSTANT * expected, rel=1e-12)


def test_damped_and_shifted_is_close_to_ewald() -> None:
    atoms, distance, constant = CRYSTALS["NaCl"]
    energy = energy_of(Coulomb(ions("NaCl")), atoms)
    assert -energy * distance / COULOMB_CONSTANT == pytest.approx(constant, rel=2e-3)


@given(structures=structure_lists(elements=("H", "C", "O"), min_atoms=1))
def test_charge_is_conserved(structures: list[ase.Atoms]) -> None:
    model = learned().double().eval()
    for n, atoms in enumerate(structures):
        atoms.info["total_charge"] = float(n - 1)
    graphs = [AtomicGraph.from_ase(atoms, 3.5, dtype=torch.float64) for atoms in structures]
    batch = to_batch(graphs)
    charges = model.predict(batch, ["charges"])["charges"]
    sums = torch.zeros(len(graphs), dtype=torch.float64).index_add(0, batch.batch, charges)
    torch.testing.assert_close(sums, torch.arange(len(graphs)).double() - 1, rtol=0, atol=1e-9)
    neutral = model.predict(graphs[0]._replace(other={}), ["charges"])["charges"]
    assert abs(neutral.sum().item()) < 1e-9


@pytest.mark.parametrize("method", ["ewald", "pme"])
def test_derivatives_of_learned_charges(method: str) -> None:
    """Forces and stress are those of finite differences, charges moving along."""
    salt = CRYSTALS["NaCl"][0] * (2, 1, 1)
    salt.rattle(0.15, seed=1)
    water = molecule("H2O")
    water.info["total_charge"] = 1.0
    subject = ModelUnderTest(lambda: Ewald(learned(), 4.0, method), [salt, water])
    if method == "ewald":
        check_forces(subject)
        check_stress(subject.on([salt]))
        return
    # The energy of the mesh is a polynomial in pieces, whose slopes jump: finite differences
    # would see it. Forces are good to 1e-4.
    model = Ewald(learned(), 4.0, method).double()
    expected = Ewald(learned(), 4.0).double()
    expected.load_state_dict(model.state_dict())
    graph = AtomicGraph.from_ase(salt, 4.0, dtype=torch.float64)
    for key, value in expected.predict(graph, ["forces", "stress"]).items():
        found = model.predict(graph, ["forces", "stress"])[key]
        assert (found - value).abs().max() < 1e-4 * value.abs().max()


def test_trains_in_a_sum(tmp_path: Path) -> None:
    """Energies, forces and charges can be fitted at once: all parameters have gradients."""
    network = SchNet(cutoff=3.0, channels=4, layers=1)
    model = AdditionModel(network=network, ions=Ewald(learned(3.0), 4.0))
    assert "charges" in model.predictable_properties
    salt = CRYSTALS["NaCl"][0] * (1, 1, 2)
    salt.rattle(0.1, seed=2)
    graph = AtomicGraph.from_ase(salt, model.cutoff_value)
    model.pre_fit_all_components(
        [graph._replace(properties={"energy": torch.tensor(-8.0).double()})]
    )
    found = model.train().predict(graph, ["energy", "forces", "charges"])
    (found["energy"] + (found["forces"] ** 2).sum() + (found["charges"] ** 2).sum()).backward()
    of_charges = [p for p in model["ions"].parameters() if p.requires_grad]
    assert of_charges
    assert all(p.grad is not None and p.grad.isfinite().all() for p in of_charges)
    assert sum(p.grad.abs().sum() for p in of_charges) > 0
    save_model(model, tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt").eval()
    charges = again.predict(graph, ["charges"])["charges"]
    torch.testing.assert_close(charges, found["charges"].detach(), rtol=0, atol=1e-6)
    assert again.ase_calculator().get_potential_energy(salt) == pytest.approx(
        found["energy"].item(), abs=1e-5
    )


def test_ewald_runs_from_python_only(tmp_path: Path) -> None:
    model = AdditionModel(pairs=LennardJones(), electrostatics=Ewald(ions("NaCl"), 4.0))
    with pytest.raises(ExportError, match="Ewald calls the package torch-pme and runs from Python"):
        export_model(model, tmp_path / "model.pt2")
    metatomic = pytest.importorskip("graph_pes.deploy.metatomic")
    with pytest.raises(ExportError, match="Ewald calls the package torch-pme"):
        metatomic.export_metatomic(model, tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_learned_charges_reach_through_the_whole_structure(tmp_path: Path) -> None:
    """In programs, of which those for metatomic take the charge of the structure."""
    model = AdditionModel(pairs=LennardJones(), electrostatics=Coulomb(learned(), 4.0)).eval()
    metadata = export_model(model, tmp_path / "model.pt2", mode="portable")
    assert (metadata.whole_structure, metadata.assumed) == (True, ["total_charge"])
    pytest.importorskip("metatomic.torch")
    from metatomic.torch import load_atomistic_model

    from graph_pes.deploy.metatomic import export_metatomic

    export_metatomic(model, tmp_path / "model.pt")
    archive = load_atomistic_model(str(tmp_path / "model.pt"))
    assert archive.capabilities().interaction_range == float("inf")
    assert list(archive.requested_inputs(use_new_names=True)) == ["charge"]


def test_bad_input() -> None:
    with pytest.raises(TypeError, match="charges: expected numbers .* got LennardJones"):
        Coulomb(LennardJones())
    with pytest.raises(ValueError, match="cutoff: expected at least that of the charges, 3.5 Å"):
        Ewald(learned(), cutoff=3.0)
    with pytest.raises(ValueError, match="method: expected 'ewald' or 'pme', got 'p3m'"):
        Ewald({}, method="p3m")  # type: ignore[arg-type]
    slab = bulk("NaCl", "rocksalt", a=5.6)
    slab.pbc = [True, True, False]
    with pytest.raises(ValueError, match="structure 0 is periodic in some directions only"):
        energy_of(Ewald(ions("NaCl")), slab)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchpme", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[electrostatics\]'"):
        Ewald({})
