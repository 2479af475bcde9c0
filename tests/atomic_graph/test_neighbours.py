from __future__ import annotations

from unittest import mock

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given
from hypothesis import strategies as st

from graph_pes.atomic_graph import (
    AtomicGraph,
    as_directed,
    as_neighbour_matrix,
    is_neighbour_matrix,
    keep_at_most_k_neighbours,
    lists,
    neighbour_distances,
    neighbour_list,
    neighbour_matrix,
    neighbour_pairs,
    neighbour_vectors,
    number_of_edges,
    number_of_neighbours,
    select_edges,
    sum_outer_products_over_neighbours,
    sum_over_neighbours,
    to_batch,
    trim_edges,
    triplet_edges,
    undirected_edges,
    with_edge_vectors,
    with_triplets,
)
from tests.strategies import structure_lists, structures

cutoffs = st.floats(1.0, 5.0)


def edge_set(graph: AtomicGraph) -> list[tuple[int, ...]]:
    """Edges as sorted tuples (i, j, shifts)."""
    return sorted(map(tuple, edge_columns(graph).tolist()))


def edge_columns(graph: AtomicGraph) -> torch.Tensor:
    """The numbers (i, j, shifts) of each edge, shape (E, 5)."""
    return torch.cat([graph.neighbour_list, graph.neighbour_cell_offsets.T.long()]).T


@given(structures(), cutoffs)
def test_same_edges_as_ase(atoms: ase.Atoms, cutoff: float) -> None:
    graph = AtomicGraph.from_ase(atoms, cutoff)
    i, j, shifts = neighbor_list("ijS", atoms, cutoff)
    expected = sorted(map(tuple, np.column_stack([i, j, shifts]).tolist()))
    assert edge_set(graph) == expected


@given(structures(), cutoffs)
def test_the_list_for_gpus_is_the_same(atoms: ase.Atoms, cutoff: float) -> None:
    """The torch version of vesin, which lists are made with on a GPU, also runs on the CPU."""
    R, cell = (torch.from_numpy(x.copy()) for x in (atoms.positions, atoms.cell.array))
    arguments = R, cell, torch.tensor(atoms.pbc), cutoff
    expected = neighbour_list(*arguments)
    with mock.patch.object(lists, "_vesin_on_cpu", lists._vesin_on_device):
        found = neighbour_list(*arguments)
    for edges, _ in (expected, found):
        assert (edges[0].diff() >= 0).all()
    rows = [sorted(torch.cat([e, o.T.long()]).T.tolist()) for e, o in (expected, found)]
    assert rows[0] == rows[1]


@given(structures(), cutoffs)
def test_vectors_and_distances(atoms: ase.Atoms, cutoff: float) -> None:
    graph = AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)
    i, j, shifts, vectors = neighbor_list("ijSD", atoms, cutoff)
    expected = {(a, b, *s): v for a, b, s, v in zip(i, j, shifts.tolist(), vectors, strict=True)}
    columns = torch.cat([graph.neighbour_list, graph.neighbour_cell_offsets.T.long()]).T
    found = neighbour_vectors(graph)
    for key, vector in zip(columns.tolist(), found, strict=True):
        np.testing.assert_allclose(vector, expected[tuple(key)], atol=1e-9)
    torch.testing.assert_close(neighbour_distances(graph), found.norm(dim=-1))
    assert (neighbour_distances(graph) <= cutoff).all()


@given(structures())
def test_sorted_by_central_atom_and_in_both_directions(atoms: ase.Atoms) -> None:
    graph = AtomicGraph.from_ase(atoms, 4.0)
    assert (graph.neighbour_list[0].diff() >= 0).all()
    edges = edge_set(graph)
    assert edges == sorted((j, i, -a, -b, -c) for i, j, a, b, c in edges)
    assert not any(i == j and (a, b, c) == (0, 0, 0) for i, j, a, b, c in edges)


def test_dtypes_of_edges() -> None:
    graph = AtomicGraph.from_ase(bulk("Cu"), 3.0, dtype=torch.float32)
    assert graph.neighbour_list.dtype == torch.int64
    assert graph.neighbour_cell_offsets.dtype == torch.float32


def test_images_of_an_atom_itself() -> None:
    graph = AtomicGraph.from_ase(bulk("Po", "sc", a=1.0), cutoff=2.01)
    # 6 at distance 1, 12 at √2, 8 at √3, 6 at 2
    assert number_of_edges(graph) == 32


def test_no_edges_without_a_cutoff() -> None:
    assert number_of_edges(AtomicGraph.from_ase(molecule("H2O"), 0.0)) == 0


def test_no_atoms() -> None:
    edges, offsets = neighbour_list(
        torch.zeros(0, 3), torch.zeros(3, 3), torch.zeros(3, dtype=torch.bool), 3.0
    )
    assert edges.shape == (2, 0)
    assert offsets.shape == (0, 3)


# --- bad input ---


def test_periodic_direction_without_lattice_vector() -> None:
    atoms = ase.Atoms("H2", [[0, 0, 0], [0, 0, 1]], cell=[3, 3, 0], pbc=True)
    with pytest.raises(ValueError, match="periodic along c, but that lattice vector is zero"):
        AtomicGraph.from_ase(atoms)
    atoms.pbc = (True, True, False)
    assert number_of_edges(AtomicGraph.from_ase(atoms, 1.1)) == 2


def test_cell_of_zero_volume() -> None:
    atoms = ase.Atoms("H", cell=[[1, 0, 0], [0, 1, 0], [1, 1, 0]], pbc=True)
    with pytest.raises(ValueError, match="zero volume"):
        AtomicGraph.from_ase(atoms)
    # Lattice vectors of directions that are not periodic do not matter.
    atoms.pbc = (True, True, False)
    assert number_of_edges(AtomicGraph.from_ase(atoms, 1.1)) == 4
    atoms.pbc = False
    assert number_of_edges(AtomicGraph.from_ase(atoms)) == 0


def test_wire_with_parallel_lattice_vectors() -> None:
    atoms = ase.Atoms("H", cell=[[1, 0, 0], [1, 0, 0], [0, 0, 0]], pbc=(True, False, False))
    assert number_of_edges(AtomicGraph.from_ase(atoms, 2.1)) == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite(bad: float) -> None:
    atoms = molecule("H2O")
    atoms.positions[1, 2] = bad
    with pytest.raises(ValueError, match="positions must be finite, but atom 1 is at"):
        AtomicGraph.from_ase(atoms)


# --- changes to neighbour lists ---


@given(structures(), st.floats(1.0, 4.0))
def test_trimming_is_rebuilding(atoms: ase.Atoms, cutoff: float) -> None:
    longer = AtomicGraph.from_ase(atoms, 4.5, dtype=torch.float64)
    trimmed = trim_edges(longer, cutoff)
    assert edge_set(trimmed) == edge_set(AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64))
    assert trimmed.cutoff == cutoff
    assert (trimmed.neighbour_list[0].diff() >= 0).all()
    assert longer.cutoff == 4.5


@given(structure_lists())
def test_trimming_a_batch_is_batching_trimmed_graphs(atoms: list[ase.Atoms]) -> None:
    graphs = [AtomicGraph.from_ase(a, 4.0, dtype=torch.float64) for a in atoms]
    of_batch = trim_edges(to_batch(graphs), 2.5)
    batch_of = to_batch([trim_edges(g, 2.5) for g in graphs])
    assert torch.equal(of_batch.neighbour_list, batch_of.neighbour_list)
    assert torch.equal(of_batch.neighbour_cell_offsets, batch_of.neighbour_cell_offsets)


def test_trimming_to_the_same_or_a_longer_cutoff() -> None:
    graph = AtomicGraph.from_ase(molecule("CH4"), 2.0)
    assert trim_edges(graph, 2.0) is graph
    message = r"neighbours up to 3 Å are needed, but the graph only lists them up to 2 Å"
    with pytest.raises(ValueError, match=message):
        trim_edges(graph, 3.0)


@given(structures(min_atoms=2))
def test_selecting_edges_keeps_what_is_derived_from_them(atoms: ase.Atoms) -> None:
    graph = AtomicGraph.from_ase(atoms, 4.0, dtype=torch.float64)
    prepared = with_triplets(with_edge_vectors(graph, neighbour_vectors(graph) + 0.0), 3.0)
    keep = torch.rand(number_of_edges(graph)) > 0.4
    selected = select_edges(prepared, keep)
    assert torch.equal(neighbour_vectors(selected), neighbour_vectors(graph)[keep])
    assert torch.equal(selected.neighbour_list, graph.neighbour_list[:, keep])
    assert number_of_edges(graph) == len(keep)


@given(structures(), st.integers(1, 100))
def test_nearest_neighbours_in_a_matrix(atoms: ase.Atoms, k: int) -> None:
    graph = AtomicGraph.from_ase(atoms, 4.0, dtype=torch.float64)
    expected = keep_at_most_k_neighbours(graph, k)
    matrix = keep_at_most_k_neighbours(as_neighbour_matrix(graph), k)
    assert is_neighbour_matrix(matrix)
    assert len(neighbour_matrix(matrix)) == len(atoms)
    counts = torch.bincount(expected.neighbour_list[0], minlength=len(atoms))
    assert torch.equal(number_of_neighbours(matrix, include_central_atom=False), counts)
    near = neighbour_distances(matrix) <= 4.0
    assert edge_set(select_edges(matrix, near)) == edge_set(expected)
    beyond = select_edges(matrix, ~near)
    assert torch.equal(*beyond.neighbour_list)
    assert undirected_edges(matrix) is None


@given(structures(), st.integers(0, 30))
def test_nearest_neighbours_against_brute_force(atoms: ase.Atoms, k: int) -> None:
    graph = AtomicGraph.from_ase(atoms, 4.0, dtype=torch.float64)
    kept = keep_at_most_k_neighbours(graph, k)
    assert (kept.neighbour_list[0].diff() >= 0).all()
    assert set(edge_set(kept)) <= set(edge_set(graph))
    for atom in range(len(atoms)):
        every = neighbour_distances(graph)[graph.neighbour_list[0] == atom].sort().values
        nearest = neighbour_distances(kept)[kept.neighbour_list[0] == atom].sort().values
        torch.testing.assert_close(nearest, every[:k], rtol=0, atol=0)


# --- pairs of edges ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(atoms=structure_lists(), cutoff=st.floats(1.0, 4.0))
def test_undirected_edges_and_their_reverses_are_all_edges(
    dtype: torch.dtype, atoms: list[ase.Atoms], cutoff: float
) -> None:
    batch = to_batch([AtomicGraph.from_ase(a, 4.5, dtype=dtype) for a in atoms])
    for graph in (batch, trim_edges(batch, cutoff)):
        every = edge_set(graph)
        pairs = undirected_edges(graph)
        assert pairs is not None
        one_way = [tuple(e) for e in edge_columns(graph)[pairs].tolist()]
        reverse = [(j, i, -a, -b, -c) for i, j, a, b, c in one_way]
        assert sorted(one_way + reverse) == every


def test_directed_graphs_have_no_pairs() -> None:
    water = AtomicGraph.from_ase(molecule("H2O"), 3.0)
    nearest = keep_at_most_k_neighbours(water, 1)
    assert number_of_edges(nearest) == 3  # both H have O, which has one of them
    assert undirected_edges(nearest) is None
    # The mark stays, is not shown, and does not get into files.
    batch = to_batch([water, nearest])
    assert undirected_edges(batch) is None
    assert undirected_edges(trim_edges(batch, 1.0)) is None
    assert undirected_edges(nearest.to("cpu")) is None
    assert "other" not in repr(nearest)
    assert nearest.to_ase().info == {}
    assert undirected_edges(water) is not None
    assert undirected_edges(as_directed(water)) is None


def test_atoms_at_the_same_place_are_named() -> None:
    atoms = ase.Atoms("H3", positions=[[0, 0, 0], [1, 0, 0], [5, 0, 0]], cell=[5, 9, 9], pbc=True)
    with pytest.raises(ValueError, match=r"atoms 0 and 2 .* are at the same place"):
        AtomicGraph.from_ase(atoms, cutoff=2.0)


@pytest.mark.parametrize("cutoff", [-1.0, float("nan"), float("inf")])
def test_impossible_cutoffs(cutoff: float) -> None:
    with pytest.raises(ValueError, match="expected a cutoff of at least 0"):
        AtomicGraph.from_ase(ase.Atoms("H"), cutoff=cutoff)


# --- neighbour matrices -------------------------------------------------------------------


@given(structure_lists(), cutoffs)
def test_neighbour_matrix(batch: list[ase.Atoms], cutoff: float) -> None:
    """The edges of each atom, then edges to itself that are longer than the cutoff."""
    graph = to_batch([AtomicGraph.from_ase(atoms, cutoff) for atoms in batch])
    matrix = as_neighbour_matrix(graph)
    neighbours = neighbour_matrix(matrix)
    N, D = neighbours.shape
    counts = torch.bincount(graph.neighbour_list[0], minlength=N)
    assert max(1, int(counts.max())) == D
    assert number_of_edges(matrix) == N * D
    assert torch.equal(number_of_neighbours(matrix), number_of_neighbours(graph))
    real = (torch.arange(D) < counts[:, None]).flatten()
    assert torch.equal(matrix.neighbour_list[:, real], graph.neighbour_list)
    assert torch.equal(neighbour_vectors(matrix)[real], neighbour_vectors(graph))
    assert torch.equal(neighbours[~real.view(N, D)], torch.arange(N).repeat_interleave(D - counts))
    assert (neighbour_distances(matrix)[~real] > cutoff).all()
    assert as_neighbour_matrix(matrix) is matrix
    # a smaller cutoff leaves the matrix, but fewer of its edges count
    nearer = trim_edges(matrix, cutoff / 2)
    assert number_of_edges(nearer) == N * D
    expected = number_of_neighbours(trim_edges(graph, cutoff / 2))
    assert torch.equal(number_of_neighbours(nearer), expected)


@given(structure_lists(), cutoffs)
def test_sums_over_a_neighbour_matrix(batch: list[ase.Atoms], cutoff: float) -> None:
    graph = to_batch([AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64) for atoms in batch])
    matrix = as_neighbour_matrix(graph)
    r, r_matrix = neighbour_distances(graph), neighbour_distances(matrix)
    expected = sum_over_neighbours((cutoff - r).clamp(min=0), graph)
    found = sum_over_neighbours((cutoff - r_matrix).clamp(min=0), matrix)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@given(structure_lists(), cutoffs)
def test_outer_products_summed_over_a_neighbour_matrix(
    batch: list[ase.Atoms], cutoff: float
) -> None:
    graph = to_batch([AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64) for atoms in batch])

    def summed(graph: AtomicGraph) -> torch.Tensor:
        v = neighbour_vectors(graph)
        weights = (cutoff - neighbour_distances(graph)).clamp(min=0)
        return sum_outer_products_over_neighbours(v, weights[:, None] * v.cos()[:, :2], graph)

    torch.testing.assert_close(summed(as_neighbour_matrix(graph)), summed(graph))


def test_ragged_graphs_may_stay_lists() -> None:
    atoms = ase.Atoms("H4", [[0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0]])
    graph = AtomicGraph.from_ase(atoms, 1.5)  # 1, 2, 1 and 0 neighbours: 8 edges for 4
    assert as_neighbour_matrix(graph, max_growth=1.9) is graph
    assert number_of_edges(as_neighbour_matrix(graph, max_growth=2.0)) == 8


@given(structure_lists(), cutoffs)
def test_pairs_of_a_neighbour_matrix(batch: list[ase.Atoms], cutoff: float) -> None:
    """The same pairs as without, and others with edges that are too long."""
    graph = to_batch([AtomicGraph.from_ase(atoms, cutoff) for atoms in batch])
    matrix = as_neighbour_matrix(graph)
    counts = number_of_neighbours(graph, include_central_atom=False)
    D = neighbour_matrix(matrix).shape[1]
    column = (
        torch.arange(number_of_edges(graph)) - (counts.cumsum(0) - counts)[graph.neighbour_list[0]]
    )
    ij, ik = neighbour_pairs(graph, cutoff)
    expected = {
        (graph.neighbour_list[0][a] * D + column[a], column[b]) for a, b in zip(ij, ik, strict=True)
    }
    expected = {(int(a), int(b)) for a, b in expected}
    ij, ik = neighbour_pairs(matrix, cutoff)
    assert torch.equal(ij // D, ik // D)
    assert (ij < ik).all()
    assert ij.shape[0] == len(counts) * D * (D - 1) // 2
    near = neighbour_distances(matrix) <= cutoff
    both = near[ij] & near[ik]
    assert {(int(a), int(b % D)) for a, b in zip(ij[both], ik[both], strict=True)} == expected


def test_neighbour_matrix_is_differentiable() -> None:
    graph = AtomicGraph.from_ase(molecule("CH3OH"), 1.5)
    vectors = neighbour_vectors(graph).requires_grad_()
    matrix = as_neighbour_matrix(with_edge_vectors(graph, vectors))
    weights = torch.randn(number_of_edges(matrix), 3)
    (weights * neighbour_vectors(matrix)).sum().backward()
    real = neighbour_distances(matrix) <= 1.5
    assert torch.equal(vectors.grad, weights[real])


def test_triplets_are_not_those_of_the_matrix() -> None:
    graph = with_triplets(AtomicGraph.from_ase(molecule("CH3OH"), 2.0), 1.5)
    matrix = as_neighbour_matrix(graph)
    assert triplet_edges(matrix, 1.5).shape == triplet_edges(graph, 1.5).shape
