"""Layers of TensorNet: embedding, interaction and read-out of 3×3 matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, sum_over_neighbours, with_ghosts
from graph_pes.periodic_table import MAX_Z
from graph_pes.tensors import index_sum, is_traced

from .cartesian import (
    PARTS,
    DensityExpansion,
    MatrixLinear,
    MatrixProduct,
    NeighbourSum,
    components_of_directions,
    linear_per_component,
    per_component,
    squared_norms,
    squared_norms_of_parts,
)
from .mlp import MLP
from .per_element import PerElementEmbedding
from .radial_table import RadialLinear, RadialMLP

Group = Literal["O(3)", "SO(3)"]


@dataclass(frozen=True)
class Variant:
    """Choices in which implementations of TensorNet differ.

    Attributes
    ----------
    mixed_messages
        Whether neighbours send their matrices after mixing of channels, or before.
    self_edges
        Whether every atom is a neighbour of its own, at distance zero.
    pair_bias
        Whether the embedding of pairs of elements has a bias.
    filter_layers, read_out_layers
        Widths of hidden layers, in multiples of the channels.
    linear_layer
        Whether the read-out begins with a linear layer and no activation.
    gated
        Whether what is read out is multiplied by a second such network, after a sigmoid.
    """

    mixed_messages: bool
    self_edges: bool
    pair_bias: bool
    filter_layers: tuple[float, ...]
    read_out_layers: tuple[float, ...]
    linear_layer: bool = False
    gated: bool = False


VARIANTS = {
    "graph-pes": Variant(False, False, False, (2,), (2,)),
    "torchmd-net": Variant(True, True, True, (1, 2), (1, 0.5)),
    "matgl": Variant(True, False, True, (1, 2), (1, 1, 1), linear_layer=True, gated=True),
}


@dataclass(frozen=True)
class Edges:
    """What layers need to know of the neighbours of each atom.

    Attributes
    ----------
    graph
        The graph that they are edges of.
    i, j
        Central atom and neighbour of each edge, shape (P,).
    Z_j
        Atomic number of the neighbour, shape (P,).
    symmetric
        Whether each edge stands for its reverse too.
    directions
        Unit vectors from i to j, shape (P, 3).
    basis
        Radial functions of the distance, shape (P, B).
    envelope
        Shape (P, 1).
    at_zero
        Radial functions of distance zero, where the envelope is 1: shape (1, B).
    """

    graph: AtomicGraph
    i: Tensor
    j: Tensor
    Z_j: Tensor
    symmetric: bool
    directions: Tensor
    basis: Tensor
    envelope: Tensor
    at_zero: Tensor


class Embedding(nn.Module):
    r"""The first matrices of each atom, from the elements and directions of its neighbours.

    .. math::

        X_i = \sum_j f_c(r_{ij}) Z_{ij} \big( w_I(r_{ij}) 1 + w_A(r_{ij}) [\hat{r}_{ij}]_\times
        + w_S(r_{ij}) (\hat{r}_{ij} \hat{r}_{ij}^T - \tfrac{1}{3}) \big)

    where :math:`w` are linear in the radial functions and :math:`Z_{ij}` in the embeddings of
    both elements. I, A and S are mixed, and scaled by an MLP of :math:`\|X_i\|^2`.

    Parameters
    ----------
    channels
        C.
    radial_features
        B.
    variant
        Which implementation is followed.
    """

    def __init__(self, channels: int, radial_features: int, variant: Variant):
        super().__init__()
        self.self_edges = variant.self_edges
        self.elements = PerElementEmbedding(channels)
        self.pairs = nn.Linear(2 * channels, channels, bias=variant.pair_bias)
        self.filters = RadialLinear(radial_features, 3 * channels)
        self.norm = nn.LayerNorm(channels)
        self.scales = MLP([channels, 2 * channels, 3 * channels], "SiLU", activate_last=True)
        self.mix = MatrixLinear(channels)

    def forward(self, edges: Edges) -> Tensor:
        """Matrices, shape (N, 9, C)."""
        x = self.sums(edges)
        scales = self.scales(self.norm(squared_norms(x)))
        return scaled_parts(self.mix(x), scales.unflatten(1, (3, -1)))

    def sums(self, edges: Edges) -> Tensor:
        """Sums over neighbours of products of elements, radial functions and directions."""
        Z = edges.graph.Z
        h = self.elements(Z)
        of_centre, of_neighbour = self.pairs.weight.chunk(2, dim=1)
        centre = nn.functional.linear(h, of_centre, self.pairs.bias)
        neighbour = nn.functional.linear(h, of_neighbour)

        if is_traced(edges.i.shape[0]):
            x = self.sums_of_edges(edges, centre, of_neighbour)
        else:
            x = self.sums_by_element(edges, centre, of_neighbour)
        if self.self_edges:  # of the identity alone
            identity = components_of_directions(edges.directions.new_zeros(1, 3))
            filters = self.filters(edges.at_zero).unflatten(1, (3, -1))[:, :1]
            x = x + identity.unsqueeze(2) * (filters * (centre + neighbour).unsqueeze(1))
        return x

    def sums_by_element(self, edges: Edges, centre: Tensor, of_neighbour: Tensor) -> Tensor:
        """First over the neighbours of one element, whose number is what matters from here on."""
        i, Z_j, matrices, basis = self.directed(edges)
        groups, group = torch.unique(i * (MAX_Z + 1) + Z_j, return_inverse=True)
        densities = DensityExpansion(group, groups.shape[0])(0, matrices, basis)
        x = linear_per_component(densities, self.weights())  # (groups, 9, C)
        atom, element = groups // (MAX_Z + 1), groups % (MAX_Z + 1)
        pairs = nn.functional.linear(self.elements(element), of_neighbour)
        pairs = pairs + centre.index_select(0, atom)
        return index_sum(x * pairs.unsqueeze(1), atom, centre.shape[0])

    def sums_of_edges(self, edges: Edges, centre: Tensor, of_neighbour: Tensor) -> Tensor:
        """The same edge by edge: how many elements there are is not known when it is traced."""
        i, Z_j, matrices, basis = self.directed(edges)
        everything = torch.arange(MAX_Z + 1, device=Z_j.device)
        of_element = nn.functional.linear(self.elements(everything), of_neighbour)
        pairs = centre.index_select(0, i) + of_element.index_select(0, Z_j)
        filters = nn.functional.linear(basis, self.weights().flatten(0, 1)).unflatten(1, (3, -1))
        return sums_of_parts(matrices.unsqueeze(2), filters * pairs.unsqueeze(1), i, edges)

    def weights(self) -> Tensor:
        """Of radial functions and, in the last column, of one: shape (3, C, B + 1)."""
        weight = torch.cat([self.filters.weight, self.filters.bias[:, None]], dim=1)
        return weight.unflatten(0, (3, -1))

    @staticmethod
    def directed(edges: Edges) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of all edges: i, Z_j, components (E, 9) and enveloped radial functions (E, B + 1)."""
        i, Z_j, r = edges.i, edges.Z_j, edges.directions
        basis = torch.cat([edges.basis * edges.envelope, edges.envelope], dim=1)
        if edges.symmetric:
            Z_j = torch.cat([Z_j, edges.graph.Z.index_select(0, i)])
            i = torch.cat([i, edges.j])
            r, basis = torch.cat([r, -r]), torch.cat([basis, basis])
        return i, Z_j, components_of_directions(r), basis


class Interaction(nn.Module):
    r"""Products of an atom's matrices with those of its neighbours.

    .. math::

        X_i &\leftarrow X_i / (\|X_i\|^2 + 1), \qquad Y_i = W X_i, \qquad
        M_i = \sum_j f(r_{ij}) Y_j \\
        Z_i &= Y_i M_i + M_i Y_i, \qquad \Delta X_i = W' Z_i / (\|Z_i\|^2 + 1) \\
        X_i &\leftarrow X_i + \Delta X_i + \Delta X_i^2

    with filters :math:`f` and weights :math:`W` of I, A and S each. For a charge :math:`q`,
    :math:`Z_i` (unless the group is SO(3)) and :math:`\Delta X_i^2` are multiplied by
    :math:`1 + q / 10`.

    Parameters
    ----------
    channels
        C.
    radial_features
        B.
    group
        ``"SO(3)"`` has :math:`Z_i = 2 Y_i M_i`.
    variant
        Which implementation is followed.
    """

    def __init__(self, channels: int, radial_features: int, group: Group, variant: Variant):
        super().__init__()
        self.mixed_messages, self.self_edges = variant.mixed_messages, variant.self_edges
        self.group = group
        hidden = [int(width * channels) for width in variant.filter_layers]
        layers = [radial_features, *hidden, 3 * channels]
        self.filters = RadialMLP(layers, "SiLU", activate_last=True)
        self.mix = MatrixLinear(channels)
        self.mix_products = MatrixLinear(channels)
        self.product = MatrixProduct(symmetric=group == "O(3)")
        self.square = MatrixProduct(symmetric=False)

    def forward(self, x: Tensor, edges: Edges, charges: Tensor | None) -> Tensor:
        """From matrices (N, 9, C), and charges (N,) if there are any, to new matrices."""
        factor = 1.0 if charges is None else (1 + 0.1 * charges)[:, None, None]
        x = normalised(x)
        y = self.mix(x)
        z = self.product(y, self.messages(y if self.mixed_messages else x, edges))
        z = (2 if self.group == "SO(3)" else factor) * z
        dx = self.mix_products(normalised(z))
        return x + dx + factor * self.square(dx, dx)

    def messages(self, y: Tensor, edges: Edges) -> Tensor:
        """Sums of the matrices of neighbours: shape (N, 9, C)."""
        filters = (self.filters(edges.basis) * edges.envelope).unflatten(1, (3, -1))
        of_all = with_ghosts(y, edges.graph)
        if is_traced(edges.i.shape[0]) and not edges.symmetric:
            messages = sums_of_parts(of_all.index_select(0, edges.j), filters, edges.i, edges)
        else:
            sizes = (y.shape[0], of_all.shape[0])
            messages = NeighbourSum(edges.i, edges.j, edges.symmetric, sizes)(0, filters, of_all)
        if self.self_edges:
            messages = messages + scaled_parts(y, self.filters(edges.at_zero).unflatten(1, (3, -1)))
        return messages


class ReadOut(nn.Module):
    r"""A network of the norms of I, A and S.

    Parameters
    ----------
    channels
        C.
    variant
        Which implementation is followed.
    """

    def __init__(self, channels: int, variant: Variant):
        super().__init__()
        self.norm = nn.LayerNorm(3 * channels)
        width = 3 * channels
        self.linear = nn.Linear(width, channels) if variant.linear_layer else nn.Identity()
        hidden = [int(factor * channels) for factor in variant.read_out_layers]
        layers = [channels if variant.linear_layer else width, *hidden, 1]
        self.mlp = MLP(layers, "SiLU")
        self.gates = MLP(layers, "SiLU") if variant.gated else None

    def forward(self, x: Tensor) -> Tensor:
        """From matrices (N, 9, C) to scalars (N, 1)."""
        h = self.linear(self.norm(squared_norms_of_parts(x)))
        return self.mlp(h) if self.gates is None else self.mlp(h) * self.gates(h).sigmoid()


def normalised(x: Tensor) -> Tensor:
    r"""Matrices over :math:`\|X\|^2 + 1`: shape (N, 9, C)."""
    return x * (squared_norms(x).unsqueeze(1) + 1).reciprocal()


def scaled_parts(x: Tensor, scales: Tensor) -> Tensor:
    """I, A and S of matrices (N, 9, C), scaled by (N, 3, C) or (1, 3, C)."""
    return x * per_component(scales, dim=1)


def sums_of_parts(x: Tensor, weights: Tensor, i: Tensor, edges: Edges) -> Tensor:
    """Sums over neighbours of I, A and S (E, 9, C) times weights (E, 3, C): shape (N, 9, C).

    In a form for compilers, which store nothing of the size of the products.
    """
    sums = []
    for n, part in enumerate(PARTS):
        products = x[:, part] * weights[:, n : n + 1]
        if edges.symmetric:
            sums.append(index_sum(products, i, edges.graph.Z.shape[0]))
        else:
            sums.append(sum_over_neighbours(products, edges.graph))
    return torch.cat(sums, dim=1)
