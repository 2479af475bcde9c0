"""What archives of metatomic hold, and how they answer engines."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule

from graph_pes.atomic_graph import (
    PROPERTIES,
    AtomicGraph,
    Property,
    neighbour_distances,
    sum_over_neighbours,
    sum_per_structure,
)
from graph_pes.cli.export import main
from graph_pes.deploy import ExportError
from graph_pes.deploy.metatomic import Description, export_metatomic
from graph_pes.deploy.metatomic.export import interaction_range
from graph_pes.models import (
    AdditionModel,
    Committee,
    FixedOffset,
    GraphPESModel,
    LennardJones,
    SchNet,
    SmoothedPairPotential,
    save_model,
)

pytest.importorskip("metatomic.torch")
from metatensor.torch import Labels
from metatomic.torch import ModelOutput, load_atomistic_model
from metatomic_ase import MetatomicCalculator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

OWN = {
    "features": Property("atom", None, ""),
    "energy_uncertainty": Property("structure", (), "eV"),
    "energy_ensemble": Property("structure", None, "eV"),
    "polarity": Property("structure", (3,), "e Å"),
}


class Everything(GraphPESModel):
    """Energies with all that metatomic has a name for, which depend on charge and spin."""

    def __init__(self) -> None:
        super().__init__(3.0, ["local_energies", "forces", "stress", "charges", *OWN])
        self.scale = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, graph: AtomicGraph) -> dict[str, torch.Tensor]:
        near = self.scale * (1 - neighbour_distances(graph) / 3).clamp(min=0) ** 2
        e = sum_over_neighbours(near, graph)
        charge, spin = (graph.other[key] for key in ("total_charge", "total_spin"))
        total = sum_per_structure(e, graph)
        e = e + (0.1 * charge + 0.01 * spin)[graph.batch]
        xyz = torch.arange(3, dtype=e.dtype)
        return {
            "local_energies": e,
            "forces": e.unsqueeze(1) * xyz,
            "stress": total[:, None, None] * torch.outer(xyz, xyz),
            "charges": 2 * e,
            "features": torch.stack([e, e**2], dim=1),
            "energy_uncertainty": total / 7,
            "energy_ensemble": total.unsqueeze(1) * torch.tensor([0.9, 1.0, 1.1], dtype=e.dtype),
            "polarity": total.unsqueeze(1) * xyz,
        }


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[GraphPESModel, Path]:
    path = tmp_path_factory.mktemp("archive") / "everything.pt"
    with pytest.MonkeyPatch.context() as patch:
        for key, value in OWN.items():
            patch.setitem(PROPERTIES, key, value)
        model = Everything().double().eval()
        export_metatomic(model, path, dtype=torch.float64, devices=["cpu"])
    return model, path


def atoms_list() -> list[ase.Atoms]:
    """Two structures of different sizes, one of them periodic."""
    first, second = molecule("CH3OH"), bulk("C", cubic=True)
    second.rattle(0.1, seed=1)
    first.info.update(charge=1, spin_multiplicity=3)
    return [first, second]


def own_predictions(model: GraphPESModel) -> dict[str, torch.Tensor]:
    """What the model says of these structures."""
    from graph_pes.atomic_graph import to_batch

    batch = to_batch([AtomicGraph.from_ase(a, 3.0, dtype=torch.float64) for a in atoms_list()])
    known = {"total_charge": torch.tensor([1.0, 0.0]), "total_spin": torch.tensor([3.0, 1.0])}
    return model(batch._replace(other={**batch.other, **known}))


def asked(calculator: MetatomicCalculator, name: str, **options: object) -> tuple:
    """Values of an output, and labels of its samples."""
    kind = options.pop("kind", "system")
    outputs = {name: ModelOutput(sample_kind=kind)}
    block = calculator.run_model(atoms_list(), outputs, **options)[name].block()
    return block.values.detach(), block.samples.values, block


def test_all_outputs(everything: tuple[GraphPESModel, Path]) -> None:
    model, path = everything
    calculator = MetatomicCalculator(path, check_consistency=True)
    expected = own_predictions(model)
    names = {
        "energy": "local_energies",
        "non_conservative_force": "forces",
        "non_conservative_stress": "stress",
        "charge": "charges",
        "feature": "features",
        "energy_uncertainty": "energy_uncertainty",
        "energy_ensemble": "energy_ensemble",
        "graph_pes::polarity": "polarity",
    }
    capabilities = load_atomistic_model(path).capabilities()
    assert set(names) <= set(capabilities.outputs)
    for name, own in names.items():
        kind = capabilities.outputs[name].sample_kind
        values, samples, block = asked(calculator, name, kind=kind)
        torch.testing.assert_close(values.reshape(expected[own].shape), expected[own])
        assert len(samples) == {"atom": 14, "system": 2}[kind]
        assert len(block.components) == {"forces": 1, "stress": 2, "polarity": 1}.get(own, 0)
    assert capabilities.outputs["non_conservative_force"].unit == "eV/Angstrom"
    assert capabilities.outputs["graph_pes::polarity"].unit == "e*Angstrom"
    energies = asked(calculator, "energy")[0]
    totals = [expected["local_energies"][:6].sum(), expected["local_energies"][6:].sum()]
    torch.testing.assert_close(energies[:, 0], torch.stack(totals))


@pytest.mark.parametrize("kind", ["atom", "system"])
def test_selected_atoms(kind: str, everything: tuple[GraphPESModel, Path]) -> None:
    model, path = everything
    calculator = MetatomicCalculator(path, check_consistency=True)
    expected = own_predictions(model)["local_energies"].detach()
    for chosen in ([[1, 7], [0, 2], [1, 0]], [[1, 3]]):
        labels = Labels(["system", "atom"], torch.tensor(chosen, dtype=torch.int32))
        values, samples, _ = asked(calculator, "energy", kind=kind, selected_atoms=labels)
        rows = [6 * system + atom for system, atom in chosen]
        if kind == "atom":
            assert samples.tolist() == chosen
            torch.testing.assert_close(values[:, 0], expected[rows])
        else:
            systems = sorted({system for system, _ in chosen})
            assert samples[:, 0].tolist() == systems
            sums = [
                expected[[r for r, (s, _) in zip(rows, chosen, strict=True) if s == system]].sum()
                for system in systems
            ]
            torch.testing.assert_close(values[:, 0], torch.stack(sums))


def network() -> GraphPESModel:
    torch.manual_seed(0)
    return AdditionModel(
        network=SchNet(cutoff=3.0, channels=4, expansion_features=6, layers=2),
        offset=FixedOffset(H=-13.6, C=-1030.5),
    )


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the command, from a model in single precision."""
    folder = tmp_path_factory.mktemp("float32")
    save_model(network(), folder / "model.pt")
    arguments = "--format metatomic --name methane --author Ada --author Carl --reference doi:1/2"
    main([str(folder / "model.pt"), str(folder / "archive.pt"), *arguments.split()])
    return folder / "archive.pt"


def test_what_is_written_in_an_archive(in_float32: Path) -> None:
    archive = load_atomistic_model(in_float32)
    metadata, capabilities = archive.metadata(), archive.capabilities()
    assert (metadata.name, metadata.authors) == ("methane", ["Ada", "Carl"])
    assert metadata.references["model"] == ["doi:1/2"]
    assert metadata.references["implementation"][0].startswith("graph-pes")
    assert capabilities.dtype == "float32"
    assert capabilities.supported_devices == ["cuda", "cpu"]
    assert capabilities.atomic_types == [1, 6]
    assert (capabilities.length_unit, capabilities.outputs["energy"].unit) == ("Angstrom", "eV")
    assert capabilities.interaction_range == 6.0
    assert [options.cutoff for options in archive.requested_neighbor_lists()] == [3.0]


def test_single_precision_is_that_of_our_calculator(in_float32: Path) -> None:
    atoms = molecule("C6H6")
    atoms.calc = network().ase_calculator()
    other = atoms.copy()
    other.calc = MetatomicCalculator(in_float32, check_consistency=True)
    np.testing.assert_allclose(other.get_forces(), atoms.get_forces(), atol=1e-5)
    # sums are in double precision, but metatomic takes them in single
    error = abs(other.get_potential_energy() - atoms.get_potential_energy())
    assert error < 6e-8 * abs(atoms.get_potential_energy())


def test_dynamics(in_float32: Path) -> None:
    """The neighbours that metatomic keeps from step to step are complete."""

    from ase.md.verlet import VelocityVerlet

    model = network()
    frames = []
    for calculator in (MetatomicCalculator(in_float32), model.ase_calculator()):
        atoms = molecule("CH4")
        atoms.rattle(0.05, seed=2)
        atoms.calc = calculator
        VelocityVerlet(atoms, 0.5 * units.fs).run(10)
        frames.append(atoms.positions)
    np.testing.assert_allclose(*frames, atol=1e-4)


def test_what_is_refused(in_float32: Path) -> None:
    def energy(atoms: ase.Atoms) -> float:
        atoms.calc = MetatomicCalculator(in_float32)
        return atoms.get_potential_energy()

    with pytest.raises(Exception, match="does not support the atomic type '8'"):
        energy(molecule("H2O"))
    broken = molecule("CH4")
    broken.positions[1] = np.nan
    with pytest.raises(Exception, match=r"NaN|nan|finite"):
        energy(broken)
    flat = ase.Atoms("CH", [[0, 0, 0], [1, 0, 0]], cell=[3, 3, 0], pbc=True)
    with pytest.raises(Exception, match=r"cell|invertible|determinant"):
        energy(flat)


def test_an_atom_alone_and_no_neighbours(in_float32: Path) -> None:
    atoms = ase.Atoms("C")
    atoms.calc = MetatomicCalculator(in_float32, check_consistency=True)
    other = atoms.copy()
    other.calc = network().ase_calculator()
    assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), rel=1e-6)
    np.testing.assert_array_equal(atoms.get_forces(), 0)


def test_models_of_whole_structures_have_no_range() -> None:
    class Mean(GraphPESModel):
        def __init__(self) -> None:
            super().__init__(3.0, ["local_energies"])

        def forward(self, graph: AtomicGraph) -> dict[str, torch.Tensor]:
            e = sum_over_neighbours(neighbour_distances(graph).clamp(max=3) - 3, graph)
            return {"local_energies": e * sum_per_structure(e, graph)[graph.batch]}

    assert interaction_range(Mean()) == np.inf
    assert interaction_range(SmoothedPairPotential(LennardJones(cutoff=3.0))) == 3.0


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        (LennardJones(), "model.pt2", "ends in .pt, got 'model.pt2'"),
        (torch.nn.Linear(1, 1), "model.pt", "expected a GraphPESModel .* got Linear"),
    ],
)
def test_wrong_arguments(model: torch.nn.Module, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_metatomic(model, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_references_have_kinds() -> None:
    with pytest.raises(ValueError, match="expected architecture, implementation, model, got mine"):
        Description(references={"mine": ["doi"]})


def test_committees(tmp_path: Path) -> None:
    members = [LennardJones(3.0, epsilon, sigma=1.4) for epsilon in (0.08, 0.1, 0.11)]
    model = Committee(members).eval().double()
    export_metatomic(model, tmp_path / "committee.pt")
    calculator = MetatomicCalculator(tmp_path / "committee.pt", check_consistency=True)
    atoms = atoms_list()
    expected = model.ase_calculator().calculate_all(
        atoms, ["energy_ensemble", "energy_uncertainty"]
    )
    for name in ("energy_ensemble", "energy_uncertainty"):
        values, _, _ = asked(calculator, name)
        wanted = np.stack([np.atleast_1d(found[name]) for found in expected])
        np.testing.assert_allclose(values, wanted, rtol=1e-9)
    of_atoms, samples, _ = asked(calculator, "energy_ensemble", kind="atom")
    assert of_atoms.shape == (len(samples), 3) == (14, 3)
    first = atoms[0]
    first.calc = calculator
    assert np.isfinite(first.get_forces()).all()


def test_in_ipi(in_float32: Path, tmp_path: Path) -> None:
    """The driver that i-PI has for archives; it counts in atomic units."""
    pytest.importorskip("ipi")
    from ipi.pes.metatomic import MetatomicDriver

    atoms = bulk("C", cubic=True)
    atoms.rattle(0.1, seed=3)
    atoms.write(tmp_path / "start.xyz")
    driver = MetatomicDriver(template=str(tmp_path / "start.xyz"), model=str(in_float32))
    structure = atoms.cell.array.T / units.Bohr, atoms.positions / units.Bohr
    energy, forces, virial, _ = driver(*structure)
    atoms.calc = network().ase_calculator()
    expected = atoms.get_potential_energy()
    assert energy * units.Hartree == pytest.approx(expected, rel=1e-6)
    force_unit = units.Hartree / units.Bohr
    np.testing.assert_allclose(forces * force_unit, atoms.get_forces(), atol=1e-5)
    stress = -virial * units.Hartree / atoms.get_volume()
    np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-6)
