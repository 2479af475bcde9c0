"""Operations on graphs; every one takes single structures and batches alike."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from graph_pes.tensors import determinant_3x3, index_sum, left_aligned_div, safe_norm

from .ghosts import Z_with_ghosts, added_to_owners, with_ghosts
from .graph import EDGE_VECTORS, NEIGHBOUR_COUNTS, AtomicGraph
from .properties import PropertyKey

# --- what a graph is ---------------------------------------------------------------------


def is_batch(graph: AtomicGraph) -> bool:
    """Whether the graph holds a batch of structures (even of one)."""
    return graph.batch is not None


def number_of_atoms(graph: AtomicGraph) -> int:
    """Number of atoms, N, in all structures together."""
    return graph.Z.shape[0]


def number_of_edges(graph: AtomicGraph) -> int:
    """Number of directed edges, E, in all structures together."""
    return graph.neighbour_list.shape[1]


def number_of_structures(graph: AtomicGraph) -> int:
    """Number of structures, S: 1 for a graph that is not a batch."""
    return 1 if graph.ptr is None else graph.ptr.shape[0] - 1


def structure_sizes(graph: AtomicGraph) -> Tensor:
    """Number of atoms of each structure: shape (S,), or () for a graph that is no batch."""
    if graph.ptr is None:
        return torch.tensor(number_of_atoms(graph), device=graph.Z.device)
    return graph.ptr[1:] - graph.ptr[:-1]


def edges_per_graph(graph: AtomicGraph) -> Tensor:
    """Number of edges of each structure: shape (S,)."""
    if graph.batch is None:
        return torch.tensor([number_of_edges(graph)], device=graph.Z.device)
    structure_of_edge = graph.batch[graph.neighbour_list[0]]
    return torch.bincount(structure_of_edge, minlength=number_of_structures(graph))


def has_cell(graph: AtomicGraph) -> bool:
    """Whether any structure has a unit cell."""
    return bool((graph.cell != 0).any())


def get_cell_volume(graph: AtomicGraph) -> Tensor:
    """Volume of each cell in Å^3 (0 where there is none): shape (), or (S,) for a batch."""
    return determinant_3x3(graph.cell).abs()


def available_properties(graph: AtomicGraph) -> list[PropertyKey]:
    """Names of the labels of a graph."""
    return list(graph.properties)


def is_local_property(x: Tensor, graph: AtomicGraph) -> bool:
    """Whether the shape of ``x`` is that of one value per atom, (N, ...)."""
    return x.dim() > 0 and x.shape[0] == number_of_atoms(graph)


def label_mask(graph: AtomicGraph, key: PropertyKey) -> Tensor:
    """Where a label is present: NaN marks those that are missing from a batch.

    Returns
    -------
    Tensor
        Booleans in the shape of the label.
    """
    return ~torch.isnan(graph.properties[key])


# --- geometry ----------------------------------------------------------------------------


def get_vectors(graph: AtomicGraph, i: Tensor, j: Tensor, shifts: Tensor) -> Tensor:
    """Vectors from atoms i to images of atoms j, ``R[j] + shift @ cell - R[i]``.

    Parameters
    ----------
    i, j
        Atom indices, shape (K,).
    shifts
        Lattice translations of the images, shape (K, 3).

    Returns
    -------
    Tensor
        In Å, shape (K, 3).
    """
    # Half precision has no integers beyond 2048, and few digits for differences of positions.
    dtype = torch.promote_types(graph.R.dtype, torch.float32)
    R, cell, shifts = graph.R.to(dtype), graph.cell.reshape(-1, 3, 3).to(dtype), shifts.to(dtype)
    if cell.shape[0] == 1:
        translations = shifts @ cell[0]
    else:
        assert graph.batch is not None
        rows = cell.reshape(-1, 9).index_select(0, graph.batch.index_select(0, i))  # (K, 9)
        translations = (shifts.unsqueeze(1) @ rows.view(-1, 3, 3)).squeeze(1)
    return (R.index_select(0, j) - R.index_select(0, i) + translations).to(graph.R.dtype)


def neighbour_vectors(graph: AtomicGraph) -> Tensor:
    """Vector from the central atom to the neighbour of each edge, in Å: shape (E, 3).

    Inside `GraphPESModel.predict` these are computed once and shared by all components.
    """
    if EDGE_VECTORS in graph.other:
        return graph.other[EDGE_VECTORS]
    i, j = graph.neighbour_list
    return get_vectors(graph, i, j, graph.neighbour_cell_offsets)


def with_edge_vectors(graph: AtomicGraph, vectors: Tensor) -> AtomicGraph:
    """The same graph, whose `neighbour_vectors` are the given ones, shape (E, 3)."""
    return graph._replace(other={**graph.other, EDGE_VECTORS: vectors})


def neighbour_distances(graph: AtomicGraph) -> Tensor:
    """Length of each edge, in Å: shape (E,)."""
    return safe_norm(neighbour_vectors(graph))


# --- sums and gathers --------------------------------------------------------------------


def sum_over_central_atom_index(
    p: Tensor, central_atom_index: Tensor, graph: AtomicGraph
) -> Tensor:
    """Sum the rows of ``p`` (K, ...) that share a central atom: shape (N, ...)."""
    return index_sum(p, central_atom_index, number_of_atoms(graph))


def sum_over_neighbours(p: Tensor, graph: AtomicGraph) -> Tensor:
    """Sum an edge property (E, ...) over the neighbours of each atom: shape (N, ...)."""
    if NEIGHBOUR_COUNTS in graph.other:
        # a neighbour matrix: E = N D
        return p.reshape(number_of_atoms(graph), -1, *p.shape[1:]).sum(dim=1)
    return index_sum(p, graph.neighbour_list[0], number_of_atoms(graph))


def sum_over_receivers(p: Tensor, graph: AtomicGraph) -> Tensor:
    """Sum an edge property (E, ...) over the edges that lead to each atom: shape (N, ...)."""
    everyone = Z_with_ghosts(graph)
    return added_to_owners(index_sum(p, graph.neighbour_list[1], everyone.shape[0]), graph)


def values_of_structures(
    graph: AtomicGraph, key: str, default: float, dtype: torch.dtype
) -> Tensor:
    """What ``graph.other`` says of each structure, ``total_charge`` say, or the default: (S,)."""
    S = number_of_structures(graph)
    if key not in graph.other:
        return torch.full((S,), default, dtype=dtype, device=graph.Z.device)
    return graph.other[key].to(dtype).reshape(S)


def sum_outer_products_over_neighbours(a: Tensor, b: Tensor, graph: AtomicGraph) -> Tensor:
    """Sum the outer products of edge properties (E, K) and (E, C): shape (N, K, C)."""
    if NEIGHBOUR_COUNTS in graph.other:
        # a neighbour matrix: one matrix product per atom, of which no edge is stored
        N = number_of_atoms(graph)
        return a.view(N, -1, a.shape[1]).transpose(1, 2) @ b.view(N, -1, b.shape[1])
    return sum_over_neighbours(a.unsqueeze(2) * b.unsqueeze(1), graph)


def sum_per_structure(x: Tensor, graph: AtomicGraph) -> Tensor:
    """Sum an atomic property (N, ...) over each structure: shape (...), or (S, ...) for a batch."""
    if graph.batch is None:
        return x.sum(dim=0)
    return index_sum(x, graph.batch, number_of_structures(graph))


def index_over_neighbours(x: Tensor, graph: AtomicGraph) -> Tensor:
    """The value of an atomic property (N, ...) at the neighbour of each edge: shape (E, ...)."""
    # index_select, not x[j]: its derivative adds whole rows, several times faster on CPU.
    return with_ghosts(x, graph).index_select(0, graph.neighbour_list[1])


def index_over_central_atoms(x: Tensor, graph: AtomicGraph) -> Tensor:
    """The value of an atomic property (N, ...) at the central atom of each edge: shape (E, ...)."""
    if NEIGHBOUR_COUNTS in graph.other:
        # a neighbour matrix: its derivative is a sum over a dimension
        D = number_of_edges(graph) // number_of_atoms(graph)
        return x.unsqueeze(1).expand(-1, D, *x.shape[1:]).flatten(0, 1)
    return x.index_select(0, graph.neighbour_list[0])


def neighbour_Z(graph: AtomicGraph) -> Tensor:
    """Atomic number of the neighbour of each edge: shape (E,)."""
    return Z_with_ghosts(graph).index_select(0, graph.neighbour_list[1])


def number_of_neighbours(graph: AtomicGraph, include_central_atom: bool = True) -> Tensor:
    """Number of neighbours of each atom, shape (N,), counting the atom itself by default."""
    counts = graph.other.get(NEIGHBOUR_COUNTS)
    if counts is None:
        counts = torch.bincount(graph.neighbour_list[0], minlength=number_of_atoms(graph))
    return counts + int(include_central_atom)


def divide_per_atom(x: Tensor, graph: AtomicGraph) -> Tensor:
    """Divide a property of structures, (...) or (S, ...), by their number of atoms."""
    return left_aligned_div(x, structure_sizes(graph))


def edge_wise_softmax(
    logits: Tensor,
    graph: AtomicGraph,
    aggregation: Literal["senders", "receivers"] = "senders",
    weights: Tensor | None = None,
) -> Tensor:
    r"""Softmax over the edges that share an atom, safe from overflow.

    .. math::  s_e = \frac{w_e \exp(l_e)}{\sum_{e'} w_{e'} \exp(l_{e'})}

    Parameters
    ----------
    logits
        :math:`l_e`, shape (E, ...).
    aggregation
        ``"senders"`` normalises over edges with the same central atom, ``"receivers"`` over
        those with the same neighbour.
    weights
        :math:`w_e`, none negative, in a shape that broadcasts with the logits; 1 by default.
        Where all of an atom are zero, so is the result.

    Raises
    ------
    ValueError
        For any other ``aggregation``.
    """
    if aggregation not in ("senders", "receivers"):
        raise ValueError(
            f"edge_wise_softmax: expected aggregation 'senders' or 'receivers', got {aggregation!r}"
        )
    index = graph.neighbour_list[0 if aggregation == "senders" else 1]
    N = number_of_atoms(graph)
    expanded = index.view((-1,) + (1,) * (logits.dim() - 1)).expand_as(logits)
    largest = logits.detach().new_full((N, *logits.shape[1:]), -torch.inf)
    largest = largest.scatter_reduce(0, expanded, logits.detach(), "amax")
    exponentials = (logits - largest.index_select(0, index)).exp()
    if weights is None:
        return exponentials / index_sum(exponentials, index, N).index_select(0, index)
    terms = exponentials * weights
    total = index_sum(terms, index, N)
    return terms / torch.where(total == 0, 1.0, total).index_select(0, index)


def remove_mean_and_net_torque(v: Tensor, graph: AtomicGraph) -> Tensor:
    r"""Remove the mean of an atomic vector, and its torque where a structure is not periodic.

    The correction to forces :math:`\mathbf{f}_i` is the smallest rigid-body field
    :math:`\mathbf{a} + \boldsymbol\omega \times \mathbf{r}_i` that leaves neither net force
    nor net torque :math:`\boldsymbol\tau = \sum_i \mathbf{r}_i \times \mathbf{f}_i`, with
    :math:`\mathbf{r}_i` taken from the centroid:
    :math:`\boldsymbol\omega = I^+ \boldsymbol\tau`,
    :math:`I = \sum_i |\mathbf{r}_i|^2 1 - \mathbf{r}_i \mathbf{r}_i^T`.

    Parameters
    ----------
    v
        Shape (N, 3).
    """
    N, S = number_of_atoms(graph), number_of_structures(graph)
    batch = graph.batch if graph.batch is not None else graph.Z.new_zeros(N)
    sizes = structure_sizes(graph).view(-1, 1).clamp(min=1)
    v = v - (index_sum(v, batch, S) / sizes)[batch]
    r = graph.R - (index_sum(graph.R, batch, S) / sizes)[batch]
    torque = index_sum(torch.linalg.cross(r, v), batch, S)  # (S, 3)
    eye = torch.eye(3, dtype=r.dtype, device=r.device)
    inertia = (r * r).sum(-1)[:, None, None] * eye - r[:, :, None] * r[:, None, :]
    # The pseudo-inverse leaves out rotations about the axis of a linear molecule.
    # Positions that are not known (NaN) give NaN rather than an error.
    inertia = index_sum(inertia, batch, S).nan_to_num()
    inverse = torch.linalg.pinv(inertia, hermitian=True)
    omega = (inverse @ torque[..., None])[..., 0]
    periodic = graph.pbc if graph.pbc is not None else (graph.cell != 0).any(-1)
    free = ~periodic.reshape(S, 3).any(-1, keepdim=True)
    return v - torch.linalg.cross((omega * free)[batch], r)
