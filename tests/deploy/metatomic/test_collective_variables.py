"""Functions of structures as archives, which PLUMED reads."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.cluster import Octahedron

from graph_pes.atomic_graph import (
    AtomicGraph,
    neighbour_distances,
    sum_over_neighbours,
    sum_per_structure,
    to_batch,
)
from graph_pes.deploy import ExportError, export_cv
from graph_pes.models import LennardJones

pytest.importorskip("metatomic.torch")
from metatensor.torch import Labels, TensorBlock
from metatomic.torch import (
    AtomisticModel,
    ModelEvaluationOptions,
    ModelOutput,
    System,
    load_atomistic_model,
    systems_to_torch,
)
from vesin.metatomic import neighbor_lists_for_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EXAMPLE = Path(__file__).parents[3] / "examples" / "lj38" / "collective_variables.py"
OPTIONS = ModelEvaluationOptions("Angstrom", {"feature": ModelOutput(sample_kind="system")})


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The example, which is executed."""
    spec = importlib.util.spec_from_file_location("lj38_variables", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def add_neighbours(systems: list[System], model: AtomisticModel) -> None:
    for calculator in neighbor_lists_for_model("angstrom", model):
        calculator.add_neighbor_list(systems)


def cluster(seed: int) -> Atoms:
    atoms = Octahedron("Ar", 4, 1, latticeconstant=5.3)
    atoms.rattle(0.2, seed=seed)
    return atoms


def test_variables_of_the_octahedron(example: ModuleType) -> None:
    """24 corners with 6 neighbours, 8 atoms in the faces with 9, 6 inside with 12."""
    atoms = Octahedron("Ar", 4, 1, latticeconstant=5.3)
    batch = to_batch([AtomicGraph.from_ase(atoms, 5.5, dtype=torch.float64)])
    n6, n8 = example.histogram(batch)[0].tolist()
    assert 20 < n6 < 24.5
    assert n8 < 2
    q4, q6 = example.Steinhardt()(batch)[0].tolist()
    assert 0.1 < q4 < q6 < 1


@pytest.mark.parametrize("name", ["histogram", "Steinhardt"])
def test_values_and_gradients(name: str, example: ModuleType, tmp_path: Path) -> None:
    """Those of the function, and of finite differences, for two structures at once."""
    function = getattr(example, name)
    function = function() if isinstance(function, type) else function
    path = tmp_path / "cv.pt"
    export_cv(function, path, cutoff=5.5)
    model = load_atomistic_model(path)

    def values(structures: list, **options: bool) -> tuple[torch.Tensor, list[System]]:
        systems = systems_to_torch(structures, dtype=torch.float64, **options)
        add_neighbours(systems, model)
        block = model(systems, OPTIONS, check_consistency=True)["feature"].block()
        return block.values, systems

    structures = [cluster(1), cluster(2)[:20]]
    found, systems = values(structures, positions_requires_grad=True)
    batch = to_batch([AtomicGraph.from_ase(a, 5.5, dtype=torch.float64) for a in structures])
    torch.testing.assert_close(found, function(batch))
    h = 1e-5
    for k in range(2):
        (gradient,) = torch.autograd.grad(found[0, k], systems[0].positions, retain_graph=True)
        moved = []
        for sign in (1, -1):
            other = structures[0].copy()
            other.positions[3 + k, k] += sign * h
            moved.append(values([other])[0][0, k].item())
        difference = (moved[0] - moved[1]) / (2 * h)
        assert gradient[3 + k, k].item() == pytest.approx(difference, rel=1e-5, abs=1e-7)


def test_plumed_asks_for_the_size_without_atoms(example: ModuleType, tmp_path: Path) -> None:
    export_cv(example.histogram, tmp_path / "cv.pt", cutoff=5.5)
    model = load_atomistic_model(tmp_path / "cv.pt")
    nobody = System(
        types=torch.zeros(0, dtype=torch.int32),
        positions=torch.zeros(0, 3, dtype=torch.float64),
        cell=torch.zeros(3, 3, dtype=torch.float64),
        pbc=torch.zeros(3, dtype=torch.bool),
    )
    (options,) = model.requested_neighbor_lists()
    names = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
    empty = TensorBlock(
        values=torch.zeros(0, 3, 1, dtype=torch.float64),
        samples=Labels(names, torch.zeros(0, 5, dtype=torch.int32)),
        components=[Labels.range("xyz", 3)],
        properties=Labels.range("distance", 1),
    )
    nobody.add_neighbor_list(options, empty)
    found = model([nobody], OPTIONS, check_consistency=True)["feature"].block()
    assert found.values.shape == (1, 2)
    assert len(found.properties) == 2


def test_functions_see_no_edges_beyond_the_cutoff(tmp_path: Path) -> None:
    """Although they count in full what is there."""

    def count(graph: AtomicGraph) -> torch.Tensor:
        return sum_per_structure(sum_over_neighbours(neighbour_distances(graph) ** 0, graph), graph)

    export_cv(count, tmp_path / "cv.pt", cutoff=4.2)
    model = load_atomistic_model(tmp_path / "cv.pt")
    systems = systems_to_torch(Octahedron("Ar", 4, 1, latticeconstant=5.3), dtype=torch.float64)
    add_neighbours([systems], model)
    values = model([systems], OPTIONS, check_consistency=True)["feature"].block().values
    assert values.tolist() == [[24 * 6 + 8 * 9 + 6 * 12]]


def test_models_and_wrong_functions(tmp_path: Path) -> None:
    export_cv(LennardJones(cutoff=3.0), tmp_path / "energies.pt")
    outputs = load_atomistic_model(tmp_path / "energies.pt").capabilities().outputs
    assert outputs["feature"].sample_kind == "atom"
    with pytest.raises(ExportError, match="needs a cutoff"):
        export_cv(neighbour_distances, tmp_path / "cv.pt")
    with pytest.raises(ExportError, match=r"expected \(4,\) or \(4, K\): sum over atoms"):
        export_cv(neighbour_distances, tmp_path / "cv.pt", cutoff=3.0)
    with pytest.raises(ExportError, match="an output among .'local_energies'., got 'dipole'"):
        export_cv(LennardJones(), tmp_path / "cv.pt", output="dipole")
    assert not (tmp_path / "cv.pt").exists()


def test_numbers_are_finite_for_atoms_far_apart(example: ModuleType) -> None:
    graph = AtomicGraph.from_ase(Octahedron("Ar", 4, 1, latticeconstant=20), 5.5)
    batch = to_batch([graph])
    for function in (example.histogram, example.Steinhardt()):
        assert np.isfinite(function(batch).detach().numpy()).all()
