"""NequIP: messages of scalars, vectors and higher tensors, coupled to spherical harmonics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from graph_pes.atomic_graph import (
    DEFAULT_CUTOFF,
    AtomicGraph,
    PropertyKey,
    as_neighbour_matrix,
    neighbour_matrix,
    neighbour_vectors,
)
from graph_pes.nn.aggregation import NeighbourAggregation, NeighbourAggregationMode
from graph_pes.nn.envelopes import PolynomialEnvelope
from graph_pes.nn.equivariant import EquivariantBilinear, EquivariantLinear, Gate
from graph_pes.nn.irreps import Blocks, merged, o3, parse_irreps
from graph_pes.nn.per_element import AtomicOneHot, PerElementEmbedding
from graph_pes.nn.radial import Bessel
from graph_pes.nn.radial_network import DampedRadialNetwork, RadialNetwork
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.nn.spherical_harmonics import SphericalHarmonics
from graph_pes.nn.tensor_product import NeighbourTensorProduct
from graph_pes.tensors import safe_norm

from .base import GraphPESModel

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

SelfInteraction = Literal["tensor_product", "linear"]
DEFAULT_FEATURES: dict[str, Any] = {"channels": 16, "l_max": 2, "use_odd_parity": True}


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
    """

    neighbours: Tensor
    harmonics: Tensor
    basis: Tensor
    envelope: Tensor


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
    """

    def __init__(
        self,
        irreps_in: Irreps,
        irreps_out: Irreps,
        harmonics: Irreps,
        weights: Callable[[int], nn.Module],
        n_attributes: int,
        self_interaction: SelfInteraction | None,
        aggregation: NeighbourAggregationMode,
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
        sums = self.product(self.pre_linear(x), edges.harmonics, phi, V, edges.neighbours)
        new = self.post_linear([self.aggregation.normalised(block, graph) for block in sums])
        if self.self_interaction is not None:
            if isinstance(self.self_interaction, EquivariantBilinear):
                own = self.self_interaction(x, attributes)
            else:
                own = self.self_interaction(x)
            for target, block in zip(self.added_to, own, strict=True):
                new[target] = new[target] + block
        return self.gate(new)


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
    """

    def made(sources: set) -> set:
        return {ir for a in sources for _, b in edges for ir in a * b}

    even = o3().Irrep("0e")
    channels = {ir: mul for mul, ir in nodes}
    kinds = [{even}]
    for _ in range(layers):
        kinds.append({ir for ir in made(kinds[-1]) if ir in channels})
    kinds[-1] &= {ir for _, ir in wanted}
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
    weights_mlp
        See `NequIP`, as for all other arguments.
    """

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
    ):
        super().__init__()
        if self_interaction not in ("tensor_product", "linear", None):
            raise ValueError(
                "self_interaction: expected 'tensor_product', 'linear' or None, "
                f"got {self_interaction!r}"
            )
        nodes, edges = parse_features(features)
        irreps = irreps_of_layers(nodes, edges, layers, parse_irreps(wanted))
        self.attributes = attributes
        self.embedding = PerElementEmbedding(nodes.count("0e"))
        self.harmonics = SphericalHarmonics([ir.l for _, ir in edges])
        self.radial = Bessel(radial_features, cutoff)
        self.envelope = PolynomialEnvelope(cutoff)
        weights = weights_network(radial_features, weights_mlp)
        self.layers = nn.ModuleList(
            Layer(a, b, edges, weights, n_attributes, self_interaction, neighbour_aggregation)
            for a, b in pairwise(irreps)
        )
        self.irreps_out = irreps[-1]

    def forward(self, graph: AtomicGraph) -> Blocks:
        """Blocks of ``irreps_out``."""
        graph = as_neighbour_matrix(graph)
        vectors = neighbour_vectors(graph)  # (N D, 3)
        r = safe_norm(vectors).unsqueeze(-1)
        edges = Edges(
            neighbours=neighbour_matrix(graph),
            harmonics=self.harmonics(vectors),
            basis=self.radial(r),
            envelope=self.envelope(r),
        )
        attributes = self.attributes(graph.Z).to(vectors.dtype)
        x = [self.embedding(graph.Z).unsqueeze(1)]
        for layer in self.layers:
            x = layer(x, attributes, edges, graph)
        return x


def weights_network(
    radial_features: int, settings: Mapping[str, Any] | None
) -> Callable[[int], nn.Module]:
    """What makes the networks from distances to weights, see ``weights_mlp`` of `NequIP`."""
    if settings is None:
        # The harmonics of graph-pes 1 are normalised to 1 over the sphere, ours to 4π.
        scale = 1 / math.sqrt(4 * math.pi)
        return lambda n: DampedRadialNetwork([radial_features] * 3 + [n], scale=scale)
    defaults = {"hidden_depth": 1, "hidden_features": 128, "activation": "SiLU"}
    if unknown := sorted(set(settings) - set(defaults)):
        raise ValueError(f"weights_mlp: expected some of {list(defaults)}, got {unknown}")
    depth, width, activation = {**defaults, **settings}.values()
    return lambda n: RadialNetwork([radial_features] + [width] * depth + [n], activation)


class EnergyAndForces(nn.Module):
    """Reads local energies, and forces if they are predicted directly, from features.

    Parameters
    ----------
    irreps_in
        Irreps of the features.
    forces
        Whether forces are read too.
    """

    def __init__(self, irreps_in: Irreps, forces: bool):
        super().__init__()
        if forces and irreps_in.count("1o") == 0:
            raise ValueError(
                "direct_force_predictions: forces are read from the 1o features of the last "
                f"layer, which has {irreps_in} only"
            )
        self.energies = EquivariantLinear(irreps_in, "0e")
        self.forces = EquivariantLinear(irreps_in, "1o") if forces else None
        self.scaler = LocalEnergiesScaler()

    def forward(self, x: Blocks, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,), and forces (N, 3)."""
        predictions = {"local_energies": self.scaler(self.energies(x)[0].flatten(), graph)}
        if self.forces is not None:
            predictions["forces"] = self.forces(x)[0].flatten(1)
        return predictions


class NequIP(GraphPESModel):
    r"""E(3)-equivariant graph neural network for data-efficient interatomic potentials.

    Batzner et al., doi:10.1038/s41467-022-29939-5. Atoms carry scalars, vectors and tensors of
    either parity. A message is the tensor product of a neighbour's features with the spherical
    harmonics of the direction to it, weighted by a network of the distance; sums of messages
    and the atom's own features pass a gate. Local energies are linear in the scalars of the
    last layer, and scaled per element.

    What no prediction depends on is not computed, such as messages of vectors in the last layer.

    Parameters
    ----------
    elements
        Chemical symbols of all elements that the model will see.
    direct_force_predictions
        Read forces from the vectors of the last layer, rather than from the energy.
    cutoff
        In Å.
    layers
        Number of layers.
    features
        Irreps of atoms and edges: either ``{channels, l_max, use_odd_parity}``, where the
        channels may be a number or one for every degree up to l_max; or
        ``{node_irreps, edge_irreps}``, such as ``"32x0e + 16x1o"`` and ``"0e + 1o"``. Without
        odd parity, everything counts as even: energies may then change under reflection.
    self_interaction
        ``"tensor_product"`` mixes an atom's own features with weights of its element, as in the
        paper; ``"linear"`` with the same for all elements, which are fewer parameters (Park
        et al., doi:10.1021/acs.jctc.4c00190); None leaves them out.
    prune_last_layer
        Has no effect: what nothing depends on is never computed.
    neighbour_aggregation
        How messages are normalised; with "mean" and "sqrt" the energy jumps as atoms enter the
        cutoff.
    radial_features
        Number of radial basis functions, B.
    weights_mlp
        The network from distances to weights. By default that of graph-pes 1: two hidden layers
        of B, with biases, times the envelope. ``{hidden_depth, hidden_features, activation}``,
        by default 1, 128 and SiLU, gives that of the package nequip: without biases, and of
        basis functions times envelope.

    Examples
    --------
    >>> from ase.build import molecule
    >>> features = {"channels": [8, 4], "l_max": 1, "use_odd_parity": True}
    >>> model = NequIP(["H", "O"], cutoff=4.0, features=features)
    >>> for layer in model.representation.layers:
    ...     print(layer.irreps_in, "->", layer.irreps_out)
    8x0e -> 8x0e+4x1o
    8x0e+4x1o -> 8x0e+4x1o
    8x0e+4x1o -> 8x0e
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("H2O"), cutoff=4.0)).shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        elements: Sequence[str],
        direct_force_predictions: bool = False,
        cutoff: float = DEFAULT_CUTOFF,
        layers: int = 3,
        features: Mapping[str, Any] = DEFAULT_FEATURES,
        self_interaction: SelfInteraction | None = "tensor_product",
        prune_last_layer: bool = True,
        neighbour_aggregation: NeighbourAggregationMode = "sum",
        radial_features: int = 8,
        weights_mlp: Mapping[str, Any] | None = None,
    ):
        super().__init__(cutoff, energy_properties(direct_force_predictions))
        self.representation = Representation(
            one_hot(elements),
            len(elements),
            "0e+1o" if direct_force_predictions else "0e",
            cutoff=cutoff,
            layers=layers,
            features=features,
            self_interaction=self_interaction,
            neighbour_aggregation=neighbour_aggregation,
            radial_features=radial_features,
            weights_mlp=weights_mlp,
        )
        self.head = EnergyAndForces(self.representation.irreps_out, direct_force_predictions)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies, shape (N,), and forces (N, 3) if they are predicted directly."""
        return self.head(self.representation(graph), graph)


class ZEmbeddingNequIP(GraphPESModel):
    """NequIP for any element: atoms have a learnt vector instead of one component per element.

    Parameters
    ----------
    cutoff, direct_force_predictions
        See `NequIP`.
    Z_embed_dim
        Length of the vector.
    features, layers, self_interaction, prune_last_layer, neighbour_aggregation, radial_features
        See `NequIP`.
    weights_mlp
        See `NequIP`.
    """

    def __init__(
        self,
        cutoff: float = DEFAULT_CUTOFF,
        direct_force_predictions: bool = False,
        Z_embed_dim: int = 8,
        features: Mapping[str, Any] = DEFAULT_FEATURES,
        layers: int = 3,
        self_interaction: SelfInteraction | None = "tensor_product",
        prune_last_layer: bool = True,
        neighbour_aggregation: NeighbourAggregationMode = "sum",
        radial_features: int = 8,
        weights_mlp: Mapping[str, Any] | None = None,
    ):
        super().__init__(cutoff, energy_properties(direct_force_predictions))
        self.representation = Representation(
            PerElementEmbedding(Z_embed_dim),
            Z_embed_dim,
            "0e+1o" if direct_force_predictions else "0e",
            cutoff=cutoff,
            layers=layers,
            features=features,
            self_interaction=self_interaction,
            neighbour_aggregation=neighbour_aggregation,
            radial_features=radial_features,
            weights_mlp=weights_mlp,
        )
        self.head = EnergyAndForces(self.representation.irreps_out, direct_force_predictions)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies, shape (N,), and forces (N, 3) if they are predicted directly."""
        return self.head(self.representation(graph), graph)


def one_hot(elements: Sequence[str]) -> AtomicOneHot:
    """One component for each of some elements, which are all different."""
    if len(set(elements)) < len(elements):
        raise ValueError(f"elements: expected each once, got {list(elements)}")
    return AtomicOneHot(elements)


def energy_properties(direct_force_predictions: bool) -> list[PropertyKey]:
    """What a model of energies implements."""
    return ["local_energies", "forces"] if direct_force_predictions else ["local_energies"]
