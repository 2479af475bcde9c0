"""Neighbours for compiled models, kept as a matrix from one geometry to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, as_neighbour_matrix, neighbour_matrix
from graph_pes.atomic_graph.graph import NEIGHBOUR_COUNTS
from graph_pes.deploy.engine import MIN_COLUMNS, EngineInputs

from .reuse import ReusableNeighbourList

#: Length of the edges that fill up the matrix, in Å: more than any cutoff.
BEYOND = 1000.0

#: Edges that are so much longer than the cutoff count as within: lengths are rounded.
ROUNDING = 1e-5


class KeptMatrix:
    """A reusable neighbour list in the form of `graph_pes.deploy.engine`.

    What depends on the list alone is computed once; lattice translations again when the cell
    changes, and the order of the neighbours within the cutoff when one comes or goes. What remains
    for each geometry is to compute the vectors and to pick those within the cutoff: with a skin of
    1 Å around 5 Å they are 6 of 10, and a model takes much longer for the others than it takes to
    leave them out.

    Parameters
    ----------
    neighbours
        The list.
    dtype
        Precision of the model.

    Examples
    --------
    >>> from ase.build import bulk
    >>> graph = AtomicGraph.from_ase(bulk("Cu"), cutoff=0.0, dtype=torch.float64)
    >>> listed = ReusableNeighbourList.build(graph, cutoff=3.0, skin=1.0)
    >>> kept = KeptMatrix(listed, torch.float32)
    >>> kept.inputs(graph).vectors.shape
    torch.Size([1, 12, 3])
    """

    def __init__(self, neighbours: ReusableNeighbourList, dtype: torch.dtype):
        matrix = as_neighbour_matrix(neighbours.batch)
        atoms = torch.arange(matrix.Z.shape[0], device=neighbours.device)
        N = len(atoms)
        # One more column, so that each atom has an edge to fill up with.
        self.list, self.dtype = neighbours, dtype
        self._neighbours = torch.cat([neighbour_matrix(matrix), atoms.unsqueeze(1)], dim=1)
        images = matrix.neighbour_cell_offsets.double().view(N, -1, 3)
        self._images = torch.cat([images, images.new_zeros(N, 1, 3)], dim=1)  # (N, C, 3)
        columns = torch.arange(self._images.shape[1], device=atoms.device)
        self._filling = torch.zeros_like(self._images)
        self._filling[..., 0] = BEYOND * (columns >= matrix.other[NEIGHBOUR_COUNTS].unsqueeze(1))
        self._mask = torch.ones(N, dtype=torch.float64, device=atoms.device)
        self._cell = images.new_full((3, 3), torch.nan)
        self._translations = self._filling
        self._selection: Selection | None = None

    def inputs(self, graph: AtomicGraph) -> EngineInputs:
        """The neighbours within the cutoff in another structure that the list is complete for."""
        vectors = self._vectors(graph.R.to(self.list.device), graph.cell.to(self.list.device))
        rows = vectors.view(-1, 3)
        squares = torch.mv(rows * rows, rows.new_ones(3))
        near = squares <= (self.list.cutoff * (1 + ROUNDING)) ** 2
        if self._selection is None or not torch.equal(near, self._selection.near):
            self._selection = Selection.of(near, self._neighbours)
        neighbours = self._selection.neighbours
        chosen = rows.index_select(0, self._selection.edges).view(*neighbours.shape, 3)
        return EngineInputs(chosen, neighbours, self.list.batch.Z, self._mask)

    def _vectors(self, R: Tensor, cell: Tensor) -> Tensor:
        """To all listed neighbours, (N, C, 3), those beyond the cutoff included."""
        if not torch.equal(cell, self._cell):
            self._cell, self._translations = cell, self._images @ cell + self._filling
        vectors = R.index_select(0, self._neighbours.view(-1)).view_as(self._filling)
        return vectors.sub_(R.unsqueeze(1)).add_(self._translations).to(self.dtype)


@dataclass(frozen=True)
class Selection:
    """Some of the edges of a neighbour matrix (N, C), as a matrix of fewer columns, (N, D).

    Attributes
    ----------
    near
        Which edges: booleans, shape (N C,).
    edges
        Their positions, shape (N D,), filled up with the last edge of each atom.
    neighbours
        Their neighbours, shape (N, D).

    Examples
    --------
    >>> near = torch.tensor([False, True, False, True, True, False])
    >>> Selection.of(near, torch.tensor([[1, 1, 0], [0, 0, 1]])).edges.view(2, -1)
    tensor([[1, 2, 2, 2],
            [3, 4, 5, 5]])
    """

    near: Tensor
    edges: Tensor
    neighbours: Tensor

    @classmethod
    def of(cls, near: Tensor, neighbours: Tensor) -> Selection:
        """Select edges of a matrix of neighbours; the last one of each atom can't be selected."""
        (N, C), device = neighbours.shape, near.device
        kept = _positions(near)
        ends = torch.searchsorted(kept, torch.arange(0, N * C + 1, C, device=device))
        counts = ends[1:] - ends[:-1]
        D = max(MIN_COLUMNS, int(counts.max()))
        # From where an edge is among those that are kept to where the row of its atom begins.
        shifts = torch.arange(0, N * D, D, device=device) - ends[:-1]
        places = shifts.repeat_interleave(counts) + torch.arange(len(kept), device=device)
        last = torch.arange(C - 1, N * C, C, device=device)
        edges = last.repeat_interleave(D).index_copy_(0, places, kept)
        return cls(near, edges, neighbours.view(-1).index_select(0, edges).view(N, D))


def _positions(chosen: Tensor) -> Tensor:
    """Where booleans are true."""
    if chosen.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(chosen.numpy()))  # five times faster
    return chosen.nonzero()[:, 0]
