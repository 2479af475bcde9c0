from __future__ import annotations

from unittest import mock

import ase
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given
from hypothesis import strategies as st

from graph_pes.atomic_graph import AtomicGraph, bins, lists, neighbour_lists, to_batch
from tests.strategies import structure_lists

from .test_neighbours import edge_set


def batch_of(structures: list[ase.Atoms], cutoff: float) -> AtomicGraph:
    """With the edges of each structure found by itself."""
    return to_batch([AtomicGraph.from_ase(a, cutoff, dtype=torch.float64) for a in structures])


def with_lists(batch: AtomicGraph, cutoff: float) -> AtomicGraph:
    """With the edges of all structures."""
    assert batch.pbc is not None
    assert batch.batch is not None
    edges, offsets = neighbour_lists(batch.R, batch.cell, batch.pbc, batch.batch, cutoff)
    assert (edges[0, 1:] >= edges[0, :-1]).all()
    return batch._replace(neighbour_list=edges, neighbour_cell_offsets=offsets)


def with_bins(batch: AtomicGraph, cutoff: float) -> AtomicGraph:
    """As found on a GPU."""
    assert batch.pbc is not None
    assert batch.batch is not None
    cells = lists._checked_cells(batch.R, batch.cell, batch.pbc, batch.batch)
    edges, offsets = bins.Bins(batch.R, cells, batch.pbc, batch.batch, cutoff).all_pairs()
    return batch._replace(neighbour_list=edges, neighbour_cell_offsets=offsets)


@given(structure_lists(min_size=2, max_atoms=12), st.floats(0.5, 6.0))
def test_same_edges_as_one_after_the_other(structures: list[ase.Atoms], cutoff: float) -> None:
    batch = batch_of(structures, cutoff)
    assert edge_set(with_lists(batch, cutoff)) == edge_set(batch)


@given(structure_lists(max_atoms=12), st.floats(0.5, 6.0), st.sampled_from([bins.BLOCK, 64]))
def test_same_edges_in_bins(structures: list[ase.Atoms], cutoff: float, block: int) -> None:
    batch = batch_of(structures, cutoff)
    with mock.patch.object(bins, "BLOCK", block):
        assert edge_set(with_bins(batch, cutoff)) == edge_set(batch)


def test_many_bins() -> None:
    crystal = bulk("Cu", cubic=True).repeat(4)
    crystal.rattle(0.1, seed=1)
    batch = batch_of([molecule("C60"), crystal], 3.0)
    assert edge_set(with_bins(batch, 3.0)) == edge_set(batch)


def test_molecules_that_flew_apart() -> None:
    far = ase.Atoms("H3", positions=[[0, 0, 0], [0.7, 0, 0], [1e6, -1e5, 3]])
    expected = [(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)]
    assert edge_set(AtomicGraph.from_ase(far, 3.0)) == expected
    batch = batch_of([far, molecule("H2")], 3.0)
    assert edge_set(with_lists(batch, 3.0)) == [*expected, (3, 4, 0, 0, 0), (4, 3, 0, 0, 0)]


def test_mistakes_name_the_structure() -> None:
    batch = batch_of([bulk("Cu"), bulk("Cu", cubic=True)], 3.0)
    R = batch.R.clone()
    R[3, 1] = torch.nan
    with pytest.raises(ValueError, match="structure 1 of the batch: positions .* atom 2 is at"):
        with_lists(batch._replace(R=R), 3.0)
    R = batch.R.clone()
    R[3] = R[1] + batch.cell[1, 0]
    with pytest.raises(ValueError, match=r"structure 1 of the batch: atoms 0 and 2 \(or a peri"):
        with_lists(batch._replace(R=R), 3.0)
    for row, said in (
        ([0.0, 0.0, 0.0], "structure 1 of the batch: .* periodic along a"),
        ([0.0, 3.61, 0.0], "structure 1 of the batch: .* zero volume"),
        ([torch.inf, 0.0, 0.0], "structure 1 of the batch: lattice vectors must be finite"),
    ):
        cell = batch.cell.clone()
        cell[1, 0] = torch.tensor(row)
        with pytest.raises(ValueError, match=said):
            with_lists(batch._replace(cell=cell), 3.0)
    with pytest.raises(ValueError, match="cutoff of at least 0"):
        with_lists(batch, -1.0)
