"""Layers of NequIP, and which irreps they need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    Z_with_ghosts,
    all_with_ghosts,
    as_neighbour_matrix,
)

from .aggregation import NeighbourAggregation, NeighbourAggregationMode
from .edges import Edges, edges_of
from .envelopes import Envelope, PolynomialEnvelope, XPLOREnvelope
from .equivariant import EquivariantBilinear, EquivariantLinear, EquivariantRMSNorm, Gate
from .irreps import Blocks, merged, o3, parse_irreps
from .per_element import AtomicOneHot, PerElementEmbedding
from .radial import Bessel
from .radial_network import DampedRadialNetwork, RadialNetwork, radial_network
from .spherical_harmonics import SphericalHarmonics
from .tensor_product import NeighbourTensorProduct

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

WeightsNetwork = DampedRadialNetwork | RadialNetwork

#: Species times radial functions, up to which the first layer sums over each species.
MAX_SPECIES_FACTORS = 64

#: The network from distances to weights in the package nequip.
ORIGINAL_MLP = {"hidden_depth": 1, "hidden_features": 128, "activation": "SiLU"}

SelfInteraction = Literal["tensor_product", "linear"]


class Layer(nn.Module):
    r"""Messages from neighbours, a self-interaction and a non-linearity.

    .. math::

        h_i \leftarrow \operatorname{gate}\Big( W \frac{1}{n} \sum_j \sum_p w_p(r_{ij}) \,
        (W' h_j \otimes Y(\hat{\mathbf{r}}_{ij}))_p + S_{Z_i} h_i \Big)

    Parameters
    ----------
    irreps_in, irreps_out
        Irreps of the features before and after.
    harmonics
        Irreps of the spherical harmonics.
    weights
        Makes the network from distances to a given number of weights.
    n_attributes
        Number of attributes of an atom.
    self_interaction
        Which kind, if any.
    aggregation
        How sums over neighbours are normalised.
    layer_norm
        Whether features are normalised before the gate.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        irreps_out: Irreps,
        harmonics: Irreps,
        weights: Callable[[int], WeightsNetwork],
        n_attributes: int,
        self_interaction: SelfInteraction | None,
        aggregation: NeighbourAggregationMode,
        layer_norm: bool = False,
    ):
        super().__init__()
        self.irreps_in, self.irreps_out = irreps_in, irreps_out
        self.gate = Gate(irreps_out)
        mixed = self.gate.irreps_in
        self.pre_linear = EquivariantLinear(irreps_in, irreps_in)
        self.product = NeighbourTensorProduct(irreps_in, harmonics, mixed)
        self.weights = weights(self.product.n_weights)
        self.aggregation = NeighbourAggregation.parse(aggregation)
        self.post_linear = EquivariantLinear(self.product.irreps_out, mixed)
        if self.post_linear.irreps_out != mixed:
            raise ValueError(
                f"no coupling of {irreps_in} with the edge irreps {harmonics} gives all of "
                f"{mixed}: add 0e to the edge irreps"
            )
        self.norm = EquivariantRMSNorm(mixed) if layer_norm else None
        self.self_interaction: EquivariantBilinear | EquivariantLinear | None = None
        if self_interaction == "tensor_product":
            self.self_interaction = EquivariantBilinear(irreps_in, n_attributes, mixed)
        elif self_interaction == "linear":
            self.self_interaction = EquivariantLinear(irreps_in, mixed)
        if self.self_interaction is not None:
            targets = [ir for _, ir in mixed]
            self.added_to = [targets.index(ir) for _, ir in self.self_interaction.irreps_out]

    def forward(self, x: Blocks, attributes: Tensor, edges: Edges, graph: AtomicGraph) -> Blocks:
        """From features of ``irreps_in`` and attributes (N, Z) to features of ``irreps_out``."""
        phi, V = self.weights(edges.basis, edges.envelope)
        mixed = all_with_ghosts(self.pre_linear(x), graph)
        sums = self.product(mixed, edges.harmonics, phi, V, edges.neighbours)
        return self.updated(x, sums, attributes, graph)

    def of_species(
        self,
        x: Tensor,
        features: Tensor,
        species: Tensor,
        edges: Edges,
        graph: AtomicGraph,
    ) -> Blocks:
        """As `forward`, for features (K, C) of species, to which all atoms belong by (M, K)."""
        phi, V = self.weights(edges.basis, edges.envelope)
        (of_species,) = self.pre_linear([features.unsqueeze(1)])
        sums = self.product.of_species(
            of_species.squeeze(1), species, edges.harmonics, phi, V, edges.neighbours
        )
        return self.updated([x], sums, species.narrow(0, 0, x.shape[0]), graph)

    def updated(self, x: Blocks, sums: Blocks, attributes: Tensor, graph: AtomicGraph) -> Blocks:
        """New features from old ones and sums of messages."""
        new = self.post_linear([self.aggregation.normalised(block, graph) for block in sums])
        if self.self_interaction is not None:
            if isinstance(self.self_interaction, EquivariantBilinear):
                own = self.self_interaction(x, attributes)
            else:
                own = self.self_interaction(x)
            for target, block in zip(self.added_to, own, strict=True):
                new[target] = new[target] + block
        return self.gate(new if self.norm is None else self.norm(new))


def parse_features(features: Mapping[str, Any]) -> tuple[Irreps, Irreps]:
    """Irreps of the atoms and of the edges from either way to specify them.

    Raises
    ------
    ValueError
        If the keys are not those of one of the two ways, or their values make no sense.

    Examples
    --------
    >>> parse_features({"channels": [16, 8], "l_max": 1, "use_odd_parity": True})
    (16x0o+16x0e+8x1o+8x1e, 1x0e+1x1o)
    """
    if set(features) == {"node_irreps", "edge_irreps"}:
        nodes = merged(parse_irreps(features["node_irreps"]))
        edges = parse_irreps(features["edge_irreps"])
    elif set(features) == {"channels", "l_max", "use_odd_parity"}:
        l_max, channels = features["l_max"], features["channels"]
        per_degree = [channels] * (l_max + 1) if isinstance(channels, int) else list(channels)
        if len(per_degree) != l_max + 1:
            raise ValueError(
                f"features: expected channels to be a number, or a list of l_max + 1 = {l_max + 1} "
                f"numbers, got {channels}"
            )
        if any(n < 1 for n in per_degree):
            raise ValueError(f"features: expected positive numbers of channels, got {channels}")
        odd = features["use_odd_parity"]
        parities = "oe" if odd else "e"
        nodes = parse_irreps(
            "+".join(f"{n}x{l}{p}" for l, n in enumerate(per_degree) for p in parities)
        )
        edges = parse_irreps(
            "+".join(f"{l}{'o' if odd and l % 2 else 'e'}" for l in range(l_max + 1))
        )
    else:
        raise ValueError(
            "features: expected the keys channels, l_max and use_odd_parity, or node_irreps and "
            f"edge_irreps, got {sorted(features)}"
        )
    if nodes.count("0e") == 0:
        raise ValueError(f"features: expected some 0e among the irreps of atoms, got {nodes}")
    if any(mul != 1 for mul, _ in edges):
        raise ValueError(f"features: expected one channel of every edge irrep, got {edges}")
    if any(ir.p < 0 and ir.l % 2 == 0 for _, ir in edges):
        raise ValueError(
            "features: spherical harmonics of even degree do not change under reflection, but "
            f"the edge irreps are {edges}"
        )
    return nodes, edges


def irreps_of_layers(nodes: Irreps, edges: Irreps, layers: int, wanted: Irreps) -> list[Irreps]:
    """Irreps before the first layer, between layers and after the last: only those needed.

    An irrep is kept if messages can make it, and if what is wanted in the end depends on it.

    Parameters
    ----------
    nodes
        Irreps of atoms, with their channels.
    edges
        Irreps of the spherical harmonics.
    wanted
        Irreps that are read from the last layer.

    Raises
    ------
    ValueError
        If messages can't make what is wanted.
    """

    def made(sources: set) -> set:
        return {ir for a in sources for _, b in edges for ir in a * b}

    even = o3().Irrep("0e")
    channels = {ir: mul for mul, ir in nodes}
    kinds = [{even}]
    for _ in range(layers):
        kinds.append({ir for ir in made(kinds[-1]) if ir in channels})
    if missing := [str(ir) for _, ir in wanted if ir not in kinds[-1]]:
        raise ValueError(
            f"features: the last of {layers} layers has no {', '.join(missing)} to read: atoms "
            f"have {nodes}, edges {edges}, and messages can make {sorted(kinds[-1])} of them"
        )
    kinds[-1] = {ir for _, ir in wanted}
    for n in range(layers - 1, 0, -1):
        # Tensors need scalars as their gates.
        needed = kinds[n + 1] | ({even} if any(ir.l > 0 for ir in kinds[n + 1]) else set())
        kinds[n] = {ir for ir in kinds[n] if needed & (made({ir}) | {ir})}
    return [o3().Irreps([(channels[ir], ir) for ir in sorted(kind)]) for kind in kinds]


class Representation(nn.Module):
    """Features of atoms and their environments: everything but the read-out.

    Parameters
    ----------
    attributes
        Module from atomic numbers (N,) to attributes (N, Z).
    n_attributes
        Z.
    wanted
        Irreps that are to be read out. ``self.irreps_out`` has their channels.
    layers
        At least one. Where atoms have one-hot attributes of few elements, messages of the first
        are summed for each element: see `NeighbourTensorProduct.of_species`.
    weights_mlp
        See `graph_pes.models.NequIP`, as for all other arguments.
    """

    species: Tensor | None

    def __init__(
        self,
        attributes: nn.Module,
        n_attributes: int,
        wanted: str | Irreps,
        *,
        cutoff: float,
        layers: int,
        features: Mapping[str, Any],
        self_interaction: SelfInteraction | None,
        neighbour_aggregation: NeighbourAggregationMode,
        radial_features: int,
        weights_mlp: Mapping[str, Any] | None,
        envelope_onset: float | None = None,
        layer_norm: bool = False,
    ):
        super().__init__()
        if self_interaction not in ("tensor_product", "linear", None):
            raise ValueError(
                "self_interaction: expected 'tensor_product', 'linear' or None, "
                f"got {self_interaction!r}"
            )
        if layers < 1:
            raise ValueError(f"layers: expected at least one, got {layers}")
        nodes, edges = parse_features(features)
        irreps = irreps_of_layers(nodes, edges, layers, parse_irreps(wanted))
        self.attributes = attributes
        self.embedding = PerElementEmbedding(nodes.count("0e"))
        self.harmonics = SphericalHarmonics([ir.l for _, ir in edges])
        self.radial = Bessel(radial_features, cutoff)
        self.envelope: Envelope = PolynomialEnvelope(cutoff)
        if envelope_onset is not None:
            self.envelope = XPLOREnvelope(cutoff, envelope_onset)
        weights = weights_network(radial_features, weights_mlp)
        mode = neighbour_aggregation
        stack = [
            Layer(a, b, edges, weights, n_attributes, self_interaction, mode, layer_norm)
            for a, b in pairwise(irreps)
        ]
        self.layers = nn.ModuleList(stack)
        self.irreps_out = irreps[-1]
        numbers = None
        few = n_attributes * stack[0].weights.n_factors <= MAX_SPECIES_FACTORS
        if isinstance(attributes, AtomicOneHot) and few:
            numbers = torch.tensor(attributes.numbers)
        self.register_buffer("species", numbers, persistent=False)

    def forward(self, graph: AtomicGraph) -> Blocks:
        """Blocks of ``irreps_out``."""
        graph = as_neighbour_matrix(graph)
        edges = edges_of(graph, self.harmonics, self.radial, self.envelope)
        of_everyone = self.attributes(Z_with_ghosts(graph)).to(edges.envelope.dtype)
        attributes = of_everyone.narrow(0, 0, graph.Z.shape[0])
        first, *others = self.layers
        x = self.embedding(graph.Z).unsqueeze(1)
        assert isinstance(first, Layer)
        if self.species is not None:
            x = first.of_species(x, self.embedding(self.species), of_everyone, edges, graph)
        else:
            x = first([x], attributes, edges, graph)
        for layer in others:
            x = layer(x, attributes, edges, graph)
        return x


def weights_network(
    radial_features: int, settings: Mapping[str, Any] | None
) -> Callable[[int], WeightsNetwork]:
    """What makes the networks from distances to weights, see ``weights_mlp`` of NequIP."""
    if settings is None:
        # The harmonics of graph-pes 1 are normalised to 1 over the sphere, ours to 4π.
        scale = 1 / math.sqrt(4 * math.pi)
        return lambda n: DampedRadialNetwork([radial_features] * 3 + [n], scale=scale)
    return lambda n: radial_network(radial_features, n, settings, ORIGINAL_MLP)
