"""Three-body indices: pairs of edges that share their central atom."""

from __future__ import annotations

import torch
from torch import Tensor

from .graph import TRIPLET_CUTOFF, TRIPLET_EDGES, AtomicGraph
from .neighbours import is_neighbour_matrix
from .ops import neighbour_distances, number_of_atoms, number_of_edges


def edge_pairs(central_atoms: Tensor, n_atoms: int) -> Tensor:
    """Every ordered pair of different edges with the same central atom.

    Parameters
    ----------
    central_atoms
        Shape (E,), sorted.

    Returns
    -------
    Tensor
        Edge indices, shape (2, T).

    Examples
    --------
    >>> edge_pairs(torch.tensor([0, 0, 1]), n_atoms=2)
    tensor([[0, 1],
            [1, 0]])
    """
    counts = torch.bincount(central_atoms, minlength=n_atoms)
    first = torch.cumsum(counts, 0) - counts
    partners = counts[central_atoms]  # edges around the same atom, this one included
    a = torch.repeat_interleave(torch.arange(len(central_atoms), device=counts.device), partners)
    start = torch.cumsum(partners, 0) - partners
    rank = torch.arange(a.shape[0], device=a.device) - start[a]
    b = first[central_atoms[a]] + rank
    return torch.stack([a, b])[:, a != b]


def triplet_edges(graph: AtomicGraph, cutoff: float) -> Tensor:
    """Every ordered pair of different edges, both within a cutoff, around the same atom.

    Parameters
    ----------
    cutoff
        In Å.

    Returns
    -------
    Tensor
        Indices (ij, ik) into the edges of the graph, shape (2, T).
    """
    within = neighbour_distances(graph).detach() <= cutoff
    if TRIPLET_EDGES in graph.other and cutoff <= float(graph.other[TRIPLET_CUTOFF]):
        pairs = graph.other[TRIPLET_EDGES]
        return pairs[:, within[pairs].all(0)]
    edges = within.nonzero()[:, 0]
    return edges[edge_pairs(graph.neighbour_list[0, edges], number_of_atoms(graph))]


def neighbour_pairs(graph: AtomicGraph, cutoff: float) -> tuple[Tensor, Tensor]:
    """Every pair of different edges around the same atom, once, both within a cutoff.

    Of a neighbour matrix all pairs are returned, also those of edges that are too long: a model
    has to give nothing to these.

    Returns
    -------
    tuple[Tensor, Tensor]
        Indices ij < ik into the edges of the graph, each of shape (T,).
    """
    if not is_neighbour_matrix(graph):
        ij, ik = triplet_edges(graph, cutoff)
        once = (ij < ik).nonzero()[:, 0]
        return ij.index_select(0, once), ik.index_select(0, once)
    N, device = number_of_atoms(graph), graph.Z.device
    D = number_of_edges(graph) // N
    # The pair number t of columns a < b is t = b (b - 1) / 2 + a.
    t = torch.arange(D * (D - 1) // 2, device=device)
    b = ((1 + (8 * t + 1).double().sqrt()) / 2).floor().long()
    a = t - b * (b - 1) // 2
    row = torch.arange(N, device=device).unsqueeze(1) * D
    return (row + a).reshape(-1), (row + b).reshape(-1)


def with_triplets(graph: AtomicGraph, cutoff: float) -> AtomicGraph:
    """The same graph with the triplets up to a cutoff found once and for all."""
    found = {
        TRIPLET_EDGES: triplet_edges(graph, cutoff),
        TRIPLET_CUTOFF: torch.tensor(cutoff, dtype=torch.float64),
    }
    return graph._replace(other={**graph.other, **found})
