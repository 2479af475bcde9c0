"""Reused neighbour lists are complete: nothing within the cutoff is ever missing."""

from __future__ import annotations

import itertools

import ase
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from graph_pes import AtomicGraph
from graph_pes.atomic_graph import neighbour_distances, select_edges, trim_edges, triplet_edges
from graph_pes.drivers import ReusableNeighbourList, reference_length_covered
from tests.strategies import seeds, structures

CUTOFF, SKIN = 3.0, 1.0


def bare_graph(atoms: ase.Atoms) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff=0.0, dtype=torch.float64)


def pairs_within(atoms: ase.Atoms, cutoff: float) -> set[tuple[int, ...]]:
    """All (i, j, translation) by brute force, without any neighbour-list code."""
    cell = atoms.cell.complete().array
    fractional = np.linalg.solve(cell.T, atoms.positions.T).T
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    reach = np.where(atoms.pbc, np.ceil(np.ptp(fractional, axis=0) + cutoff / heights), 0)
    pairs = set()
    for shift in itertools.product(*(range(-int(n), int(n) + 1) for n in reach)):
        d = atoms.positions[None, :] + np.array(shift) @ cell - atoms.positions[:, None]
        close = np.linalg.norm(d, axis=-1) <= cutoff
        if shift == (0, 0, 0):
            np.fill_diagonal(close, False)
        pairs.update((int(i), int(j), *shift) for i, j in zip(*np.nonzero(close), strict=True))
    return pairs


def pairs_of(graph: AtomicGraph) -> set[tuple[int, ...]]:
    columns = torch.cat([graph.neighbour_list.T, graph.neighbour_cell_offsets.long()], dim=1)
    return {tuple(row) for row in columns.tolist()}


def changed(atoms: ase.Atoms, seed: int, strain: float, displacement: float) -> ase.Atoms:
    """Another cell, with the atoms taken along and displaced at random."""
    rng = np.random.default_rng(seed)
    new = atoms.copy()
    F = np.eye(3) + strain * rng.uniform(-1, 1, (3, 3))
    new.set_cell(atoms.cell.array @ F)
    new.positions = atoms.positions @ F + displacement * rng.uniform(-1, 1, (len(atoms), 3))
    return new


strains = st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.2])
displacements = st.sampled_from([0.0, 0.05, 0.2, 0.5])


@given(structures(max_atoms=6), seeds, strains, displacements)
def test_a_list_that_is_reused_misses_no_pair(atoms, seed, strain, displacement):
    neighbours = ReusableNeighbourList.build(bare_graph(atoms), CUTOFF, SKIN)
    new = changed(atoms, seed, strain, displacement)
    graph = bare_graph(new)
    assume(neighbours.is_complete_for(graph))
    reused = trim_edges(neighbours.applied_to(graph), CUTOFF)
    assert pairs_of(reused) == pairs_within(new, CUTOFF)


@given(structures(max_atoms=6), seeds, strains, displacements)
@example(ase.Atoms("H", cell=[1.0, 1.0, 1.0], pbc=True), 0, 0.2, 0.0)  # many images
def test_the_length_that_a_list_must_cover_is_enough(atoms, seed, strain, displacement):
    """Any change at all: a list of the returned length holds every pair within the cutoff."""
    new = changed(atoms, seed, strain, displacement)
    old_graph, graph = bare_graph(atoms), bare_graph(new)
    length = reference_length_covered(
        graph.R, graph.cell, old_graph.R, old_graph.cell, graph.pbc, CUTOFF
    )
    assume(length < 8)
    # 1e-9: two atoms that moved exactly towards each other are at the bound itself
    neighbours = ReusableNeighbourList.build(old_graph, CUTOFF, length + 1e-9 - CUTOFF)
    # not trim_edges: when the cell expands, the length is less than the cutoff
    listed = neighbours.applied_to(graph)
    within = select_edges(listed, neighbour_distances(listed) <= CUTOFF)
    assert pairs_of(within) == pairs_within(new, CUTOFF)


def test_the_bound_is_reached():
    """No shorter length would do: for compression, and for atoms that meet head-on."""
    pbc, molecule = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    R, cell = torch.zeros(1, 3).double(), 2 * torch.eye(3).double()
    assert reference_length_covered(0.8 * R, 0.8 * cell, R, cell, pbc, 4.0) == pytest.approx(5.0)
    R = torch.tensor([[0.0, 0, 0], [5.0, 0, 0]]).double()
    towards = torch.tensor([[0.5, 0, 0], [4.5, 0, 0]]).double()
    assert reference_length_covered(towards, cell, R, cell, molecule, 4.0) == pytest.approx(5.0)


@given(structures(max_atoms=6, pbc=True), seeds, st.sampled_from([0.9, 0.99, 1.01, 1.3]))
def test_homogeneous_strain_uses_up_only_what_it_must(atoms, seed, stretch):
    """Atoms that follow the cell do not count as moved, wherever they are."""
    graph = bare_graph(atoms)
    length = reference_length_covered(
        stretch * graph.R, stretch * graph.cell, graph.R, graph.cell, graph.pbc, CUTOFF
    )
    assert length == pytest.approx(CUTOFF / stretch, rel=1e-9)


def test_the_cell_of_a_chain_may_turn_and_stretch():
    """With one periodic direction, only that lattice vector matters."""
    atoms = ase.Atoms("H2", [[0, 0, 0], [1, 0.5, 0]], cell=[2.0, 0, 0], pbc=[True, False, False])
    new = atoms.copy()
    new.set_cell([2.1, 0.1, 0.0])
    neighbours = ReusableNeighbourList.build(bare_graph(atoms), CUTOFF, SKIN)
    assert neighbours.is_complete_for(bare_graph(new))
    reused = trim_edges(neighbours.applied_to(bare_graph(new)), CUTOFF)
    assert pairs_of(reused) == pairs_within(new, CUTOFF)


def test_images_of_an_atom_in_a_shrinking_cell():
    """Many images add up: a cell vector may move far less than half the skin allows."""
    atoms = ase.Atoms("H", cell=[1.0, 1.0, 1.0], pbc=True)
    neighbours = ReusableNeighbourList.build(bare_graph(atoms), 5.0, SKIN)
    squeezed = ase.Atoms("H", cell=[0.8, 1.0, 1.0], pbc=True)  # by 0.2 Å < SKIN / 2
    assert (6, 0, 0) in {pair[2:] for pair in pairs_within(squeezed, 5.0)}
    assert not neighbours.is_complete_for(bare_graph(squeezed))


def test_a_common_translation_costs_nothing():
    atoms = ase.Atoms("H2", [[0, 0, 0], [1, 0, 0]])
    moved = atoms.copy()
    moved.translate([100.0, 0, 0])
    neighbours = ReusableNeighbourList.build(bare_graph(atoms), CUTOFF, SKIN)
    assert neighbours.is_complete_for(bare_graph(moved))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.wrap(),
        lambda a: a.set_pbc([True, True, False]),
        lambda a: a.set_atomic_numbers([1, 6]),
        lambda a: a.append("H"),
        lambda a: a.pop(),
        lambda a: a.positions.__setitem__((0, 0), np.nan),
        lambda a: a.set_cell([3, 3, 1e-9]),
    ],
    ids=["wrapped", "pbc", "elements", "added", "removed", "nan", "flat"],
)
def test_other_structures_need_another_list(change):
    atoms = ase.Atoms("H2", [[0, 0, 0], [4.0, 0, 0]], cell=[3, 3, 3], pbc=True)
    neighbours = ReusableNeighbourList.build(bare_graph(atoms), CUTOFF, SKIN)
    assert neighbours.is_complete_for(bare_graph(atoms))
    graph = bare_graph(atoms)
    change(atoms)
    new = graph._replace(
        Z=torch.tensor(atoms.numbers),
        R=torch.tensor(atoms.positions),
        cell=torch.tensor(atoms.cell.array),
        pbc=torch.tensor(atoms.pbc),
    )
    assert not neighbours.is_complete_for(new)


def test_no_skin_no_reuse():
    graph = bare_graph(ase.Atoms("H2", [[0, 0, 0], [1, 0, 0]]))
    assert not ReusableNeighbourList.build(graph, CUTOFF, skin=0.0).is_complete_for(graph)


@given(structures(max_atoms=5), seeds, strains, displacements)
def test_reused_triplets_are_all_there(atoms, seed, strain, displacement):
    """Also when the cell expands, for which the shorter of the two cutoffs is stricter."""
    three_body_cutoff = 2.0
    neighbours = ReusableNeighbourList.build(bare_graph(atoms), CUTOFF, SKIN, three_body_cutoff)
    graph = bare_graph(changed(atoms, seed, strain, displacement))
    assume(neighbours.is_complete_for(graph))
    reused = trim_edges(neighbours.applied_to(graph), CUTOFF)
    within = neighbour_distances(reused) <= three_body_cutoff
    central = reused.neighbour_list[0, within]
    counts = torch.bincount(central, minlength=len(atoms))
    pairs = triplet_edges(reused, three_body_cutoff)
    assert pairs.shape[1] == (counts * (counts - 1)).sum()
    assert len({tuple(p) for p in pairs.T.tolist()}) == pairs.shape[1]


def test_expansion_leaves_less_slack_for_triplets_than_for_pairs():
    """Two of these atoms come into range of a triplet, though no pair went missing."""
    R = torch.tensor([[0.0, 0, 0], [1.525, 0, 0], [3.05, 0, 0]]).double()
    graph = AtomicGraph.create_with_defaults(
        Z=torch.ones(3, dtype=torch.long),
        R=R,
        cell=20 * torch.eye(3).double(),
        pbc=torch.ones(3, dtype=torch.bool),
    )
    moves = torch.tensor([[0.84, 0, 0], [0, 0, 0], [-0.84, 0, 0]]).double()
    new = graph._replace(R=1.2 * R + moves, cell=1.2 * graph.cell)
    pairs_only = ReusableNeighbourList.build(graph, 6.0, SKIN)
    with_triplets = ReusableNeighbourList.build(graph, 6.0, SKIN, three_body_cutoff=2.0)
    assert pairs_only.is_complete_for(new)
    assert not with_triplets.is_complete_for(new)
    assert triplet_edges(pairs_only.applied_to(new), 2.0).shape[1] == 6
    assert triplet_edges(with_triplets.applied_to(new), 2.0).shape[1] == 2
