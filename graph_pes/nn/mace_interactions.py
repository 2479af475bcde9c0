"""How atoms see their neighbours in MACE: weighted sums of features and spherical harmonics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, all_with_ghosts, sum_over_neighbours

from .aggregation import NeighbourAggregation, NeighbourAggregationMode
from .edges import Edges
from .equivariant import EquivariantLinear
from .irreps import Blocks, o3, parse_irreps
from .radial_network import RadialNetwork, radial_network
from .tensor_product import NeighbourTensorProduct

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

#: How sums over neighbours are normalised: `NeighbourDensity` is the additional one.
MACEAggregation: TypeAlias = NeighbourAggregationMode | Literal["density"]


class MLPConfig(TypedDict, total=False):
    """The networks that turn radial bases into weights: any of these keys.

    Attributes
    ----------
    hidden_depth
        Number of hidden layers, 3 by default.
    hidden_features
        Their width, 64 by default, or a list of the width of each.
    activation
        A function of ``torch.nn`` that is 0 at 0, ``"SiLU"`` by default.
    """

    hidden_depth: int
    hidden_features: int | Sequence[int]
    activation: str


#: Values of the keys that are not given.
DEFAULT_MLP: MLPConfig = {"hidden_depth": 3, "hidden_features": 64, "activation": "SiLU"}


@dataclass(frozen=True)
class ElementEdges(Edges):
    """Edges of structures of few elements.

    Attributes
    ----------
    elements
        Unit vectors of the elements of the neighbours, shape (N D, Z).
    embeddings
        Features of these elements, shape (Z, 1, C).
    """

    elements: Tensor
    embeddings: Tensor


class NeighbourDensity(nn.Module):
    r"""Divides sums by one plus a learnt density of neighbours.

    .. math::

        1 + \sum_j \tanh \left( \left( \sum_b w_b f(r_{ij}) \phi_b(r_{ij}) \right)^2 \right)

    with the radial basis :math:`\phi` and its envelope f.

    Parameters
    ----------
    n_radial
        Number of radial functions.
    """

    def __init__(self, n_radial: int):
        super().__init__()
        self.radial_network = RadialNetwork([n_radial, 1])

    def normalised(self, sums: Sequence[Tensor], edges: Edges, graph: AtomicGraph) -> Blocks:
        """Sums over neighbours, shape (N, 2l + 1, C), divided by the density."""
        phi, w = self.radial_network(edges.basis, edges.envelope)
        density = sum_over_neighbours(torch.tanh((phi @ w) ** 2), graph)  # (N, 1)
        return [total / (1 + density).unsqueeze(2) for total in sums]


def parse_aggregation(
    mode: MACEAggregation, n_radial: int
) -> NeighbourAggregation | NeighbourDensity:
    """What normalises sums over neighbours."""
    return NeighbourDensity(n_radial) if mode == "density" else NeighbourAggregation.parse(mode)


def normalised(
    sums: Sequence[Tensor],
    aggregation: NeighbourAggregation | NeighbourDensity,
    edges: Edges,
    graph: AtomicGraph,
) -> Blocks:
    """Sums over neighbours (N, 2l + 1, C) of every irrep, normalised."""
    if isinstance(aggregation, NeighbourDensity):
        return aggregation.normalised(sums, edges, graph)
    return [aggregation.normalised(total, graph) for total in sums]


class Interaction(nn.Module):
    """Features of neighbours, summed with weights that depend on their positions.

    Parameters
    ----------
    irreps_in
        Irreps of the features of atoms.
    channels
        Number of channels of each irrep.
    l_max
        The highest degree of spherical harmonics, and of the result.
    n_radial
        Number of radial functions.
    weights_mlp
        Of the network that makes weights of them.
    aggregation
        Normalisation of the sums.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        channels: int,
        l_max: int,
        n_radial: int,
        weights_mlp: Mapping[str, Any],
        aggregation: MACEAggregation,
    ):
        super().__init__()
        harmonics = o3().Irreps.spherical_harmonics(l_max)
        self.pre_linear = EquivariantLinear(irreps_in, irreps_in)
        self.product = NeighbourTensorProduct(irreps_in, harmonics, harmonics)
        self.radial_network = radial_network(
            n_radial, self.product.n_weights, weights_mlp, DEFAULT_MLP
        )
        wanted = o3().Irreps([(channels, ir) for _, ir in harmonics])
        self.post_linear = EquivariantLinear(self.product.irreps_out, wanted)
        self.irreps_out = self.post_linear.irreps_out
        self.aggregation = parse_aggregation(aggregation, n_radial)

    def forward(self, x: Sequence[Tensor], edges: Edges, graph: AtomicGraph) -> Blocks:
        """From blocks of ``irreps_in`` to blocks of ``irreps_out``."""
        phi, V = self.radial_network(edges.basis, edges.envelope)
        h = all_with_ghosts(self.pre_linear(x), graph)
        sums = self.product(h, edges.harmonics, phi, V, edges.neighbours)
        return self.post_linear(normalised(sums, self.aggregation, edges, graph))


class ElementInteraction(nn.Module):
    r"""As `Interaction`, of features that depend on the element of the neighbour only.

    The sum over neighbours comes first, and needs no channels,

    .. math::

        G_{i, l m, z q} = \sum_{j \in z} \phi_q(r_{ij}) Y_{l m}(\hat{\mathbf{r}}_{ij}), \qquad
        m_{i, l m, c} = \sum_{z q} G_{i, l m, z q} V_{q, l c} h_{z c} .

    Parameters
    ----------
    channels, l_max, n_radial, weights_mlp, aggregation
        See `Interaction`.
    """

    def __init__(
        self,
        channels: int,
        l_max: int,
        n_radial: int,
        weights_mlp: Mapping[str, Any],
        aggregation: MACEAggregation,
    ):
        super().__init__()
        self.sizes = [2 * l + 1 for l in range(l_max + 1)]
        scalars = parse_irreps(f"{channels}x0e")
        harmonics = o3().Irreps.spherical_harmonics(l_max)
        self.irreps_out = o3().Irreps([(channels, ir) for _, ir in harmonics])
        self.pre_linear = EquivariantLinear(scalars, scalars)
        self.radial_network = radial_network(
            n_radial, channels * len(self.sizes), weights_mlp, DEFAULT_MLP
        )
        self.post_linear = EquivariantLinear(self.irreps_out, self.irreps_out)
        self.aggregation = parse_aggregation(aggregation, n_radial)

    def forward(self, x: Sequence[Tensor], edges: Edges, graph: AtomicGraph) -> Blocks:
        """Blocks of ``irreps_out``, from the features of elements that come with the edges."""
        assert isinstance(edges, ElementEdges)
        (N, D), Z = edges.neighbours.shape, edges.elements.shape[1]
        phi, V = self.radial_network(edges.basis, edges.envelope)
        if Z > 1:
            phi = (edges.elements.unsqueeze(2) * phi.unsqueeze(1)).flatten(1)  # (N D, Z Q)
        Y = edges.harmonics.view(N, D, -1)
        G = torch.bmm(Y.transpose(1, 2), phi.view(N, D, -1))  # (N, components, Z Q)
        (h,) = self.pre_linear([edges.embeddings])  # (Z, 1, C)
        sums = [
            G_l @ (V_l * h).flatten(0, 1)
            for G_l, V_l in zip(G.split(self.sizes, 1), V.chunk(len(self.sizes), 1), strict=True)
        ]
        return self.post_linear(normalised(sums, self.aggregation, edges, graph))
