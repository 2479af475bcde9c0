r"""Layers of MACE: sums over neighbours, symmetric contractions of them, and what they make.

Batatia et al., doi:10.48550/arXiv.2206.07697.
"""

from __future__ import annotations

import math
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
from .equivariant import EquivariantLinear, checked_unique
from .irreps import Blocks, o3, parse_irreps
from .mlp import MLP, parse_activation
from .per_element import PerElementEmbedding
from .radial import DistanceExpansion, get_distance_expansion
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


class RadialNetwork(nn.Module):
    """A network without biases, zero where its input is, kept apart from its last layer.

    Parameters
    ----------
    n_radial
        Length of the input, B.
    n_weights
        Length of the output.
    config
        Of the hidden layers.

    Raises
    ------
    ValueError
        For unknown keys, or for an activation that is not 0 at 0, with which messages would not
        end at the cutoff.
    """

    def __init__(self, n_radial: int, n_weights: int, config: Mapping[str, Any]):
        super().__init__()
        if unknown := set(config) - set(DEFAULT_MLP):
            raise ValueError(f"weights_mlp: expected {list(DEFAULT_MLP)}, got {sorted(unknown)}")
        settings: dict[str, Any] = {**DEFAULT_MLP, **config}
        depth, width = settings["hidden_depth"], settings["hidden_features"]
        activation = parse_activation(settings["activation"])
        if activation(torch.zeros(1)).item() != 0:
            raise ValueError(
                f"weights_mlp: expected an activation that is 0 at 0, got {settings['activation']}"
            )
        layers = [n_radial, *[width] * depth]
        self.hidden = (
            MLP(layers, activation, activate_last=True, bias=False) if depth > 0 else nn.Identity()
        )
        self.last = nn.Linear(layers[-1], n_weights, bias=False)

    def forward(self, basis: Tensor) -> tuple[Tensor, Tensor]:
        """From a basis (E, B) to the last hidden layer (E, Q) and what it is multiplied with."""
        return self.hidden(basis), self.last.weight.T


class AttributeLinear(nn.Module):
    r"""Mixes channels in a way that depends linearly on what describes an atom.

    .. math::

        y_{i, m, c'} = \frac{1}{\sqrt{n C}} \sum_{a c} t_{i a} W_{a c c'} x_{i, m, c}

    Parameters
    ----------
    irreps_in, irreps_out
        Each irrep once; only those that both have are made: ``self.irreps_out``.
    attributes
        Length n of the description t.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, attributes: int):
        super().__init__()
        channels = {ir: (index, mul) for index, (mul, ir) in enumerate(irreps_in)}
        self.irreps_out = o3().Irreps([(mul, ir) for mul, ir in irreps_out if ir in channels])
        self.sources = [channels[ir][0] for _, ir in self.irreps_out]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(attributes, channels[ir][1], mul))
            for mul, ir in self.irreps_out
        )

    def forward(self, x: Sequence[Tensor], attributes: Tensor) -> Blocks:
        """From blocks (N, 2l + 1, C) and descriptions (N, n) to blocks (N, 2l + 1, C')."""
        result = []
        for source, W in zip(self.sources, self.weights, strict=True):
            n, C, _ = W.shape
            # All products of attributes and channels, (N, 2l + 1, n C).
            products = x[source].unsqueeze(2) * attributes[:, None, :, None]
            result.append(products.flatten(2) @ (W.flatten(0, 1) / math.sqrt(n * C)))
        return result


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
        self.radial_network = RadialNetwork(n_radial, self.product.n_weights, weights_mlp)
        wanted = o3().Irreps([(channels, ir) for _, ir in harmonics])
        self.post_linear = EquivariantLinear(self.product.irreps_out, wanted)
        self.irreps_out = self.post_linear.irreps_out
        self.aggregation = NeighbourAggregation.parse(aggregation)

    def forward(
        self, x: Sequence[Tensor], harmonics: Tensor, basis: Tensor, graph: AtomicGraph
    ) -> Blocks:
        """From blocks of features and a graph that is a neighbour matrix to blocks."""
        phi, V = self.radial_network(basis)
        neighbours = neighbour_matrix(graph)
        sums = self.product(self.pre_linear(x), harmonics, phi, V, neighbours)
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
        interaction: Interaction,
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
        self.mixing = AttributeLinear(summed, summed, attributes) if mixing else None
        self.contraction = SymmetricContraction(summed, irreps_out, correlation, attributes)
        self.linear = EquivariantLinear(self.contraction.irreps_out, irreps_out)
        none = o3().Irreps([])
        self.residual = AttributeLinear(irreps_in if residual else none, irreps_out, attributes)
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
        harmonics: Tensor,
        basis: Tensor,
        graph: AtomicGraph,
    ) -> Blocks:
        """From blocks of ``irreps_in`` to blocks of ``irreps_out``."""
        summed = self.interaction(x, harmonics, basis, graph)
        if self.mixing is not None:
            summed = self.mixing(summed, attributes)
        parts = self.linear(self.contraction(summed, attributes)), self.residual(x, attributes)
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

    Attributes
    ----------
    irreps_out
        Irreps of the features after every layer.
    """

    def __init__(self, settings: MACESettings, describe: nn.Module, attributes: int):
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
        self.layers = nn.ModuleList()
        self.irreps_out: list[Irreps] = []
        for n in range(s.layers):
            mixing = n == 0 and s.first_layer == "mixing"
            layer = MACELayer(
                Interaction(irreps, s.channels, s.l_max, s.n_radial, s.weights_mlp, s.aggregation),
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
        # What fills up the matrix has to lie beyond the cutoff of this model.
        graph = as_neighbour_matrix(graph._replace(cutoff=max(graph.cutoff, self.cutoff)))
        vectors = neighbour_vectors(graph)  # (N D, 3)
        r = safe_norm(vectors).unsqueeze(-1)
        basis = self.radial(r) * self.envelope(r)
        harmonics = self.harmonics(vectors)
        attributes = self.describe(graph.Z).to(basis.dtype)
        x, after = [self.embedding(graph.Z).unsqueeze(1)], []
        for layer in self.layers:
            x = layer(x, attributes, harmonics, basis, graph)
            after.append(x)
        return after
