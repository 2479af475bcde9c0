from __future__ import annotations

import ase
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    get_cell_volume,
    neighbour_distances,
    neighbour_vectors,
    number_of_structures,
    sum_over_neighbours,
    sum_per_structure,
    to_batch,
)
from graph_pes.models.derivatives import (
    checked_volumes,
    edge_derivatives,
    energy_and_derivatives,
    has_volume,
    stress_from_virial,
    total_energy,
    virial_from_stress,
)
from graph_pes.testing import CHECKS, ModelUnderTest
from tests.conformance.wrong_models import Toy
from tests.strategies import periodic_structures, structure_lists, structures


def graph_of(atoms: ase.Atoms, cutoff: float = 3.0) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


def spring(graph: AtomicGraph) -> dict[str, Tensor]:
    """Each pair of neighbours has the energy (r - 1)²; half of it for each direction."""
    r = neighbour_distances(graph)
    return {"local_energies": sum_over_neighbours(0.5 * (r - 1) ** 2, graph)}


def angular(graph: AtomicGraph) -> dict[str, Tensor]:
    """A many-body energy that depends on angles: the squared sum of neighbour vectors."""
    v = neighbour_vectors(graph)
    smooth = (3 - v.norm(dim=-1, keepdim=True)).clamp(min=0) ** 3
    return {"local_energies": sum_over_neighbours(v * smooth, graph).square().sum(-1)}


def derivatives(graph: AtomicGraph, energy=spring, keep_graph: bool = False) -> dict[str, Tensor]:
    return energy_and_derivatives(energy, graph, forces=True, virial=True, keep_graph=keep_graph)


# --- against analytic values ---


def test_stretched_spring() -> None:
    batch = to_batch([graph_of(ase.Atoms("H2", [[0, 0, 0], [1.5, 0, 0]]))])
    found = derivatives(batch)
    assert found["energy"].tolist() == [0.25]
    # It pulls the atoms together with dE/dr = 2 (r - 1) = 1 ...
    assert found["forces"].tolist() == [[1, 0, 0], [-1, 0, 0]]
    # ... and the virial is -r dE/dr.
    assert found["virial"].tolist() == [[[-1.5, 0, 0], [0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize(("a", "sign"), [(1.2, 1), (0.9, -1)])
def test_stress_is_positive_under_tension(a: float, sign: int) -> None:
    """A chain of springs along x in a cell of 1 Å × 1 Å: stress = (dE/da) / area."""
    chain = ase.Atoms("H", cell=[a, 10, 10], pbc=True)
    batch = to_batch([graph_of(chain, cutoff=1.5)])
    found = derivatives(batch)
    stress = stress_from_virial(found["virial"], batch)
    assert stress[0, 0, 0].item() == pytest.approx(2 * (a - 1) / 100)
    assert stress[0, 0, 0].sign() == sign
    assert stress[0].abs().sum() == stress[0, 0, 0].abs()
    assert found["forces"].tolist() == [[0, 0, 0]]


# --- against finite differences, for many-body energies ---


@given(structures(max_atoms=4, min_distance=0.7))
def test_strain_route(atoms: ase.Atoms) -> None:
    subject = ModelUnderTest(Toy, structures=[atoms])
    for check in ("forces", "stress", "virial"):
        CHECKS[check](subject)


# --- the two routes ---


@pytest.mark.parametrize("energy", [spring, angular])
@given(atoms=structure_lists(max_atoms=5))
def test_both_routes_agree(energy, atoms: list[ase.Atoms]) -> None:
    batch = to_batch([graph_of(a) for a in atoms])
    strain, edges = derivatives(batch, energy), edge_derivatives(energy, batch)
    torch.testing.assert_close(edges.forces(batch), strain["forces"])
    torch.testing.assert_close(edges.virial(batch), strain["virial"])
    torch.testing.assert_close(total_energy(edges.local_energies, batch), strain["energy"])
    of_atoms = edges.atomic_virials(batch)
    assert of_atoms.shape == (len(batch.Z), 3, 3)
    torch.testing.assert_close(of_atoms, of_atoms.transpose(1, 2))
    torch.testing.assert_close(sum_per_structure(of_atoms, batch), strain["virial"])


@given(structures(max_atoms=5))
def test_edge_route_of_a_single_graph(atoms: ase.Atoms) -> None:
    graph = graph_of(atoms)
    edges = edge_derivatives(spring, graph)
    strain = derivatives(to_batch([graph]))
    torch.testing.assert_close(edges.forces(graph), strain["forces"])
    torch.testing.assert_close(edges.virial(graph), strain["virial"])


def test_atomic_virials_of_equivalent_atoms_are_equal() -> None:
    graph = graph_of(bulk("Cu", cubic=True), cutoff=3.0)
    virials = edge_derivatives(spring, graph).atomic_virials(graph)
    torch.testing.assert_close(virials, virials[:1].expand(4, 3, 3))


def test_edge_route_hides_positions() -> None:
    """A model that uses positions in another way gives NaN, not forces that are wrong."""

    def confined(graph: AtomicGraph) -> dict[str, Tensor]:
        trap = graph.R.square().sum(-1)
        return {"local_energies": spring(graph)["local_energies"] + trap}

    graph = graph_of(molecule("H2O"))
    assert edge_derivatives(confined, graph).local_energies.isnan().all()
    assert derivatives(to_batch([graph]), confined)["forces"].isfinite().all()


@pytest.mark.parametrize("keep_graph", [True, False])
def test_keeping_the_graph(keep_graph: bool) -> None:
    batch = to_batch([graph_of(molecule("CH4"))])
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def scaled(graph: AtomicGraph) -> dict[str, Tensor]:
        return {"local_energies": k * spring(graph)["local_energies"]}

    strain, edges = (
        derivatives(batch, scaled, keep_graph),
        edge_derivatives(scaled, batch, keep_graph),
    )
    found = {
        "forces": strain["forces"],
        "virial": strain["virial"],
        "edge forces": edges.forces(batch),
        "edge virial": edges.virial(batch),
    }
    for name, value in found.items():
        assert value.requires_grad == keep_graph, name
        if keep_graph:  # all are proportional to k
            (slope,) = torch.autograd.grad(value.flatten()[0], k, retain_graph=True)
            torch.testing.assert_close(slope, value.flatten()[0].detach() / 2)


# --- energies that do not depend on everything ---


def test_energy_that_does_not_depend_on_positions() -> None:
    batch = to_batch([graph_of(molecule("H2O")), graph_of(bulk("Cu"))])
    offset = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    for value in (offset, offset.detach()):
        found = derivatives(batch, lambda g, v=value: {"local_energies": v * g.Z.double()})
        assert found["energy"].tolist() == [-10, -29]
        assert torch.equal(found["forces"], torch.zeros(4, 3, dtype=torch.float64))
        assert torch.equal(found["virial"], torch.zeros(2, 3, 3, dtype=torch.float64))


def test_only_what_is_asked_for() -> None:
    batch = to_batch([graph_of(molecule("H2O"))])
    found = energy_and_derivatives(spring, batch, forces=False, virial=False, keep_graph=False)
    assert found.keys() == {"local_energies", "energy"}
    found = energy_and_derivatives(spring, batch, forces=False, virial=True, keep_graph=False)
    assert found.keys() == {"local_energies", "energy", "virial"}


def test_energies_are_summed_in_double_precision() -> None:
    graph = to_batch([graph_of(molecule("CH4"))])
    local = torch.tensor([1e8, 1.0, 1.0, 1.0, 1.0], dtype=torch.float32)
    assert total_energy(local, graph).item() == 1e8 + 4


# --- stress and volume ---


@given(periodic_structures(max_atoms=3))
def test_stress_and_virial_are_inverse(atoms: ase.Atoms) -> None:
    batch = to_batch([graph_of(atoms), graph_of(bulk("Cu"))])
    virial = torch.randn(number_of_structures(batch), 3, 3, dtype=torch.float64)
    stress = stress_from_virial(virial, batch)
    torch.testing.assert_close(stress * get_cell_volume(batch).view(-1, 1, 1), -virial)
    torch.testing.assert_close(virial_from_stress(stress, batch), virial)


CELLS = {
    "none": torch.zeros(3, 3),
    "wire": torch.diag(torch.tensor([1.0, 0, 0])),
    "slab": torch.diag(torch.tensor([1.0, 2, 0])),
    "flat": torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]),
    "almost flat": torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 1e-8]]),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_cells_without_volume(cell: Tensor) -> None:
    good = graph_of(bulk("Cu"))
    bad = good._replace(cell=cell.double())
    assert has_volume(good)
    assert not has_volume(bad)
    with pytest.raises(ValueError, match="the structure has no cell, or one of zero volume"):
        checked_volumes(to_batch([bad]))
    with pytest.raises(ValueError, match="structure 2 of the batch has no cell"):
        checked_volumes(to_batch([good, good, bad]))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_small_and_large_cells_have_a_volume(scale: float) -> None:
    graph = graph_of(bulk("Cu"))
    batch = to_batch([graph._replace(cell=graph.cell * scale)])
    torch.testing.assert_close(checked_volumes(batch), get_cell_volume(batch))
