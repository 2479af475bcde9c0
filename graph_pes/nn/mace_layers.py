r"""Layers of MACE: sums over neighbours, symmetric contractions of them, and what they make.

Batatia et al., doi:10.48550/arXiv.2206.07697.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, Z_with_ghosts, as_neighbour_matrix, neighbour_Z
from graph_pes.tensors import is_traced

from .distance_transforms import TransformedExpansion
from .edges import Edges, edges_of
from .envelopes import PolynomialEnvelope
from .equivariant import (
    FEW_ATTRIBUTES,
    EquivariantBilinear,
    EquivariantLinear,
    checked_unique,
    of_atoms,
)
from .folded_polynomials import Kinds, sorted_kinds
from .irreps import Blocks, o3, parse_irreps
from .mace_interactions import ElementEdges, ElementInteraction, Interaction, MACEAggregation
from .mace_nonlinear import NonLinearInteraction
from .per_element import PerElementEmbedding
from .radial import DistanceExpansion, get_distance_expansion
from .spherical_harmonics import SphericalHarmonics
from .symmetric_contraction import SymmetricContraction

if TYPE_CHECKING:
    from e3nn.o3 import Irrep, Irreps

#: Up to how many elements the first layer sums over neighbours of each, rather than over channels.
FEW_ELEMENTS = 4


def mixed(
    linear: EquivariantBilinear, x: Sequence[Tensor], attributes: Tensor, kinds: Kinds | None
) -> Blocks:
    """As ``linear(x, attributes)``, with a matrix for each kind of atom if these are given."""
    if kinds is None:
        return linear(x, attributes)
    of_kinds = attributes.index_select(0, kinds.first)
    result = []
    for source, scale, W in zip(linear.sources, linear.scales, linear.weights, strict=True):
        matrices = of_atoms(W, of_kinds) * scale
        if len(kinds.counts) == 1:
            result.append(x[source] @ matrices[0])
            continue
        parts = x[source].index_select(0, kinds.order).split(kinds.counts)
        rows = torch.cat([part @ M for part, M in zip(parts, matrices, strict=True)])
        result.append(rows.index_select(0, kinds.place))
    return result


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
        interaction: Interaction | ElementInteraction | NonLinearInteraction,
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
        kinds: Kinds | None,
        edges: Edges,
        graph: AtomicGraph,
    ) -> Blocks:
        """From blocks of ``irreps_in`` to blocks of ``irreps_out``."""
        summed = self.interaction(x, edges, graph)
        if self.mixing is not None:
            summed = mixed(self.mixing, summed, attributes, kinds)
        contracted = self.contraction(summed, attributes, kinds)
        parts = self.linear(contracted), mixed(self.residual, x, attributes, kinds)
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


RadialBasis: TypeAlias = DistanceExpansion | TransformedExpansion


def radial_basis(
    expansion: type[DistanceExpansion] | str, n: int, cutoff: float, transform: str | None
) -> RadialBasis:
    """A basis of n functions of the distance, or of what a transform makes of it."""
    radial = get_distance_expansion(expansion)(n, cutoff)
    return radial if transform is None else TransformedExpansion(radial, transform)


def radial_functions(radial: RadialBasis, graph: AtomicGraph, r: Tensor) -> Tensor:
    """Radial functions (E, B) of the lengths (E, 1) of all edges."""
    if isinstance(radial, TransformedExpansion):
        Z_i = graph.Z.index_select(0, graph.neighbour_list[0])
        return radial(r, Z_i, neighbour_Z(graph))
    return radial(r)


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
    aggregation: MACEAggregation
    self_connection: bool
    first_layer: Literal["mixing", "residual"]
    envelope_power: int = 5
    distance_transform: Literal["Agnesi", "Soft"] | None = None


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
        self.describe, self.n_attributes = describe, attributes
        self.embedding = PerElementEmbedding(s.channels)
        self.radial = radial_basis(s.radial_expansion, s.n_radial, s.cutoff, s.distance_transform)
        self.envelope = PolynomialEnvelope(s.cutoff, p=s.envelope_power)
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
        basis = partial(radial_functions, self.radial, graph)
        edges = edges_of(graph, self.harmonics, basis, self.envelope)
        of_everyone = self.describe(Z_with_ghosts(graph))
        # Of many elements, weights are looked up.
        if of_everyone.is_floating_point() or self.n_attributes <= FEW_ATTRIBUTES:
            of_everyone = of_everyone.to(edges.envelope.dtype)
        attributes = of_everyone.narrow(0, 0, graph.Z.shape[0])
        # Sorting needs to know how many atoms there are of each element: not where it is traced.
        traced = is_traced(graph.Z.shape[0])
        kinds = None if self.training or traced else sorted_kinds(graph.Z)
        if self.few_elements:
            elements = of_everyone.index_select(0, edges.neighbours.reshape(-1))
            embeddings = self.embedding(self.numbers).unsqueeze(1)
            edges = ElementEdges(
                edges.neighbours,
                edges.harmonics,
                edges.basis,
                edges.envelope,
                elements,
                embeddings,
            )
        x, after = [self.embedding(graph.Z).unsqueeze(1)], []
        for layer in self.layers:
            x = layer(x, attributes, kinds, edges, graph)
            after.append(x)
        return after
