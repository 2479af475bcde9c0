"""Exported models predict what the models did."""

from __future__ import annotations

import zipfile
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given, settings

from graph_pes.atomic_graph import (
    AtomicGraph,
    neighbour_distances,
    structure_sizes,
    sum_over_neighbours,
    sum_per_structure,
    to_batch,
)
from graph_pes.deploy import ExportedModel, ExportError, export_model
from graph_pes.deploy.engine import EngineModel, atomic_virials_from, engine_inputs, forces_from
from graph_pes.deploy.export import check_agreement, check_locality
from graph_pes.deploy.trace import elements_of
from graph_pes.drivers.ase import GraphPESCalculator
from graph_pes.models import (
    EDDP,
    MACE,
    AdditionModel,
    FixedOffset,
    GraphPESModel,
    LennardJones,
    Morse,
    PaiNN,
    SmoothedPairPotential,
    TensorNet,
)
from graph_pes.testing.structures import standard_structures
from tests.conformance.models import MODELS, Row
from tests.strategies import structure_lists

KEYS = ["energy", "forces", "stress", "virial", "local_energies"]


def crystals(elements: tuple[str, ...]) -> AtomicGraph:
    """Three rattled crystals of different sizes."""
    first, last = elements[0], elements[-1]
    structures = [
        bulk(first, "diamond", a=3.9, cubic=True),
        bulk(first, "fcc", a=3.1) if first == last else bulk(first + last, "rocksalt", a=4.2),
        bulk(last, "bcc", a=2.6) * (2, 1, 1),
    ]
    for n, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=n)
    return to_batch([AtomicGraph.from_ase(s, 6.0, dtype=torch.float64) for s in structures])


def agree(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol: float) -> None:
    for key, value in expected.items():
        # forces may cancel, but their terms, and what is lost in rounding them, do not
        scale = max(float(value.abs().max()), 1e-3)
        torch.testing.assert_close(
            found[key].double(), value.double(), rtol=0, atol=rtol * scale, msg=key
        )


#: Direct forces without a mean or torque, direct stress, and charges that add up to a given one
#: belong to whole structures.
WHOLE_STRUCTURES = {"Orb", "Orb-direct-stress", "Coulomb-learned"}

#: Sums over reciprocal lattice vectors are those of another package.
CALLS_PACKAGE = {"Ewald", "Ewald-learned"}


@pytest.mark.parametrize(
    "row",
    [row for row in MODELS if row.name not in WHOLE_STRUCTURES | CALLS_PACKAGE],
    ids=lambda row: row.name,
)
def test_what_engines_call_gives_energies_forces_and_virial(row: Row) -> None:
    model = row.factory().double().eval()
    assert EngineModel(model).whole_structure is None
    check_locality(model)
    batch = crystals(tuple(row.elements))
    expected = model.predict(batch, KEYS)
    inputs = engine_inputs(batch, torch.float64)
    results = dict(zip(EngineModel(model).outputs, EngineModel(model)(*inputs), strict=True))
    if "gradients" in results:
        results["forces"] = forces_from(inputs, results["gradients"])
        W = atomic_virials_from(inputs, results["gradients"])
        results["virial"] = torch.stack([W[batch.batch == n].sum(0) for n in range(3)])
    keys = {"local_energies", "forces", "virial"} & results.keys()
    assert {"local_energies", "forces"} <= keys
    agree(results, {key: expected[key] for key in keys}, 1e-9)


@pytest.mark.parametrize("name", sorted(CALLS_PACKAGE))
def test_models_that_call_packages_are_not_for_engines(name: str, tmp_path: Path) -> None:
    (row,) = (row for row in MODELS if row.name == name)
    with pytest.raises(ExportError, match="Ewald calls the package torch-pme and runs from Python"):
        export_model(row.factory().double(), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "part", [LennardJones(), FixedOffset(H=1.0), Morse()], ids=lambda model: type(model).__name__
)
def test_models_are_whole_if_a_part_says_so(part: GraphPESModel) -> None:
    assert EngineModel(part).whole_structure is None
    assert EngineModel(AdditionModel(part=part, whole=OfAll())).whole_structure == "OfAll: a mean"


class Rough(GraphPESModel):
    """Loses three digits to rounding."""

    def __init__(self) -> None:
        super().__init__(3.0, ["local_energies"])
        self.shift = torch.nn.Parameter(torch.tensor(5000.0))

    def forward(self, graph: AtomicGraph) -> dict[str, torch.Tensor]:
        near = (3 - neighbour_distances(graph)).clamp(min=0)
        return {"local_energies": sum_over_neighbours((near + self.shift) - self.shift, graph)}


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1 + 1e-3, False)])
def test_files_may_be_as_far_from_the_model_as_it_is_off_by_rounding(
    factor: float, right: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that is exact is more than 1e-5 from the model in single precision."""
    export_model(Rough(), tmp_path / "model.pt2", mode="portable")
    metadata = ExportedModel(tmp_path / "model.pt2").metadata
    exact = EngineModel(Rough().double())

    def program(vectors: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
        return [factor * x for x in exact(vectors.double(), *others)]

    monkeypatch.setattr("graph_pes.deploy.export.read_exported", lambda path: (program, metadata))
    if right:
        errors = check_agreement(Rough(), "model.pt2", 1e-5)
        assert errors["local_energies"] > 1e-5
    else:
        with pytest.raises(ExportError, match="differs by"):
            check_agreement(Rough(), "model.pt2", 1e-5)


# --- whole structures ---------------------------------------------------------------------


class OfAll(GraphPESModel):
    """Pairs, in a field that is their mean over the structure."""

    needs_whole_structure = "a mean"

    def __init__(self) -> None:
        super().__init__(3.0, ["local_energies"])

    def forward(self, graph: AtomicGraph) -> dict[str, torch.Tensor]:
        pairs = sum_over_neighbours((1 - neighbour_distances(graph) / 3).clamp(min=0) ** 3, graph)
        mean = sum_per_structure(pairs, graph) / structure_sizes(graph).clamp(min=1)
        return {"local_energies": pairs * mean[graph.batch]}


class FromPositions(OfAll):
    """Depends on what engines do not differentiate with respect to."""

    def __init__(self, periodic: bool = True):
        super().__init__()
        self.periodic = periodic

    def forward(self, graph: AtomicGraph) -> dict[str, torch.Tensor]:
        assert graph.pbc is not None
        counts = graph.pbc.all(-1)[graph.batch] == self.periodic
        return {"local_energies": graph.R[:, 0] * counts}


def whole_models() -> dict[str, GraphPESModel]:
    models = {row.name: row.factory().double() for row in MODELS if row.name in WHOLE_STRUCTURES}
    torch.manual_seed(0)
    network = PaiNN(channels=4, layers=1, radial_features=4, cutoff=3.0)
    models["sum"] = AdditionModel(
        network=network, mean=OfAll(), offset=FixedOffset(H=-13.6)
    ).double()
    return {name: model.eval() for name, model in models.items()}


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    for name, model in whole_models().items():
        export_model(model, folder / f"{name}.pt2", mode="portable")
    return {name: folder / f"{name}.pt2" for name in whole_models()}


@pytest.mark.parametrize("name", [*sorted(WHOLE_STRUCTURES), "sum"])
def test_files_of_whole_structures_predict_what_the_model_does(
    name: str, whole_files: dict[str, Path]
) -> None:
    """Of crystals and molecules, slabs and wires, one by one and in batches."""
    model, exported = whole_models()[name], ExportedModel(whole_files[name])
    assert exported.metadata.whole_structure
    assert (exported.metadata.layers, exported.metadata.exchanges_ghosts) == (1, False)
    # forces of Orb are no derivatives
    lacks = {"stress", "virial"} if name == "Orb" else set()
    assert exported.predictable_properties == model.predictable_properties - lacks
    structures = [*standard_structures(("H", "C", "O")), molecule("CH4"), molecule("CO2")]
    for n, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=n)
    batch = to_batch([AtomicGraph.from_ase(s, 6.0, dtype=torch.float64) for s in structures])
    keys = sorted(exported.predictable_properties - {"stress"})
    agree(exported.predict(batch, keys), model.predict(batch, keys), 1e-9)
    crystal = next(s for s in structures if s.pbc.all())
    calculators = [GraphPESCalculator(model), GraphPESCalculator(exported)]
    for atoms in (crystal, structures[-2]):
        for step in range(3):
            atoms.rattle(0.02, seed=step)
            atoms.rotate(20 * step, "x", rotate_cell=True)
            expected, found = (c.calculate_all([atoms])[0] for c in calculators)
            values = [[c.get_potential_energy(atoms), c.get_forces(atoms)] for c in calculators]
            assert values[0][0] == pytest.approx(values[1][0], rel=1e-9)
            np.testing.assert_allclose(values[0][1], values[1][1], atol=1e-9)
            assert expected.keys() - found.keys() <= lacks
            for key, value in found.items():
                np.testing.assert_allclose(value, expected[key], atol=1e-9)


def test_atoms_that_do_not_count_are_no_part_of_the_structure() -> None:
    for name, model in whole_models().items():
        one, two = (
            AtomicGraph.from_ase(s, 6.0, dtype=torch.float64)
            for s in (molecule("CH3OH"), molecule("C2H6"))
        )
        both = to_batch([one, two])
        first = (both.batch == 0).double()
        function, inputs = EngineModel(model), engine_inputs(both, torch.float64)
        box = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
        found = function(*inputs._replace(mask=first), both.R, *box)
        alone = function(*engine_inputs(to_batch([one]), torch.float64), one.R, *box)
        for key, a, b in zip(function.outputs, found, alone, strict=True):
            if key in ("local_energies", "forces", "charges"):
                torch.testing.assert_close(a[: len(one.Z)], b, msg=f"{name} {key}")
            elif key == "stress":
                torch.testing.assert_close(a, b, msg=f"{name} {key}")


@pytest.mark.parametrize("periodic", [True, False])
def test_energies_of_positions_are_not_for_engines(periodic: bool, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="FromPositions predicts depend on positions or cells"):
        export_model(FromPositions(periodic), tmp_path / "model.pt2", mode="portable")
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_say_that_they_need_whole_structures(tmp_path: Path) -> None:
    class Silent(OfAll):
        needs_whole_structure = None

    with pytest.raises(ExportError, match="say so in the model: needs_whole_structure = 'why'"):
        export_model(Silent(), tmp_path / "model.pt2", mode="portable")


def test_models_are_tried_with_elements_they_were_made_for() -> None:
    assert elements_of(EDDP(elements=["Cu", "Zn"])) == [29, 30]
    assert elements_of(FixedOffset(Na=1.0)) == [11]


SMALL_MACE = {"channels": 2, "l_max": 1, "cutoff": 3.0, "weights_mlp": {"hidden_features": 4}}

# --- files --------------------------------------------------------------------------------


def network(channels: int = 4, seed: int = 0) -> GraphPESModel:
    torch.manual_seed(seed)
    return AdditionModel(
        network=PaiNN(channels=channels, layers=2, radial_features=4, cutoff=3.0),
        core=SmoothedPairPotential(LennardJones(cutoff=2.5, epsilon=0.01)),
        offset=FixedOffset(H=-13.6, C=-1030.5),
    )


@pytest.fixture(scope="module")
def model() -> GraphPESModel:
    return network().double()


@pytest.fixture(scope="module")
def path(model: GraphPESModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("portable") / "model.pt2"
    export_model(model, path, mode="portable")
    return path


@pytest.fixture(scope="module")
def exported(path: Path) -> ExportedModel:
    return ExportedModel(path)


@settings(deadline=None, max_examples=15)
@given(structure_lists(elements=("H", "C")))
def test_portable_files_predict_what_the_model_does(
    model: GraphPESModel, exported: ExportedModel, batch: list[ase.Atoms]
) -> None:
    graph = to_batch([AtomicGraph.from_ase(s, 3.0, dtype=torch.float64) for s in batch])
    keys = ["energy", "forces", "virial", "local_energies"]
    agree(exported.predict(graph, keys), model.eval().predict(graph, keys), 1e-9)


def test_files_name_what_engines_must_know(model: GraphPESModel, exported: ExportedModel) -> None:
    assert exported.cutoff_value == model.cutoff_value == 3.0
    assert exported.elements_seen == ["H", "C"]
    assert exported.dtype == torch.float64
    assert exported.metadata.outputs == ["local_energies", "gradients"]
    assert exported.metadata.energy_unit == "eV"
    # per atom in PaiNN: three scalars and a vector of 4 channels
    assert sum(exported.metadata.exchange_widths) >= 2 * 6 * 4  # forwards and backwards
    assert (exported.metadata.layers, exported.metadata.exchanges_ghosts) == (2, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neighbours": 3}, "expected neighbours from 0 to 1, got 0 to 3"),
        ({"neighbours": -1}, "expected neighbours from 0 to 1, got -1 to 1"),
        ({"Z": 119}, "expected atomic numbers from 0 to 118, got 1 to 119"),
    ],
)
def test_indices_that_compiled_code_would_not_check(
    exported: ExportedModel, change: dict[str, int], message: str
) -> None:
    batch = to_batch([AtomicGraph.from_ase(molecule("H2"), 3.0)])
    inputs = engine_inputs(batch, torch.float64)
    for name, value in change.items():
        getattr(inputs, name).view(-1)[0] = value
    with pytest.raises(ValueError, match=message):
        exported.evaluate(inputs, batch, ["energy"])


def test_elements_that_a_model_was_not_made_for_are_refused_as_by_the_model(
    tmp_path: Path,
) -> None:
    parts = {
        "one": MACE(["H", "C", "Si"], **SMALL_MACE),
        "two": MACE(["Si", "C", "O"], **SMALL_MACE),
    }
    model = AdditionModel(**parts).eval()
    export_model(model, tmp_path / "model.pt2", mode="portable")
    exported = ExportedModel(tmp_path / "model.pt2")
    assert exported.metadata.made_for == ["C", "Si"]
    message = r"the structure contains Ge, but the model was made for elements="
    known, unknown = bulk("SiC", "zincblende", a=4.4), bulk("Ge")
    for each in (model, exported):
        calculator = GraphPESCalculator(each)
        assert np.isfinite(calculator.get_potential_energy(known))
        with pytest.raises(ValueError, match=message):
            calculator.get_potential_energy(unknown)
        with pytest.raises(ValueError, match=message):
            each.predict(AtomicGraph.from_ase(unknown, 3.0), ["energy"])


def test_charges_that_a_program_does_not_know_of_are_refused(tmp_path: Path) -> None:
    """What is exported is the model of neutral structures."""
    model = TensorNet(channels=4, layers=1, cutoff=3.0, charged=True).eval()
    export_model(model, tmp_path / "model.pt2", mode="portable")
    exported = ExportedModel(tmp_path / "model.pt2")
    assert exported.metadata.assumed == ["total_charge"]
    calculator, atoms = GraphPESCalculator(exported), molecule("CH4")
    neutral = calculator.get_potential_energy(atoms)
    assert neutral == pytest.approx(GraphPESCalculator(model).get_potential_energy(atoms), rel=1e-5)
    atoms.info.update(total_charge=0, total_spin=3)  # of which this model knows nothing
    assert calculator.get_potential_energy(atoms) == neutral
    atoms.info["total_charge"] = -1
    message = r"expected a total_charge of 0, .* got \[-1.*\]: use the model itself"
    with pytest.raises(ValueError, match=message):
        calculator.get_potential_energy(atoms)
    with pytest.raises(ValueError, match=message):
        exported.predict(AtomicGraph.from_ase(atoms, 3.0), ["energy"])


def test_the_calculator_takes_files(model: GraphPESModel, path: Path) -> None:
    atoms = molecule("C2H6", cell=[8, 8, 8], pbc=True)
    atoms.rattle(0.05, seed=0)
    results = []
    for calculator in (GraphPESCalculator(path), GraphPESCalculator(model)):
        atoms.calc = calculator
        results.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


class NearbyEnergies(GraphPESModel):
    """Adds numbers to energies and gradients: what a wrong program would predict."""

    def __init__(self, model: GraphPESModel, error: float):
        super().__init__(model.cutoff_value, ["local_energies"])
        self.model, self.error = model, error

    def forward(self, graph: AtomicGraph) -> dict[str, torch.Tensor]:
        r = torch.linalg.norm(graph.other["_edge_vectors"], dim=-1)
        near = self.error * torch.where(r < self.cutoff, torch.sin(3 * r), 0.0)
        energies = self.model(graph)["local_energies"]
        return {"local_energies": energies.index_add(0, graph.neighbour_list[0], near)}


def test_files_that_differ_from_the_model_are_refused(model: GraphPESModel, path: Path) -> None:
    errors = check_agreement(model, str(path), 1e-9)
    assert set(errors) == {"local_energies", "gradients"}
    assert max(errors.values()) <= 1e-9
    for error, allowed in ((1e-3, 1e-5), (1e-6, 1e-9)):
        with pytest.raises(ExportError, match=r"of its largest value \(at most"):
            check_agreement(NearbyEnergies(model, error), str(path), allowed)
    # errors of tables are relative to the largest value of all sizes, not of each
    wrong = NearbyEnergies(model, 1e-6)
    largest = max(check_agreement(wrong, str(path), 1.0).values())
    with pytest.raises(ExportError, match=r"of its largest value \(at most"):
        check_agreement(wrong, str(path), 0.5 * largest)
    check_agreement(wrong, str(path), 1e-9, table_tolerance=0.5 * largest)


class Lookup(GraphPESModel):
    """Takes different ways for different structures, as programs can't."""

    def __init__(self) -> None:
        super().__init__(3.0, ["local_energies"])
        self.weight = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, graph: AtomicGraph) -> dict[str, torch.Tensor]:
        r = torch.linalg.norm(graph.other["_edge_vectors"], dim=-1)
        if r.min() < 1.0:
            r = 2 * r
        energies = torch.zeros_like(graph.R[:, 0])
        return {"local_energies": energies.index_add(0, graph.neighbour_list[0], r * self.weight)}


def test_models_that_can_not_be_traced_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Lookup can't be traced: .* values"):
        export_model(Lookup(), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


class Foreign(LennardJones):
    """Called as the networks of `graph_pes.interfaces` are."""

    calls_package = "chemistry"


def test_models_of_other_packages_are_refused_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = AdditionModel(network=Foreign(), offset=FixedOffset(H=-13.6))
    with pytest.raises(ExportError, match="Foreign calls the package chemistry .*native=True"):
        export_model(model, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())
    calculator = model.ase_calculator(compile=True)
    assert calculator.model is model
    assert "Foreign calls the package chemistry and runs from Python only" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "model.pt"}, "ends in .pt2"),
        ({"path": "model.pt2", "mode": "fast"}, "mode: expected 'compiled' or 'portable'"),
        ({"path": "model.pt2", "model": torch.nn.Linear(1, 1)}, "expected a GraphPESModel"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str, tmp_path: Path) -> None:
    arguments = {"model": LennardJones(), **arguments, "path": tmp_path / arguments["path"]}
    with pytest.raises(ExportError, match=message):
        export_model(**arguments)


def test_files_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no exported model"):
        ExportedModel(tmp_path / "model.pt2")
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(ExportError, match="expected a zip archive"):
        ExportedModel(tmp_path / "text.pt2")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("other/data", "1")
    with pytest.raises(ExportError, match="holds no model of graph-pes|was not made by"):
        ExportedModel(tmp_path / "other.pt2")


def test_truncated_files(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    (tmp_path / "half.pt2").write_bytes(content[: len(content) // 2])
    with pytest.raises(ExportError, match="damaged"):
        ExportedModel(tmp_path / "half.pt2")
