"""Orb: attention over neighbours, without symmetry under rotation built in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from graph_pes.atomic_graph import (
    DEFAULT_CUTOFF,
    AtomicGraph,
    PropertyKey,
    keep_at_most_k_neighbours,
    neighbour_vectors,
    remove_mean_and_net_torque,
    structure_sizes,
    sum_per_structure,
)
from graph_pes.nn.envelopes import PolynomialEnvelope
from graph_pes.nn.orb_layers import (
    AttentionGate,
    ChargeAndSpin,
    EdgeEncoder,
    Interaction,
    NormType,
    Perceptrons,
    ReadOut,
)
from graph_pes.nn.orb_repulsion import CoreRepulsion, OrbRepulsion
from graph_pes.nn.per_element import PerElementEmbedding
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.tensors import safe_norm, voigt_6_to_full_3x3

from .base import GraphPESModel


class Orb(GraphPESModel):
    r"""Orb, a graph network with attention that learns the symmetry under rotation from data.

    Neumann et al., doi:10.48550/arXiv.2410.22570, and Rhodes et al. (Orb-v3),
    doi:10.48550/arXiv.2504.06231. Atoms and directed edges carry C features each, updated by
    perceptrons (`Interaction`); one head reads local energies from the atoms, another one, in
    models that are not conservative, forces. Their mean is removed, and of structures that are
    not periodic also their torque.

    Neither energies nor forces of the model are exactly invariant under rotation. They are
    continuous at the cutoff if ``distance_smoothing`` is on and ``max_neighbours`` is None.

    As in graph-pes 1, and unlike orb-models, atoms start with an embedding of their element that
    is normalised but not passed through a perceptron, the energy is a sum over atoms, heads are
    as deep and wide as the other perceptrons, and the force head has no biases. With

    .. code-block:: python

        Orb(
            cutoff=6.0,
            norm_type="rms",
            max_neighbours=120,
            element_mlp=True,
            read_out={
                "layers": 1,
                "hidden_dim": 256,
                "activation": "silu",
                "force_bias": True,
                "energy": "mean",
            },
            direct_stress=True,
            core_repulsion="sum",
        )

    (``conservative=True``, ``core_repulsion="mean"`` and no ``direct_stress`` for the conservative
    ones) it is the network of Orb-v3, which `graph_pes.interfaces.orb_model` fills with the
    published weights. Its reference energies, and the mean of its energy per atom, are a
    `FixedOffset` beside it in an `AdditionModel`; the standard deviation of the energy is a scale
    per element here, those of forces and stress are in the weights of the heads. Confidences are
    left out.

    Unlike graph-pes 1, the softmax of ``attention_gate="softmax"`` can't overflow, and is over
    what the envelope lets through, as in orb-models, so that it is continuous too.

    Parameters
    ----------
    cutoff
        In Å.
    conservative
        Whether forces are derivatives of the energy, rather than read from the atoms.
    channels
        C.
    layers
        Number of interactions.
    radial_features
        Number of Bessel functions.
    mlp_layers, mlp_hidden_dim
        Number and width of the hidden layers of the perceptrons.
    l_max
        Largest degree of the spherical harmonics.
    edge_outer_product
        Whether edges start from all products of radial functions and spherical harmonics.
    activation
        Of the perceptrons.
    norm_type
        ``"layer"`` or ``"rms"``.
    attention_gate
        ``"sigmoid"``, or ``"softmax"`` over the neighbours.
    distance_smoothing
        Whether messages fade out towards the cutoff.
    max_neighbours
        Messages go to this many nearest neighbours only; None for all. With fewer neighbours
        than are within the cutoff, energies jump when neighbours change.
    element_mlp
        Whether the embedding of the elements passes through a perceptron.
    read_out
        What differs from the default in `ReadOut`.
    direct_stress
        Whether the stress, too, is read from the atoms (their mean), in models that are not
        conservative.
    core_repulsion
        ``"sum"`` or ``"mean"``: whether, and which, `OrbRepulsion` is added to energies, and to
        direct forces and stress; it is between the same neighbours. `ZBLCoreRepulsion` is the
        one of the textbooks.
    charge_and_spin
        Whether the prediction depends on ``graph.other["total_charge"]`` (0 if there is none) and
        ``graph.other["total_spin"]``, the multiplicity (1 if there is none): see `ChargeAndSpin`.

    Raises
    ------
    ValueError
        For an unknown norm, attention gate, repulsion or key of ``read_out``, for less than one
        neighbour, and for a direct stress in a conservative model.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = Orb(cutoff=4.0, channels=16, layers=2, mlp_hidden_dim=32)
    >>> model.implemented_properties
    ['local_energies', 'forces']
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        cutoff: float = DEFAULT_CUTOFF,
        conservative: bool = False,
        channels: int = 256,
        layers: int = 5,
        radial_features: int = 8,
        mlp_layers: int = 2,
        mlp_hidden_dim: int = 1024,
        l_max: int = 3,
        edge_outer_product: bool = True,
        activation: str = "silu",
        norm_type: NormType = "layer",
        attention_gate: AttentionGate = "sigmoid",
        distance_smoothing: bool = True,
        max_neighbours: int | None = None,
        element_mlp: bool = False,
        read_out: Mapping[str, Any] | None = None,
        direct_stress: bool = False,
        core_repulsion: CoreRepulsion | None = None,
        charge_and_spin: bool = False,
    ):
        if max_neighbours is not None and max_neighbours < 1:
            raise ValueError(f"Orb: expected max_neighbours of at least 1, got {max_neighbours}")
        if conservative and direct_stress:
            raise ValueError("Orb: the stress of a conservative model is a derivative, not direct")
        direct = [] if conservative else ["forces", *["stress"] * direct_stress]
        super().__init__(cutoff, ["local_energies", *direct])
        self.max_neighbours, self.distance_smoothing = max_neighbours, distance_smoothing
        inside = Perceptrons(channels, mlp_layers, mlp_hidden_dim, activation, norm_type)
        heads = ReadOut.parse(read_out or {}, mlp_layers, mlp_hidden_dim)
        self.embedding = PerElementEmbedding(channels)
        self.element_mlp = inside.mlp(channels) if element_mlp else nn.Identity()
        self.element_norm = inside.normalisation() if element_mlp else nn.LayerNorm(channels)
        self.envelope = PolynomialEnvelope(cutoff, p=4)
        self.edges = EdgeEncoder(cutoff, radial_features, l_max, edge_outer_product, inside)
        self.interactions = nn.ModuleList(
            Interaction(inside, attention_gate, last=n == layers - 1) for n in range(layers)
        )
        self.energy_of_the_mean = heads.energy == "mean"
        self.energy_head = heads.mlp(channels, 1)
        self.scaler = LocalEnergiesScaler()
        if self.energy_of_the_mean:
            self.needs_whole_structure = "its energy is that of the mean of all atoms"
        elif not conservative:
            self.needs_whole_structure = "the mean of all forces is removed"
        self.force_head = None if conservative else heads.mlp(channels, 3, bias=heads.force_bias)
        self.stress_head = heads.mlp(channels, 6) if direct_stress else None
        self.repulsion = None if core_repulsion is None else OrbRepulsion(cutoff, core_repulsion)
        self.charge_and_spin = ChargeAndSpin(channels, layers) if charge_and_spin else None

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,); unless conservative forces (N, 3), and stress (S, 3, 3)."""
        if self.max_neighbours is not None:
            graph = keep_at_most_k_neighbours(graph, self.max_neighbours)
        nodes = self.nodes(graph)
        predictions = {"local_energies": self.local_energies(nodes, graph)}
        if self.force_head is not None:
            predictions["forces"] = remove_mean_and_net_torque(self.force_head(nodes), graph)
        if self.stress_head is not None:
            predictions["stress"] = voigt_6_to_full_3x3(self.stress_head(mean(nodes, graph)))
        if self.repulsion is not None:
            for key, value in self.repulsion(graph, list(predictions)).items():
                predictions[key] = predictions[key] + value
        return predictions

    def nodes(self, graph: AtomicGraph) -> Tensor:
        """Features of the atoms after all interactions, shape (N, C)."""
        vectors = neighbour_vectors(graph)
        r = safe_norm(vectors).unsqueeze(1)  # (E, 1)
        envelope = self.envelope(r)
        edges = self.edges(vectors, r, envelope)
        # Without smoothing, too, edges from the cutoff on have no part.
        weight = envelope if self.distance_smoothing else (r < self.envelope.cutoff).to(r.dtype)
        nodes = self.element_norm(self.element_mlp(self.embedding(graph.Z)))
        added = self.charge_and_spin(graph) if self.charge_and_spin is not None else []
        for n, interaction in enumerate(self.interactions):
            nodes = nodes + added[n] if added else nodes
            nodes, edges = interaction(nodes, edges, weight, graph)
        return nodes

    def local_energies(self, nodes: Tensor, graph: AtomicGraph) -> Tensor:
        """From features (N, C) to energies (N,)."""
        if not self.energy_of_the_mean:
            return self.scaler(self.energy_head(nodes), graph)
        assert graph.batch is not None
        per_structure = self.energy_head(mean(nodes, graph))
        return self.scaler(per_structure.index_select(0, graph.batch), graph)


def mean(x: Tensor, graph: AtomicGraph) -> Tensor:
    """Mean of atomic properties (N, ...) over each structure of a batch: shape (S, ...)."""
    return sum_per_structure(x, graph) / structure_sizes(graph).view(-1, 1).clamp(min=1)
