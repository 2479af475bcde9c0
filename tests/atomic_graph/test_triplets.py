from __future__ import annotations

import ase
import torch
from hypothesis import given
from hypothesis import strategies as st

from graph_pes.atomic_graph import (
    AtomicGraph,
    neighbour_distances,
    number_of_edges,
    to_batch,
    trim_edges,
    triplet_edges,
    with_triplets,
)
from tests.strategies import structure_lists, structures


def brute_force(graph: AtomicGraph, cutoff: float) -> set[tuple[int, int]]:
    centers, r = graph.neighbour_list[0].tolist(), neighbour_distances(graph).tolist()
    near = [e for e in range(len(r)) if r[e] <= cutoff]
    return {(a, b) for a in near for b in near if a != b and centers[a] == centers[b]}


def as_set(triplets: torch.Tensor) -> set[tuple[int, int]]:
    found = [tuple(pair) for pair in triplets.T.tolist()]
    assert len(found) == len(set(found))
    return set(found)


few = structures(max_atoms=4, min_distance=1.0)


@given(few, st.floats(0.5, 3.0))
def test_against_brute_force(atoms: ase.Atoms, cutoff: float) -> None:
    graph = AtomicGraph.from_ase(atoms, 3.0, dtype=torch.float64)
    assert as_set(triplet_edges(graph, cutoff)) == brute_force(graph, cutoff)


@given(structure_lists(max_atoms=3, max_size=3, min_distance=1.0))
def test_of_a_batch(atoms: list[ase.Atoms]) -> None:
    batch = to_batch([AtomicGraph.from_ase(a, 3.0, dtype=torch.float64) for a in atoms])
    assert as_set(triplet_edges(batch, 2.5)) == brute_force(batch, 2.5)


@given(few, st.floats(0.5, 2.5), st.floats(1.0, 2.9))
def test_stored_triplets(atoms: ase.Atoms, cutoff: float, trim_to: float) -> None:
    """Triplets that were found beforehand stay right when edges are dropped."""
    graph = with_triplets(AtomicGraph.from_ase(atoms, 3.0, dtype=torch.float64), 2.5)
    assert as_set(triplet_edges(graph, cutoff)) == brute_force(graph, cutoff)
    trimmed = trim_edges(graph, trim_to)
    assert as_set(triplet_edges(trimmed, cutoff)) == brute_force(trimmed, cutoff)


@given(few, st.floats(0.5, 1.9))
def test_asking_for_more_than_was_stored(atoms: ase.Atoms, stored: float) -> None:
    graph = AtomicGraph.from_ase(atoms, 3.0, dtype=torch.float64)
    assert as_set(triplet_edges(with_triplets(graph, stored), 2.0)) == brute_force(graph, 2.0)


@given(structure_lists(max_atoms=3, max_size=3, min_distance=1.0))
def test_batching_with_a_three_body_cutoff(atoms: list[ase.Atoms]) -> None:
    graphs = [AtomicGraph.from_ase(a, 3.0, dtype=torch.float64) for a in atoms]
    plain, prepared = to_batch(graphs), to_batch(graphs, three_body_cutoff=2.0)
    assert torch.equal(triplet_edges(prepared, 2.0), triplet_edges(plain, 2.0))


def test_triplets_are_not_carried_into_batches() -> None:
    atoms = ase.Atoms("H3", [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    graph = with_triplets(AtomicGraph.from_ase(atoms, 2.0), 2.0)
    batch = to_batch([graph, graph])
    assert batch.other == {}
    assert as_set(triplet_edges(batch, 2.0)) == brute_force(batch, 2.0)


def test_no_triplets() -> None:
    pair = AtomicGraph.from_ase(ase.Atoms("H2", [[0, 0, 0], [1, 0, 0]]), 2.0)
    assert triplet_edges(pair, 2.0).shape == (2, 0)
    alone = AtomicGraph.from_ase(ase.Atoms("H"), 2.0)
    assert number_of_edges(alone) == 0
    assert triplet_edges(alone, 2.0).shape == (2, 0)
