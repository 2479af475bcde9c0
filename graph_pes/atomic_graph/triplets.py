"""Three-body indices: pairs of edges that share their central atom."""

from __future__ import annotations

import torch
from torch import Tensor

from graph_pes.tensors import index_sum

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


def earlier_edges(central_atoms: Tensor, n_atoms: int) -> Tensor:
    """Every pair of different edges with the same central atom, once, the earlier one first.

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
    >>> earlier_edges(torch.tensor([0, 0, 0, 1]), n_atoms=2)
    tensor([[0, 0, 1],
            [1, 2, 2]])
    """
    # Of operations that can be traced, whatever the number of edges and pairs.
    counts = index_sum(torch.ones_like(central_atoms), central_atoms, n_atoms)
    first = (torch.cumsum(counts, 0) - counts).index_select(0, central_atoms)
    rank = torch.arange(central_atoms.shape[0], device=counts.device) - first  # how many earlier
    later = torch.repeat_interleave(rank)
    start = torch.cumsum(rank, 0) - rank  # of the pairs of each edge
    pair = torch.arange(later.shape[0], device=counts.device)
    return torch.stack([pair + (first - start).index_select(0, later), later])


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

    Of a neighbour matrix up to the same cutoff all pairs are returned, also those of edges that are
    too long: a model has to give nothing to these. If its cutoff is larger, only those within are,
    in programs that are traced, too.

    Returns
    -------
    tuple[Tensor, Tensor]
        Indices ij < ik into the edges of the graph, each of shape (T,).
    """
    if TRIPLET_EDGES in graph.other:
        ij, ik = triplet_edges(graph, cutoff)
        once = (ij < ik).nonzero()[:, 0]
        return ij.index_select(0, once), ik.index_select(0, once)
    if not is_neighbour_matrix(graph) or cutoff < graph.cutoff:
        edges = (neighbour_distances(graph).detach() <= cutoff).nonzero()[:, 0]
        i = graph.neighbour_list[0].index_select(0, edges)
        earlier, later = earlier_edges(i, number_of_atoms(graph)).unbind()
        return edges.index_select(0, earlier), edges.index_select(0, later)
    N, device = number_of_atoms(graph), graph.Z.device
    D = number_of_edges(graph) // N
    # Pairs of columns a < b come by b, which rises at t = b (b - 1) / 2.
    t, later = (torch.arange(*ends, device=device) for ends in ((D * (D - 1) // 2,), (1, D)))
    b = torch.cumsum(torch.zeros_like(t).index_fill(0, later * (later - 1) // 2, 1), dim=0)
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
