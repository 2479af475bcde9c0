"""What layers of equivariant networks need to know of the neighbours of each atom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, neighbour_matrix, neighbour_vectors
from graph_pes.tensors import safe_norm


@dataclass(frozen=True)
class Edges:
    """Functions of the vectors to the neighbours of each atom, once for all layers.

    Attributes
    ----------
    neighbours
        Shape (N, D).
    harmonics
        Spherical harmonics of the directions to them, shape (N D, components).
    basis, envelope
        Radial functions of the distances, shape (N D, B), and (N D, 1).
    """

    neighbours: Tensor
    harmonics: Tensor
    basis: Tensor
    envelope: Tensor


def edges_of(
    graph: AtomicGraph,
    harmonics: Callable[[Tensor], Tensor],
    basis: Callable[[Tensor], Tensor],
    envelope: Callable[[Tensor], Tensor],
) -> Edges:
    """Evaluate functions of the edges of a neighbour matrix.

    Parameters
    ----------
    graph
        As `as_neighbour_matrix` makes it.
    harmonics
        From vectors (N D, 3) to (N D, components).
    basis, envelope
        From distances (N D, 1) to (N D, B) and (N D, 1).
    """
    vectors = neighbour_vectors(graph)
    r = safe_norm(vectors).unsqueeze(-1)
    return Edges(neighbour_matrix(graph), harmonics(vectors), basis(r), envelope(r))
