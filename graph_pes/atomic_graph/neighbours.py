"""Changes to the edges of graphs, and other forms of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .graph import (
    DIRECTED,
    EDGE_VECTORS,
    NEIGHBOUR_COUNTS,
    TRIPLET_CUTOFF,
    TRIPLET_EDGES,
    UNDIRECTED,
    AtomicGraph,
)
from .ops import (
    neighbour_distances,
    neighbour_vectors,
    number_of_atoms,
    number_of_edges,
    number_of_neighbours,
    number_of_structures,
)


def select_edges(graph: AtomicGraph, keep: Tensor) -> AtomicGraph:
    """The graph with only those edges where ``keep``, shape (E,), is true."""
    other = dict(graph.other)
    other.pop(NEIGHBOUR_COUNTS, None)
    other.pop(UNDIRECTED, None)
    if EDGE_VECTORS in other:
        other[EDGE_VECTORS] = other[EDGE_VECTORS][keep]
    if TRIPLET_EDGES in other:
        triplets = other[TRIPLET_EDGES]
        new_index = torch.cumsum(keep, 0) - 1
        other[TRIPLET_EDGES] = new_index[triplets[:, keep[triplets].all(0)]]
    return graph._replace(
        neighbour_list=graph.neighbour_list[:, keep],
        neighbour_cell_offsets=graph.neighbour_cell_offsets[keep],
        other=other,
    )


def trim_edges(graph: AtomicGraph, cutoff: float) -> AtomicGraph:
    """Drop the edges longer than a cutoff.

    Raises
    ------
    ValueError
        If the neighbours of the graph were only listed up to a shorter distance.
    """
    if graph.cutoff + 1e-5 < cutoff:
        raise ValueError(
            f"neighbours up to {cutoff:g} Å are needed, but the graph only lists them up to "
            f"{graph.cutoff:g} Å: build it with AtomicGraph.from_ase(structure, cutoff={cutoff:g})"
        )
    if graph.cutoff <= cutoff:
        return graph
    if is_neighbour_matrix(graph):
        # A neighbour matrix keeps its shape: models give nothing to edges that are too long.
        near = neighbour_distances(graph) <= cutoff
        counts = near.view(number_of_atoms(graph), -1).sum(dim=1)
        return graph._replace(cutoff=cutoff, other={**graph.other, NEIGHBOUR_COUNTS: counts})
    return select_edges(graph, neighbour_distances(graph) <= cutoff)._replace(cutoff=cutoff)


def keep_at_most_k_neighbours(graph: AtomicGraph, k: int) -> AtomicGraph:
    """Keep the k nearest neighbours of each atom (all, where there are fewer).

    An atom may be among the nearest of another without the reverse: the graph is marked as
    one of directed edges. A neighbour matrix remains one.
    """
    if is_neighbour_matrix(graph):
        return _nearest_columns(graph, k)
    i, distances = graph.neighbour_list[0], neighbour_distances(graph).detach()
    order = torch.argsort(distances, stable=True)
    order = order[torch.argsort(i[order], stable=True)]  # by atom, then by distance
    counts = torch.bincount(i, minlength=number_of_atoms(graph))
    first = torch.cumsum(counts, 0) - counts
    rank = torch.arange(number_of_edges(graph), device=i.device) - first[i[order]]
    keep = torch.zeros_like(i, dtype=torch.bool)
    keep[order] = rank < k
    return as_directed(select_edges(graph, keep))


def _nearest_columns(graph: AtomicGraph, k: int) -> AtomicGraph:
    """The k nearest neighbours of each atom of a matrix of D columns.

    As a matrix of k columns, whatever D is, so that its size is known when programs are made of
    models; or, if that may be far more than there are, of D columns.
    """
    N, D = neighbour_matrix(graph).shape
    i, j = graph.neighbour_list
    vectors, offsets = neighbour_vectors(graph), graph.neighbour_cell_offsets
    distances = neighbour_distances(graph).detach().view(N, D)
    if k <= FEW_COLUMNS:
        none = torch.full_like(distances[:, :1], torch.inf).expand(N, k)
        columns = torch.cat([distances, none], 1).argsort(dim=1, stable=True).narrow(1, 0, k)
        kept = (columns < D).reshape(-1, 1)
        rows = torch.arange(N, device=i.device).unsqueeze(1)
        edges = (rows * D + columns.clamp(max=D - 1)).reshape(-1)
        i, j, vectors, offsets = (x.index_select(0, edges) for x in (i, j, vectors, offsets))
    else:
        ranks = distances.argsort(dim=1, stable=True).argsort(dim=1)
        kept = (ranks < k).reshape(-1, 1)
    beyond = vectors.new_tensor([_BEYOND, 0, 0])
    other = {key: x for key, x in graph.other.items() if key not in (TRIPLET_EDGES, UNDIRECTED)}
    other[NEIGHBOUR_COUNTS] = graph.other[NEIGHBOUR_COUNTS].clamp(max=k)
    other[EDGE_VECTORS] = torch.where(kept, vectors, beyond)
    return as_directed(
        graph._replace(
            neighbour_list=torch.stack([i, torch.where(kept[:, 0], j, i)]),
            neighbour_cell_offsets=torch.where(kept, offsets, 0.0),
            other=other,
        )
    )


def as_directed(graph: AtomicGraph) -> AtomicGraph:
    """The same graph, marked as one in which the reverse of an edge may be missing."""
    mark = torch.ones(number_of_structures(graph), dtype=torch.bool, device=graph.Z.device)
    return graph._replace(other={**graph.other, DIRECTED: mark})


#: Columns that a matrix may have for no neighbours.
FEW_COLUMNS = 64

#: Longer than any cutoff, in Å; the cutoff of a model may be larger than that of a graph.
_BEYOND = 1000.0


def as_neighbour_matrix(graph: AtomicGraph, max_growth: float = math.inf) -> AtomicGraph:
    """A graph in which every atom has equally many edges, D, so that E = N D.

    Edges that fill up go from an atom to itself, with a vector that is longer than any cutoff:
    whatever is zero from there on, value and slope, needs no masks. `number_of_neighbours`
    still counts the others only. At least one edge per atom; a graph that already is such a
    matrix is returned as it is.

    Parameters
    ----------
    max_growth
        Also return a graph as it is that would have more than so many times its edges.

    Examples
    --------
    >>> from ase.build import molecule
    >>> graph = as_neighbour_matrix(AtomicGraph.from_ase(molecule("H2O"), cutoff=1.2))
    >>> graph.neighbour_list
    tensor([[0, 0, 1, 1, 2, 2],
            [1, 2, 0, 1, 0, 2]])
    >>> neighbour_distances(graph)
    tensor([9.6857e-01, 9.6857e-01, 9.6857e-01, 1.0000e+03, 9.6857e-01, 1.0000e+03])
    """
    if is_neighbour_matrix(graph):
        return graph
    N, E, (i, j) = number_of_atoms(graph), number_of_edges(graph), graph.neighbour_list
    counts = number_of_neighbours(graph, include_central_atom=False)
    D = max(1, int(counts.max())) if N > 0 else 1
    if max_growth * E < N * D:
        return graph
    other = {key: x for key, x in graph.other.items() if key not in (TRIPLET_EDGES, TRIPLET_CUTOFF)}
    other[NEIGHBOUR_COUNTS], vectors = counts, neighbour_vectors(graph)
    if N * D == E:
        return graph._replace(other={**other, EDGE_VECTORS: vectors})
    first = torch.cumsum(counts, 0) - counts
    place = i * D + torch.arange(E, device=i.device) - first.index_select(0, i)
    atoms = torch.arange(N, device=i.device).repeat_interleave(D)
    beyond = vectors.new_tensor([_BEYOND, 0, 0]).expand(N * D, 3)
    offsets = graph.neighbour_cell_offsets
    return graph._replace(
        neighbour_list=torch.stack([atoms, atoms.index_copy(0, place, j)]),
        neighbour_cell_offsets=offsets.new_zeros(N * D, 3).index_copy(0, place, offsets),
        other={**other, EDGE_VECTORS: beyond.index_copy(0, place, vectors)},
    )


def is_neighbour_matrix(graph: AtomicGraph) -> bool:
    """Whether all atoms have equally many edges, some of which may be too long to count."""
    return NEIGHBOUR_COUNTS in graph.other


def neighbour_matrix(graph: AtomicGraph) -> Tensor:
    """The neighbours of each atom, shape (N, D), of a graph from `as_neighbour_matrix`."""
    N = number_of_atoms(graph)
    return graph.neighbour_list[1].view(N, number_of_edges(graph) // max(N, 1))


def undirected_edges(graph: AtomicGraph) -> Tensor | None:
    """One edge of each pair i → j and j → i, for what is the same in both directions.

    Returns
    -------
    Tensor | None
        Indices of edges, shape (E / 2,); None if reverse edges may be missing.

    Examples
    --------
    >>> from ase.build import molecule
    >>> graph = AtomicGraph.from_ase(molecule("H2O"), cutoff=1.2)
    >>> graph.neighbour_list[:, undirected_edges(graph)]
    tensor([[0, 0],
            [1, 2]])
    """
    if DIRECTED in graph.other:
        return None
    if UNDIRECTED in graph.other:
        return graph.other[UNDIRECTED]
    i, j = graph.neighbour_list
    a, b, c = graph.neighbour_cell_offsets.unbind(-1)
    # Of an atom and its own images, those whose first non-zero offset is positive.
    image = torch.where(a != 0, a, torch.where(b != 0, b, c)) > 0
    return ((i < j) | ((i == j) & image)).nonzero()[:, 0]
