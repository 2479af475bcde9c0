"""TensorNet: messages of 3×3 matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    DEFAULT_CUTOFF,
    AtomicGraph,
    PropertyKey,
    neighbour_vectors,
    neighbour_Z,
    undirected_edges,
    with_ghosts,
)
from graph_pes.nn.cartesian import (
    DensityExpansion,
    MatrixLinear,
    MatrixProduct,
    NeighbourSum,
    components_of_directions,
    linear_per_component,
    per_component,
    squared_norms,
    squared_norms_of_parts,
    vectors_of,
)
from graph_pes.nn.envelopes import CosineEnvelope
from graph_pes.nn.mlp import MLP
from graph_pes.nn.per_element import PerElementEmbedding
from graph_pes.nn.radial import DistanceExpansion, ExponentialRBF, get_distance_expansion
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.nn.trilinear import distinct
from graph_pes.periodic_table import MAX_Z
from graph_pes.tensors import index_sum, safe_norm

from .base import GraphPESModel

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
        self.filters = nn.Linear(radial_features, 3 * channels)
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

        # First over the neighbours of one element, whose number is what matters from here on.
        i, Z_j, matrices, basis = self.directed(edges)
        groups, group = distinct(i * (MAX_Z + 1) + Z_j)
        densities = DensityExpansion(group, groups.shape[0])(0, matrices, basis)
        x = linear_per_component(densities, self.weights())  # (groups, 9, C)
        atom, element = groups // (MAX_Z + 1), groups % (MAX_Z + 1)
        of_group = nn.functional.linear(self.elements(element), of_neighbour)
        pairs = centre.index_select(0, atom) + of_group
        x = index_sum(x * pairs.unsqueeze(1), atom, Z.shape[0])
        if self.self_edges:  # of the identity alone
            identity = components_of_directions(edges.directions.new_zeros(1, 3))
            filters = self.filters(edges.at_zero).unflatten(1, (3, -1))[:, :1]
            x = x + identity.unsqueeze(2) * (filters * (centre + neighbour).unsqueeze(1))
        return x

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
        self.filters = MLP([radial_features, *hidden, 3 * channels], "SiLU", activate_last=True)
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


class TensorNet(GraphPESModel):
    r"""Messages of 3×3 matrices.

    Simeon and de Fabritiis, doi:10.48550/arXiv.2306.06482. Each atom carries C matrices, sums of
    a scalar (I), an antisymmetric (A) and a symmetric traceless part (S), which are multiplied
    with those of its neighbours. Local energies are read from the norms of the parts, and scaled
    per element.

    ``variant`` names the implementation whose details are followed:

    ================== ============================================================
    ``"graph-pes"``    graph-pes 1: the default
    ``"torchmd-net"``  TorchMD-Net, of the authors of the paper: messages are mixed matrices,
                       every atom is a neighbour of its own, pairs of elements have a bias,
                       filters are a layer deeper, energies are read by narrower layers. Its
                       radial functions are `ExpNormal`.
    ``"matgl"``        MatGL: as TorchMD-Net, but no atom is a neighbour of its own, and a gated
                       network reads the energies. Its foundation models have `SmoothBessel`.
    ================== ============================================================

    Unlike graph-pes 1, all layers share the radial functions of ``radial_expansion``, whose
    parameters are trained. There, each layer has its own, and only the embedding has those that
    were asked for.

    Parameters
    ----------
    cutoff
        In Å.
    radial_features
        Number of radial basis functions, B.
    radial_expansion
        The radial basis: a `DistanceExpansion` class or its name.
    channels
        C.
    layers
        Number of interactions.
    direct_force_predictions
        Read forces from the antisymmetric parts, rather than take the derivative of the energy.
    group
        The symmetries of what is predicted: ``"O(3)"``, or ``"SO(3)"`` to tell a structure from
        its mirror image.
    variant
        See above.
    charged
        Whether products depend on the total charge of a structure, taken from
        ``graph.other["total_charge"]`` (zero if there is none) in units of e.

    Raises
    ------
    ValueError
        If there is no such group or variant.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = TensorNet(channels=8, layers=1, cutoff=4.0)
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        cutoff: float = DEFAULT_CUTOFF,
        radial_features: int = 32,
        radial_expansion: type[DistanceExpansion] | str = ExponentialRBF,
        channels: int = 32,
        layers: int = 2,
        direct_force_predictions: bool = False,
        group: Group = "O(3)",
        variant: Literal["graph-pes", "torchmd-net", "matgl"] = "graph-pes",
        charged: bool = False,
    ):
        properties = ["local_energies"] + (["forces"] if direct_force_predictions else [])
        super().__init__(cutoff, implemented_properties=properties)
        for name, value, known in (
            ("group", group, ["O(3)", "SO(3)"]),
            ("variant", variant, list(VARIANTS)),
        ):
            if value not in known:
                raise ValueError(f"TensorNet: expected {name} to be one of {known}, got {value!r}")
        choices = VARIANTS[variant]
        self.charged = charged
        self.radial = get_distance_expansion(radial_expansion)(radial_features, cutoff)
        self.envelope = CosineEnvelope(cutoff)
        self.embedding = Embedding(channels, radial_features, choices)
        self.interactions = nn.ModuleList(
            Interaction(channels, radial_features, group, choices) for _ in range(layers)
        )
        self.read_out = ReadOut(channels, choices)
        self.force_read_out = (
            nn.Linear(channels, 1, bias=False) if direct_force_predictions else None
        )
        self.scaler = LocalEnergiesScaler()

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,) and, if they are predicted directly, forces (N, 3)."""
        edges, charges = self._edges(graph), self._charges(graph)
        x = self.embedding(edges)
        for interaction in self.interactions:
            x = interaction(x, edges, charges)
        predictions = {"local_energies": self.scaler(self.read_out(x), graph)}
        if self.force_read_out is not None:
            predictions["forces"] = self.force_read_out(vectors_of(x)).squeeze(2)
        return predictions

    def _edges(self, graph: AtomicGraph) -> Edges:
        """The geometry, once for all layers; one edge of each pair, where both are there."""
        per_edge = (neighbour_vectors(graph), *graph.neighbour_list, neighbour_Z(graph))
        pairs = undirected_edges(graph)
        if pairs is not None:
            per_edge = tuple(x.index_select(0, pairs) for x in per_edge)
        vectors, i, j, Z_j = per_edge
        r = safe_norm(vectors).unsqueeze(1)  # (P, 1)
        return Edges(
            graph=graph,
            i=i,
            j=j,
            Z_j=Z_j,
            symmetric=pairs is not None,
            directions=vectors / r,
            basis=self.radial(r),
            envelope=self.envelope(r),
            at_zero=self.radial(vectors.new_zeros(1, 1)),
        )

    def _charges(self, graph: AtomicGraph) -> Tensor | None:
        """The total charge of the structure of each atom, shape (N,), if it matters."""
        if not self.charged or "total_charge" not in graph.other:
            return None
        charge = graph.other["total_charge"].to(neighbour_vectors(graph).dtype).reshape(-1)
        return charge.expand(graph.Z.shape[0]) if graph.batch is None else charge[graph.batch]
