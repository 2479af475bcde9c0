"""NequIP: messages of scalars, vectors and higher tensors, coupled to spherical harmonics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from graph_pes.atomic_graph import DEFAULT_CUTOFF, AtomicGraph, PropertyKey
from graph_pes.nn.aggregation import NeighbourAggregationMode
from graph_pes.nn.equivariant import EquivariantLinear
from graph_pes.nn.irreps import Blocks
from graph_pes.nn.nequip_layers import Representation, SelfInteraction
from graph_pes.nn.per_element import AtomicOneHot, PerElementEmbedding
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.nn.tensor_head import Method, TensorHead, TensorTarget

from .base import GraphPESModel, GraphTensorModel

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

DEFAULT_FEATURES: dict[str, Any] = {"channels": 16, "l_max": 2, "use_odd_parity": True}


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
    envelope_onset
        The distance in Å up to which the envelope is 1, as in SevenNet-0: `XPLOREnvelope`. By
        default it is a `PolynomialEnvelope`, which falls from the beginning.
    layer_norm
        Whether the features of each atom are divided by their root mean square before the gate,
        as in Nequix: `graph_pes.nn.equivariant.EquivariantRMSNorm`.

    Raises
    ------
    ValueError
        If an argument makes no sense, or if the layers can't make what is read from the last.

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
        envelope_onset: float | None = None,
        layer_norm: bool = False,
    ):
        super().__init__(cutoff, energy_properties(direct_force_predictions))
        self.representation = Representation(
            AtomicOneHot(elements),
            len(elements),
            "0e+1o" if direct_force_predictions else "0e",
            cutoff=cutoff,
            layers=layers,
            features=features,
            self_interaction=self_interaction,
            neighbour_aggregation=neighbour_aggregation,
            radial_features=radial_features,
            weights_mlp=weights_mlp,
            envelope_onset=envelope_onset,
            layer_norm=layer_norm,
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
    features, layers, self_interaction, prune_last_layer, neighbour_aggregation, radial_features, \
    weights_mlp
        See `NequIP`.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = ZEmbeddingNequIP(cutoff=4.0, Z_embed_dim=4, layers=2)
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("H2O"), cutoff=4.0)).shape
    torch.Size([3, 3])
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


class TensorNequIP(GraphTensorModel):
    """NequIP that predicts a tensor of each atom.

    Ben Mahmoud et al., doi:10.1063/5.0274240. Tensors are equivariant, under reflection too:
    scales belong to elements and irreps, not to components as in graph-pes 1, and gates are
    even scalars.

    Parameters
    ----------
    elements, cutoff, layers, features, self_interaction, prune_last_layer, neighbour_aggregation, \
    radial_features
        See `NequIP`.
    props
        Name of the label.
    target_method
        ``"direct"``: a linear map of the features of the last layer. ``"tensor_product"``:
        couplings of pairs of tensors that are linear in them.
    number_of_tps
        Number of tensors that are coupled, even; by default two for every channel.
    target_tensor_irreps
        Irreps of the tensor, whose components are in e3nn's order; by default a scalar, "0e".
    irrep_tp
        The irrep of the tensors that are coupled.
    weights_mlp
        See `NequIP`.

    Examples
    --------
    >>> from ase.build import molecule
    >>> features = {"channels": 4, "l_max": 2, "use_odd_parity": True}
    >>> model = TensorNequIP(
    ...     ["H", "O"],
    ...     features=features,
    ...     target_method="tensor_product",
    ...     target_tensor_irreps="0e + 1e + 2e",
    ... )
    >>> model.predict(AtomicGraph.from_ase(molecule("H2O")), ["tensor"])["tensor"].shape
    torch.Size([3, 9])
    """

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float = DEFAULT_CUTOFF,
        layers: int = 3,
        features: Mapping[str, Any] = DEFAULT_FEATURES,
        self_interaction: SelfInteraction | None = "tensor_product",
        prune_last_layer: bool = True,
        neighbour_aggregation: NeighbourAggregationMode = "sum",
        radial_features: int = 8,
        props: str = "tensor",
        target_method: Method = "direct",
        number_of_tps: int | None = None,
        target_tensor_irreps: str | None = None,
        irrep_tp: str = "1o",
        weights_mlp: Mapping[str, Any] | None = None,
    ):
        target = TensorTarget(
            props, target_method, number_of_tps, target_tensor_irreps or "0e", irrep_tp
        )
        super().__init__(cutoff, [props])
        self.representation = Representation(
            AtomicOneHot(elements),
            len(elements),
            target.wanted,
            cutoff=cutoff,
            layers=layers,
            features=features,
            self_interaction=self_interaction,
            neighbour_aggregation=neighbour_aggregation,
            radial_features=radial_features,
            weights_mlp=weights_mlp,
        )
        self.head = TensorHead(self.representation.irreps_out, target)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Tensors of atoms, shape (N, components), under the name of the property."""
        return {self.implemented_properties[0]: self.head(self.representation(graph), graph)}


class ZEmbeddingTensorNequIP(GraphTensorModel):
    """`TensorNequIP` for any element, as `ZEmbeddingNequIP`.

    Parameters
    ----------
    cutoff
        In Å.
    Z_embed_dim
        Length of the learnt vector of each element.
    features, layers, self_interaction, prune_last_layer, neighbour_aggregation, radial_features
        See `NequIP`.
    props, target_method, number_of_tps, target_tensor_irreps, irrep_tp
        See `TensorNequIP`.
    weights_mlp
        See `NequIP`.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = ZEmbeddingTensorNequIP(cutoff=4.0, layers=2, target_tensor_irreps="1o")
    >>> model.predict(AtomicGraph.from_ase(molecule("H2O"), 4.0), ["tensor"])["tensor"].shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        cutoff: float = DEFAULT_CUTOFF,
        Z_embed_dim: int = 8,
        features: Mapping[str, Any] = DEFAULT_FEATURES,
        layers: int = 3,
        self_interaction: SelfInteraction | None = "tensor_product",
        prune_last_layer: bool = True,
        neighbour_aggregation: NeighbourAggregationMode = "sum",
        radial_features: int = 8,
        props: str = "tensor",
        target_method: Method = "direct",
        number_of_tps: int | None = None,
        target_tensor_irreps: str | None = None,
        irrep_tp: str = "1o",
        weights_mlp: Mapping[str, Any] | None = None,
    ):
        target = TensorTarget(
            props, target_method, number_of_tps, target_tensor_irreps or "0e", irrep_tp
        )
        super().__init__(cutoff, [props])
        self.representation = Representation(
            PerElementEmbedding(Z_embed_dim),
            Z_embed_dim,
            target.wanted,
            cutoff=cutoff,
            layers=layers,
            features=features,
            self_interaction=self_interaction,
            neighbour_aggregation=neighbour_aggregation,
            radial_features=radial_features,
            weights_mlp=weights_mlp,
        )
        self.head = TensorHead(self.representation.irreps_out, target)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Tensors of atoms, shape (N, components), under the name of the property."""
        return {self.implemented_properties[0]: self.head(self.representation(graph), graph)}


def energy_properties(direct_force_predictions: bool) -> list[PropertyKey]:
    """What a model of energies implements."""
    return ["local_energies", "forces"] if direct_force_predictions else ["local_energies"]
