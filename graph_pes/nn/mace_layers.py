r"""Layers of MACE: sums over neighbours, symmetric contractions of them, and what they make.

Batatia et al., doi:10.48550/arXiv.2206.07697.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    as_neighbour_matrix,
    neighbour_matrix,
    neighbour_vectors,
)
from graph_pes.tensors import safe_norm

from .aggregation import NeighbourAggregation, NeighbourAggregationMode
from .envelopes import PolynomialEnvelope
from .equivariant import EquivariantBilinear, EquivariantLinear, checked_unique
from .irreps import Blocks, o3, parse_irreps
from .mlp import parse_activation
from .per_element import PerElementEmbedding
from .radial import DistanceExpansion, get_distance_expansion
from .radial_network import RadialNetwork
from .spherical_harmonics import SphericalHarmonics
from .symmetric_contraction import SymmetricContraction
from .tensor_product import NeighbourTensorProduct

if TYPE_CHECKING:
    from e3nn.o3 import Irrep, Irreps


class MLPConfig(TypedDict, total=False):
    """The networks that turn radial bases into weights: any of these keys.

    Attributes
    ----------
    hidden_depth
        Number of hidden layers, 3 by default.
    hidden_features
        Their width, 64 by default.
    activation
        A function of ``torch.nn`` that is 0 at 0, ``"SiLU"`` by default.
    """

    hidden_depth: int
    hidden_features: int
    activation: str


#: Values of the keys that are not given.
DEFAULT_MLP: MLPConfig = {"hidden_depth": 3, "hidden_features": 64, "activation": "SiLU"}


def radial_network(n_radial: int, n_weights: int, config: Mapping[str, Any]) -> RadialNetwork:
    """The network from radial functions to weights; see `MLPConfig`.

    Raises
    ------
    ValueError
        For unknown keys, or for an activation that is not 0 at 0, with which messages would not
        end at the cutoff.
    """
    if unknown := set(config) - set(DEFAULT_MLP):
        raise ValueError(f"weights_mlp: expected {list(DEFAULT_MLP)}, got {sorted(unknown)}")
    settings: dict[str, Any] = {**DEFAULT_MLP, **config}
    activation = settings["activation"]
    if parse_activation(activation)(torch.zeros(1)).item() != 0:
        raise ValueError(f"weights_mlp: expected an activation that is 0 at 0, got {activation}")
    hidden = [settings["hidden_features"]] * settings["hidden_depth"]
    return RadialNetwork([n_radial, *hidden, n_weights], activation)


#: Up to how many elements sums over neighbours of each are taken, rather than of channels.
FEW_ELEMENTS = 4


@dataclass(frozen=True)
class Edges:
    """What layers need to know of the neighbours of each atom.

    Attributes
    ----------
    neighbours
        Shape (N, D).
    harmonics
        Spherical harmonics of the directions to them, shape (N D, components).
    basis, envelope
        Radial functions of the distances, shape (N D, B), and (N D, 1).
    elements
        Unit vectors of the elements of the neighbours, shape (N D, Z), if there are few.
    embeddings
        Features of these elements, shape (Z, 1, C).
    """

    neighbours: Tensor
    harmonics: Tensor
    basis: Tensor
    envelope: Tensor
    elements: Tensor | None
    embeddings: Tensor | None


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
        aggregation: NeighbourAggregationMode,
    ):
        super().__init__()
        harmonics = o3().Irreps.spherical_harmonics(l_max)
        self.pre_linear = EquivariantLinear(irreps_in, irreps_in)
        self.product = NeighbourTensorProduct(irreps_in, harmonics, harmonics)
        self.radial_network = radial_network(n_radial, self.product.n_weights, weights_mlp)
        wanted = o3().Irreps([(channels, ir) for _, ir in harmonics])
        self.post_linear = EquivariantLinear(self.product.irreps_out, wanted)
        self.irreps_out = self.post_linear.irreps_out
        self.aggregation = NeighbourAggregation.parse(aggregation)

    def forward(self, x: Sequence[Tensor], edges: Edges, graph: AtomicGraph) -> Blocks:
        """From blocks of ``irreps_in`` to blocks of ``irreps_out``."""
        phi, V = self.radial_network(edges.basis, edges.envelope)
        sums = self.product(self.pre_linear(x), edges.harmonics, phi, V, edges.neighbours)
        return self.post_linear([self.aggregation.normalised(total, graph) for total in sums])


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
        aggregation: NeighbourAggregationMode,
    ):
        super().__init__()
        self.sizes = [2 * l + 1 for l in range(l_max + 1)]
        scalars = parse_irreps(f"{channels}x0e")
        harmonics = o3().Irreps.spherical_harmonics(l_max)
        self.irreps_out = o3().Irreps([(channels, ir) for _, ir in harmonics])
        self.pre_linear = EquivariantLinear(scalars, scalars)
        self.radial_network = radial_network(n_radial, channels * len(self.sizes), weights_mlp)
        self.post_linear = EquivariantLinear(self.irreps_out, self.irreps_out)
        self.aggregation = NeighbourAggregation.parse(aggregation)

    def forward(self, x: Sequence[Tensor], edges: Edges, graph: AtomicGraph) -> Blocks:
        """Blocks of ``irreps_out``, from the features of elements that come with the edges."""
        assert edges.elements is not None
        assert edges.embeddings is not None
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
        return self.post_linear([self.aggregation.normalised(total, graph) for total in sums])


class MACELayer(nn.Module):
    """An interaction, a symmetric contraction, and a residual connection.

    Parameters
    ----------
    interaction
        What sums over neighbours.
    irreps_in
        Irreps of the features of atoms.
    irreps_out
        Those that are wanted.
    correlation
        The highest order of the contraction.
    attributes
        Length of the description of atoms.
    mixing
        Whether the sums are mixed in a way that depends on the atom.
    residual
        Whether the features of the atom itself are added.
    """

    def __init__(
        self,
        interaction: Interaction | ElementInteraction,
        irreps_in: Irreps,
        irreps_out: Irreps,
        correlation: int,
        attributes: int,
        mixing: bool,
        residual: bool,
    ):
        super().__init__()
        self.interaction = interaction
        summed = interaction.irreps_out
        self.mixing = EquivariantBilinear(summed, attributes, summed) if mixing else None
        self.contraction = SymmetricContraction(summed, irreps_out, correlation, attributes)
        self.linear = EquivariantLinear(self.contraction.irreps_out, irreps_out)
        none = o3().Irreps([])
        self.residual = EquivariantBilinear(irreps_in if residual else none, attributes, irreps_out)
        contracted = [ir for _, ir in self.linear.irreps_out]
        kept = [ir for _, ir in self.residual.irreps_out]
        self.irreps_out = o3().Irreps(
            [(mul, ir) for mul, ir in irreps_out if ir in contracted or ir in kept]
        )
        # Where the terms of each irrep are, in the contracted features and in those kept.
        self.terms = [
            [irreps.index(ir) if ir in irreps else None for irreps in (contracted, kept)]
            for _, ir in self.irreps_out
        ]

    def forward(
        self,
        x: Sequence[Tensor],
        attributes: Tensor,
        edges: Edges,
        graph: AtomicGraph,
    ) -> Blocks:
        """From blocks of ``irreps_in`` to blocks of ``irreps_out``."""
        summed = self.interaction(x, edges, graph)
        if self.mixing is not None:
            summed = self.mixing(summed, attributes)
        parts = (
            self.linear(self.contraction(summed, attributes, graph.Z)),
            self.residual(x, attributes),
        )
        return [
            sum(
                part[index] for part, index in zip(parts, indices, strict=True) if index is not None
            )
            for indices in self.terms
        ]


def parse_hidden_irreps(irreps: str | Sequence[str]) -> list[Irrep]:
    """Kinds of features, such as ``"0e + 1o"`` or ``["0e", "1o"]``; scalars must be among them.

    Raises
    ------
    ValueError
        If there are no scalars, or an irrep has channels or occurs twice.
    """
    text = irreps if isinstance(irreps, str) else " + ".join(irreps)
    parsed = checked_unique(parse_irreps(text))
    if any(mul != 1 for mul, _ in parsed):
        raise ValueError(
            f"hidden_irreps: expected irreps without channels, such as '0e + 1o', got {text!r}; "
            "the number of channels is an argument of its own"
        )
    if o3().Irrep("0e") not in parsed:
        raise ValueError(f"hidden_irreps: expected scalars, '0e', among them, got {text!r}")
    return [ir for _, ir in parsed]


@dataclass(frozen=True)
class MACESettings:
    """What the layers are made of; see `graph_pes.models.MACE` for the meaning of each.

    Attributes
    ----------
    irreps_last
        Kinds of features that the last layer makes.
    first_layer
        What the first layer does besides passing messages: ``"mixing"`` or ``"residual"``.
    """

    cutoff: float
    n_radial: int
    radial_expansion: type[DistanceExpansion] | str
    weights_mlp: Mapping[str, Any]
    channels: int
    hidden_irreps: str | Sequence[str]
    irreps_last: str
    l_max: int
    layers: int
    correlation: int
    aggregation: NeighbourAggregationMode
    self_connection: bool
    first_layer: Literal["mixing", "residual"]


class MACERepresentation(nn.Module):
    """Features of each atom after every layer.

    Parameters
    ----------
    settings
        Of the layers.
    describe
        What describes an atom: from atomic numbers (N,) to vectors (N, n).
    attributes
        Their length n.
    elements
        Atomic numbers of all elements, in the order of the components of ``describe``, if these
        are unit vectors.

    Attributes
    ----------
    irreps_out
        Irreps of the features after every layer.
    """

    numbers: Tensor

    def __init__(
        self,
        settings: MACESettings,
        describe: nn.Module,
        attributes: int,
        elements: Sequence[int] = (),
    ):
        super().__init__()
        s = settings
        if s.first_layer not in ("mixing", "residual"):
            raise ValueError(f"first_layer: expected 'mixing' or 'residual', got {s.first_layer!r}")
        if s.layers < 1:
            raise ValueError(f"layers: expected at least one, got {s.layers}")
        self.cutoff = float(s.cutoff)
        self.describe = describe
        self.embedding = PerElementEmbedding(s.channels)
        self.radial = get_distance_expansion(s.radial_expansion)(s.n_radial, s.cutoff)
        self.envelope = PolynomialEnvelope(s.cutoff, p=5)
        self.harmonics = SphericalHarmonics(range(s.l_max + 1))
        hidden = o3().Irreps([(s.channels, ir) for ir in parse_hidden_irreps(s.hidden_irreps)])
        last = o3().Irreps([(s.channels, ir) for _, ir in parse_irreps(s.irreps_last)])
        irreps = parse_irreps(f"{s.channels}x0e")
        self.few_elements = 0 < len(elements) <= FEW_ELEMENTS
        self.register_buffer("numbers", torch.tensor(elements, dtype=torch.long), persistent=False)
        self.layers = nn.ModuleList()
        self.irreps_out: list[Irreps] = []
        for n in range(s.layers):
            mixing = n == 0 and s.first_layer == "mixing"
            arguments = (s.channels, s.l_max, s.n_radial, s.weights_mlp, s.aggregation)
            layer = MACELayer(
                ElementInteraction(*arguments)
                if n == 0 and self.few_elements
                else Interaction(irreps, *arguments),
                irreps,
                last if n == s.layers - 1 else hidden,
                s.correlation,
                attributes,
                mixing=mixing,
                residual=s.self_connection and not mixing,
            )
            self.layers.append(layer)
            irreps = layer.irreps_out
            self.irreps_out.append(irreps)

    def forward(self, graph: AtomicGraph) -> list[Blocks]:
        """Blocks of features (N, 2l + 1, C) after every layer."""
        graph = as_neighbour_matrix(graph)
        vectors = neighbour_vectors(graph)  # (N D, 3)
        r = safe_norm(vectors).unsqueeze(-1)
        neighbours = neighbour_matrix(graph)
        attributes = self.describe(graph.Z).to(vectors.dtype)
        elements = embeddings = None
        if self.few_elements:
            elements = attributes.index_select(0, neighbours.reshape(-1))
            embeddings = self.embedding(self.numbers).unsqueeze(1)
        edges = Edges(
            neighbours,
            self.harmonics(vectors),
            self.radial(r),
            self.envelope(r),
            elements,
            embeddings,
        )
        x, after = [self.embedding(graph.Z).unsqueeze(1)], []
        for layer in self.layers:
            x = layer(x, attributes, edges, graph)
            after.append(x)
        return after
