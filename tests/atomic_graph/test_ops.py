from __future__ import annotations

from collections.abc import Callable

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    as_neighbour_matrix,
    available_properties,
    divide_per_atom,
    edge_wise_softmax,
    edges_per_graph,
    get_cell_volume,
    get_vectors,
    has_cell,
    index_over_central_atoms,
    index_over_neighbours,
    is_batch,
    is_local_property,
    neighbour_distances,
    neighbour_vectors,
    number_of_atoms,
    number_of_edges,
    number_of_neighbours,
    number_of_structures,
    remove_mean_and_net_torque,
    replace,
    structure_sizes,
    sum_over_central_atom_index,
    sum_over_neighbours,
    sum_per_structure,
    to_batch,
    trim_edges,
    with_edge_vectors,
)
from tests.strategies import molecules, structure_lists, structures


def graph_of(atoms: ase.Atoms, cutoff: float = 3.0) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


# --- a batch is what its structures are, one after the other ---


def numbered(rows: int) -> Tensor:
    """Distinct values, shape (rows, 2)."""
    return torch.sin(torch.arange(2.0 * rows, dtype=torch.float64)).view(rows, 2)


def atoms_of(graph: AtomicGraph) -> Tensor:
    return graph.other["atoms"]


PER_ATOM: dict[str, Callable[[AtomicGraph], Tensor]] = {
    "number_of_neighbours": number_of_neighbours,
    "number_of_other_neighbours": lambda g: number_of_neighbours(g, include_central_atom=False),
    "sum_over_neighbours": lambda g: sum_over_neighbours(neighbour_vectors(g), g),
    "sum_over_central_atom_index": lambda g: sum_over_central_atom_index(
        neighbour_distances(g), g.neighbour_list[1], g
    ),
    "remove_mean_and_net_torque": lambda g: remove_mean_and_net_torque(
        sum_over_neighbours(neighbour_vectors(g), g) + atoms_of(g)[:, :1], g
    ),
}
PER_EDGE: dict[str, Callable[[AtomicGraph], Tensor]] = {
    "neighbour_vectors": neighbour_vectors,
    "neighbour_distances": neighbour_distances,
    "index_over_central_atoms": lambda g: index_over_central_atoms(atoms_of(g), g),
    "index_over_neighbours": lambda g: index_over_neighbours(atoms_of(g), g),
    "trim_edges": lambda g: number_of_neighbours(trim_edges(g, 2.0))[g.neighbour_list[0]],
    "softmax_senders": lambda g: edge_wise_softmax(neighbour_vectors(g), g, "senders"),
    "softmax_receivers": lambda g: edge_wise_softmax(neighbour_vectors(g), g, "receivers"),
    "get_vectors": lambda g: get_vectors(
        g, g.neighbour_list[1], g.neighbour_list[0], -g.neighbour_cell_offsets
    ),
}
PER_STRUCTURE: dict[str, Callable[[AtomicGraph], Tensor]] = {
    "sum_per_structure": lambda g: sum_per_structure(atoms_of(g), g),
    "structure_sizes": structure_sizes,
    "get_cell_volume": get_cell_volume,
    "divide_per_atom": lambda g: divide_per_atom(sum_per_structure(atoms_of(g), g), g),
}


@given(structure_lists())
def test_a_batch_is_its_structures(atoms: list[ase.Atoms]) -> None:
    graphs = [graph_of(a) for a in atoms]
    graphs = [replace(g, other={"atoms": numbered(len(g.Z))}) for g in graphs]
    batch = replace(
        to_batch([replace(g, other={}) for g in graphs]),
        other={"atoms": torch.cat([g.other["atoms"] for g in graphs])},
    )
    for functions, join in ((PER_ATOM | PER_EDGE, torch.cat), (PER_STRUCTURE, torch.stack)):
        for name, function in functions.items():
            expected = join([function(g) for g in graphs])
            torch.testing.assert_close(
                function(batch), expected, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert torch.equal(edges_per_graph(batch), torch.cat([edges_per_graph(g) for g in graphs]))
    assert number_of_atoms(batch) == sum(number_of_atoms(g) for g in graphs)
    assert number_of_edges(batch) == sum(number_of_edges(g) for g in graphs)
    assert number_of_structures(batch) == len(graphs)
    assert has_cell(batch) == any(has_cell(g) for g in graphs)
    assert is_batch(batch)
    assert not any(is_batch(g) for g in graphs)


def test_shapes_of_a_single_graph() -> None:
    graph = graph_of(molecule("H2O"))
    assert structure_sizes(graph).shape == ()
    assert edges_per_graph(graph).shape == (1,)
    assert get_cell_volume(graph).shape == ()
    assert number_of_structures(graph) == 1
    assert divide_per_atom(torch.tensor(6.0), graph) == 2
    assert sum_per_structure(torch.ones(3, 4), graph).tolist() == [3] * 4


def test_available_properties() -> None:
    water = molecule("H2O")
    water.info["energy"] = 1.0
    assert available_properties(AtomicGraph.from_ase(water)) == ["energy"]


@pytest.mark.parametrize(
    ("shape", "expected"), [((3,), True), ((3, 3), True), ((), False), ((4, 3), False)]
)
def test_is_local_property(shape: tuple[int, ...], expected: bool) -> None:
    assert is_local_property(torch.zeros(shape), graph_of(molecule("H2O"))) == expected


# --- geometry ---


@given(structures(pbc=True))
def test_volume(atoms: ase.Atoms) -> None:
    assert get_cell_volume(graph_of(atoms)).item() == pytest.approx(atoms.get_volume(), rel=1e-9)


def test_volume_without_a_cell() -> None:
    assert get_cell_volume(graph_of(molecule("H2O"))) == 0
    assert not has_cell(graph_of(molecule("H2O")))
    assert has_cell(graph_of(bulk("Cu")))


def test_prepared_edge_vectors() -> None:
    graph = graph_of(bulk("Cu"))
    doubled = with_edge_vectors(graph, 2 * neighbour_vectors(graph))
    torch.testing.assert_close(neighbour_distances(doubled), 2 * neighbour_distances(graph))
    assert "_edge_vectors" not in graph.other


def test_distance_zero_has_a_gradient() -> None:
    R = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    graph = AtomicGraph.create_with_defaults(
        Z=torch.ones(2, dtype=torch.long), R=R, neighbour_list=torch.tensor([[0, 1], [1, 0]])
    )
    (gradient,) = torch.autograd.grad(neighbour_distances(graph).sum(), R)
    assert torch.equal(gradient, torch.zeros(2, 3, dtype=torch.float64))


# --- sums, against loops ---


@given(structures(), st.sampled_from([(), (2,), (2, 3)]))
def test_sums_and_gathers(atoms: ase.Atoms, shape: tuple[int, ...]) -> None:
    graph = graph_of(atoms)
    per_edge = torch.randn(number_of_edges(graph), *shape, dtype=torch.float64)
    per_atom = torch.randn(len(atoms), *shape, dtype=torch.float64)
    i, j = graph.neighbour_list.tolist()
    expected = torch.zeros(len(atoms), *shape, dtype=torch.float64)
    for edge, atom in enumerate(i):
        expected[atom] += per_edge[edge]
    torch.testing.assert_close(sum_over_neighbours(per_edge, graph), expected)
    assert torch.equal(index_over_neighbours(per_atom, graph), per_atom[j])
    assert torch.equal(index_over_central_atoms(per_atom, graph), per_atom[i])
    matrix = as_neighbour_matrix(graph)
    i_of_matrix = matrix.neighbour_list[0]
    assert torch.equal(index_over_central_atoms(per_atom, matrix), per_atom[i_of_matrix])
    counts = [i.count(n) for n in range(len(atoms))]
    assert number_of_neighbours(graph, include_central_atom=False).tolist() == counts
    assert number_of_neighbours(graph).tolist() == [n + 1 for n in counts]


# --- softmax ---


@pytest.mark.parametrize("aggregation", ["senders", "receivers"])
@given(atoms=structures(min_atoms=2), columns=st.sampled_from([(), (3,)]))
def test_softmax(aggregation: str, atoms: ase.Atoms, columns: tuple[int, ...]) -> None:
    graph = graph_of(atoms)
    index = graph.neighbour_list[0 if aggregation == "senders" else 1]
    logits = torch.randn(number_of_edges(graph), *columns, dtype=torch.float64)
    weights = edge_wise_softmax(logits, graph, aggregation)  # type: ignore[arg-type]
    for atom in index.unique():
        torch.testing.assert_close(weights[index == atom], logits[index == atom].softmax(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("aggregation", ["senders", "receivers"])
def test_softmax_of_large_logits(dtype: torch.dtype, aggregation: str) -> None:
    graph = AtomicGraph.from_ase(molecule("CH4"), 3.0, dtype=dtype)
    index = graph.neighbour_list[0 if aggregation == "senders" else 1]
    logits = (1e4 * torch.randn(number_of_edges(graph), dtype=dtype)).requires_grad_()
    weights = edge_wise_softmax(logits, graph, aggregation)  # type: ignore[arg-type]
    sums = sum_over_central_atom_index(weights, index, graph)
    torch.testing.assert_close(sums, torch.ones(5, dtype=dtype))
    weights.square().sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    shifted = edge_wise_softmax(logits - 3e4, graph, aggregation)  # type: ignore[arg-type]
    torch.testing.assert_close(shifted, weights, rtol=1e-2, atol=1e-2)


def test_softmax_gradient() -> None:
    graph = graph_of(molecule("H2O"))
    logits = torch.randn(number_of_edges(graph), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: edge_wise_softmax(x, graph), logits)


def test_softmax_of_no_edges() -> None:
    graph = graph_of(molecule("H"))
    assert edge_wise_softmax(torch.zeros(0, 2), graph).shape == (0, 2)


def test_softmax_over_something_else() -> None:
    with pytest.raises(
        ValueError, match="expected aggregation 'senders' or 'receivers', got 'all'"
    ):
        edge_wise_softmax(torch.zeros(2), graph_of(molecule("H2")), "all")  # type: ignore[arg-type]


# --- net force and torque ---


def net_force_and_torque(v: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    return v.sum(0), torch.linalg.cross(R - R.mean(0), v).sum(0)


@given(molecules(min_distance=0.8))
def test_no_net_force_and_torque_remain(atoms: ase.Atoms) -> None:
    graph = graph_of(atoms)
    v = torch.randn(len(atoms), 3, dtype=torch.float64)
    corrected = remove_mean_and_net_torque(v, graph)
    force, torque = net_force_and_torque(corrected, graph.R)
    scale = 1 + (graph.R - graph.R.mean(0)).abs().max()
    assert force.abs().max() < 1e-12 * len(atoms)
    assert torque.abs().max() < 1e-11 * len(atoms) * scale
    # It is a projection: nothing is left to be done.
    torch.testing.assert_close(remove_mean_and_net_torque(corrected, graph), corrected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 1, 0), (1, 2, 3), (-0.3, 0.1, 7)])
@pytest.mark.parametrize("heights", [(0, 1.2), (0, 1.1, 2.3), (0, 1, 2, 3.3, 4.7)])
def test_linear_molecules(
    heights: tuple[float, ...], direction: tuple[float, ...], dtype: torch.dtype
) -> None:
    axis = np.array(direction) / np.linalg.norm(direction)
    atoms = ase.Atoms("C" * len(heights), [h * axis for h in heights])
    graph = AtomicGraph.from_ase(atoms, 3.0, dtype=dtype)
    v = torch.randn(len(atoms), 3, dtype=dtype)
    corrected = remove_mean_and_net_torque(v, graph)
    force, torque = net_force_and_torque(corrected, graph.R)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    assert force.abs().max() < tolerance
    assert torque.abs().max() < tolerance
    # Forces along the axis, without a mean, exert no torque: nothing to remove.
    along = torch.outer(v[:, 0] - v[:, 0].mean(), torch.tensor(axis, dtype=dtype))
    torch.testing.assert_close(
        remove_mean_and_net_torque(along, graph), along, rtol=0, atol=tolerance
    )


def test_single_atom_has_no_force() -> None:
    v = torch.ones(1, 3, dtype=torch.float64)
    assert torch.equal(remove_mean_and_net_torque(v, graph_of(molecule("H"))), 0 * v)


def test_torque_of_periodic_structures_stays() -> None:
    graph = graph_of(bulk("NaCl", "rocksalt", a=5.6))
    v = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(remove_mean_and_net_torque(v, graph), v - v.mean(0))


def test_smallest_correction() -> None:
    """What is removed is a rigid motion, orthogonal to what remains."""
    graph = graph_of(molecule("CH3CH2OH"))
    v = torch.randn(9, 3, dtype=torch.float64)
    corrected = remove_mean_and_net_torque(v, graph)
    assert abs(((v - corrected) * corrected).sum()) < 1e-12


def test_lattice_offsets_are_exact_in_half_precision() -> None:
    # float16 has no odd integers above 2048; the positions here are exact in it
    atoms = ase.Atoms("H2", [[0, 0, 0], [2050, 0.5, 0]], cell=[1, 9, 9], pbc=[True, False, False])
    graph = AtomicGraph.from_ase(atoms, cutoff=1.5, dtype=torch.float16)
    exact = AtomicGraph.from_ase(atoms, cutoff=1.5, dtype=torch.float64)
    assert exact.neighbour_cell_offsets.max() > 2048
    assert torch.equal(graph.neighbour_cell_offsets.double(), exact.neighbour_cell_offsets)
    assert torch.equal(neighbour_vectors(graph).double(), neighbour_vectors(exact))
    assert neighbour_vectors(graph).dtype == torch.float16
