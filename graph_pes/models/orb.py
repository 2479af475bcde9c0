"""Orb: attention over neighbours, without symmetry under rotation built in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    DEFAULT_CUTOFF,
    AtomicGraph,
    PropertyKey,
    edge_wise_softmax,
    keep_at_most_k_neighbours,
    neighbour_vectors,
    remove_mean_and_net_torque,
    structure_sizes,
    sum_over_neighbours,
    sum_over_receivers,
    sum_per_structure,
    with_ghosts,
)
from graph_pes.nn.envelopes import PolynomialEnvelope
from graph_pes.nn.mlp import MLP
from graph_pes.nn.per_element import PerElementEmbedding
from graph_pes.nn.radial import Bessel
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.nn.spherical_harmonics import SphericalHarmonics
from graph_pes.nn.trilinear import pieces
from graph_pes.tensors import safe_norm, voigt_6_to_full_3x3

from .base import GraphPESModel

NormType = Literal["layer", "rms"]
AttentionGate = Literal["sigmoid", "softmax"]
_NORMS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


@dataclass(frozen=True)
class Perceptrons:
    """How the perceptrons inside of the network are made.

    Attributes
    ----------
    channels
        Width of what comes out, C.
    layers, hidden_dim
        Number and width of the hidden layers.
    activation
        Between the layers.
    norm
        Of what comes out.
    """

    channels: int
    layers: int
    hidden_dim: int
    activation: str
    norm: NormType

    def __post_init__(self) -> None:
        if self.norm not in _NORMS:
            raise ValueError(f"Orb: expected norm_type to be one of {[*_NORMS]}, got {self.norm!r}")

    def mlp(self, n_in: int) -> MLP:
        """A perceptron with that many inputs."""
        return MLP([n_in, *[self.hidden_dim] * self.layers, self.channels], self.activation)

    def normalisation(self) -> nn.Module:
        """The layer that follows it."""
        return _NORMS[self.norm](self.channels)


@dataclass(frozen=True)
class ReadOut:
    """How energies, forces and stress are read from the atoms: the argument ``read_out``.

    Attributes
    ----------
    layers, hidden_dim
        Number and width of the hidden layers.
    activation
        Between the layers.
    force_bias
        Whether the layers of the force head have biases.
    energy
        ``"atoms"``: the energy of each atom is read from its own features. ``"mean"``: one
        energy per atom is read from the mean features of the structure, as in orb-models. The
        energy of two distant molecules is then not the sum of their energies.
    """

    layers: int
    hidden_dim: int
    activation: str = "ShiftedSoftplus"
    force_bias: bool = False
    energy: Literal["atoms", "mean"] = "atoms"

    def __post_init__(self) -> None:
        if self.energy not in ("atoms", "mean"):
            raise ValueError(
                f"Orb: expected read_out['energy'] to be 'atoms' or 'mean', got {self.energy!r}"
            )

    @classmethod
    def parse(cls, given: Mapping[str, Any], layers: int, hidden_dim: int) -> ReadOut:
        """From a mapping of those attributes that differ from the default."""
        known = [field.name for field in fields(cls)]
        if unknown := [key for key in given if key not in known]:
            raise ValueError(f"Orb: unknown keys {unknown} in read_out, expected some of {known}")
        return cls(**{"layers": layers, "hidden_dim": hidden_dim, **given})

    def mlp(self, n_in: int, n_out: int, bias: bool = True) -> MLP:
        """A head."""
        return MLP([n_in, *[self.hidden_dim] * self.layers, n_out], self.activation, bias=bias)


def in_pieces(
    function: Callable[[slice], Tensor], rows: int, width: int, device: torch.device
) -> Tensor:
    """Rows of a result, computed by pieces that fit into the cache if no gradient is recorded.

    Parameters
    ----------
    function
        From a slice to those rows of the result.
    rows
        How many there are.
    width
        Numbers per row of the largest intermediate result.
    device
        Where they are.
    """
    if torch.is_grad_enabled():
        return function(slice(None))
    parts = [function(part) for part in pieces(rows, width, device)]
    return torch.cat(parts or [function(slice(None))])


class EdgeEncoder(nn.Module):
    r"""Features of edges to begin with, from their length and direction.

    .. math::

        \mathbf{e}_{ij} = \mathrm{norm}\left( \mathrm{MLP}\left(
            f(r_{ij}) \, \phi(r_{ij}) \otimes Y(\hat{\mathbf{r}}_{ij}) \right) \right)

    Parameters
    ----------
    cutoff
        In Å.
    radial_features, l_max
        Number of Bessel functions :math:`\phi`, and largest degree of the spherical harmonics.
    outer_product
        Whether all their products are taken, or just the functions themselves.
    perceptrons
        What the perceptron is like.
    """

    def __init__(
        self,
        cutoff: float,
        radial_features: int,
        l_max: int,
        outer_product: bool,
        perceptrons: Perceptrons,
    ):
        super().__init__()
        self.outer_product = outer_product
        self.radial = Bessel(radial_features, cutoff, trainable=False)
        self.angular = SphericalHarmonics(range(l_max + 1))
        n_angular = (l_max + 1) ** 2
        self.mlp = perceptrons.mlp(
            radial_features * n_angular if outer_product else radial_features + n_angular
        )
        self.norm = perceptrons.normalisation()

    def forward(self, vectors: Tensor, r: Tensor, envelope: Tensor) -> Tensor:
        """From vectors (E, 3), lengths (E, 1) and an envelope (E, 1) to features (E, C)."""
        radial, angular = self.radial(r) * envelope, self.angular(vectors)

        def of(part: slice) -> Tensor:
            if self.outer_product:
                x = (radial[part].unsqueeze(2) * angular[part].unsqueeze(1)).flatten(1)
            else:
                x = torch.cat([radial[part], (angular * envelope)[part]], dim=1)
            return self.norm(self.mlp(x))

        return in_pieces(of, r.shape[0], self.mlp.first.out_features, r.device)


class Attention(nn.Module):
    r"""Weights of the messages that an atom sends, and of those it receives.

    With logits :math:`l_{ij} = \mathbf{w} \cdot \mathbf{e}_{ij} + b` and an envelope
    :math:`f_{ij}`, the weight is :math:`f_{ij} \, \sigma(l_{ij})`, or

    .. math::

        f_{ij} \, \frac{f_{ij} e^{l_{ij}}}{\sum_k f_{ik} e^{l_{ik}}}

    over the edges that start (end) at the same atom.

    Parameters
    ----------
    channels
        C.
    gate
        Sigmoid or softmax.
    """

    def __init__(self, channels: int, gate: AttentionGate):
        super().__init__()
        if gate not in ("sigmoid", "softmax"):
            raise ValueError(
                f"Orb: expected attention_gate to be 'sigmoid' or 'softmax', got {gate!r}"
            )
        self.gate = gate
        self.logits = nn.Linear(channels, 2)  # sent, received

    def forward(self, edges: Tensor, envelope: Tensor, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        """From features (E, C) and an envelope (E, 1) to the two weights, (E, 1) each."""
        logits = self.logits(edges)
        if self.gate == "sigmoid":
            weights = torch.sigmoid(logits) * envelope
            return weights[:, :1], weights[:, 1:]
        sent = edge_wise_softmax(logits[:, :1], graph, "senders", envelope)
        received = edge_wise_softmax(logits[:, 1:], graph, "receivers", envelope)
        return sent * envelope, received * envelope


class Interaction(nn.Module):
    r"""Update of edges and atoms.

    .. math::

        \mathbf{m}_{ij} &= \mathrm{norm}\left(
            \mathrm{MLP}(\mathbf{e}_{ij} \oplus \mathbf{h}_i \oplus \mathbf{h}_j) \right), \qquad
        \mathbf{e}_{ij} \leftarrow \mathbf{e}_{ij} + \mathbf{m}_{ij} \\
        \mathbf{h}_i &\leftarrow \mathbf{h}_i + \mathrm{norm}\left( \mathrm{MLP}\left(
            \mathbf{h}_i \oplus \sum_j a_{ij} \mathbf{m}_{ij}
            \oplus \sum_j b_{ji} \mathbf{m}_{ji} \right) \right)

    with `Attention` a of what is sent and b of what is received.

    Parameters
    ----------
    perceptrons
        What the perceptrons are like.
    gate
        Of the attention.
    last
        Whether nothing reads the edges afterwards, so that they need no update.
    """

    def __init__(self, perceptrons: Perceptrons, gate: AttentionGate, last: bool):
        super().__init__()
        self.last = last
        self.attention = Attention(perceptrons.channels, gate)
        self.edge_mlp = perceptrons.mlp(3 * perceptrons.channels)
        self.edge_norm = perceptrons.normalisation()
        self.node_mlp = perceptrons.mlp(3 * perceptrons.channels)
        self.node_norm = perceptrons.normalisation()

    def forward(
        self, nodes: Tensor, edges: Tensor, envelope: Tensor, graph: AtomicGraph
    ) -> tuple[Tensor, Tensor]:
        """From atoms (N, C), edges (E, C) and an envelope (E, 1) to their new values."""
        sent, received = self.attention(edges, envelope, graph)
        messages = self.messages(nodes, edges, graph)
        sums = (
            sum_over_neighbours(messages * sent, graph),
            sum_over_receivers(messages * received, graph),
        )
        nodes = nodes + self.node_norm(self.node_mlp(torch.cat([nodes, *sums], dim=1)))
        return nodes, edges if self.last else edges + messages

    def messages(self, nodes: Tensor, edges: Tensor, graph: AtomicGraph) -> Tensor:
        """From atoms (N, C) and edges (E, C) to messages (E, C)."""
        # The first layer is linear: what the atoms add to it is computed once per atom.
        first, (i, j) = self.edge_mlp.first, graph.neighbour_list
        W_ij, W_i, W_j = first.weight.split(nodes.shape[1], dim=1)
        of_i = torch.addmm(first.bias, nodes, W_i.T)  # (N, hidden)
        of_j = with_ghosts(nodes, graph) @ W_j.T

        def of(part: slice) -> Tensor:
            hidden = of_i.index_select(0, i[part])
            # In place: no gradient needs what is overwritten.
            hidden.add_(of_j.index_select(0, j[part])).addmm_(edges[part], W_ij.T)
            return self.edge_norm(self.edge_mlp.after_first(hidden))

        return in_pieces(of, edges.shape[0], of_i.shape[1], edges.device)


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
        )

    (``conservative=True`` and no ``direct_stress`` for the conservative ones) it is the network
    of Orb-v3. Its reference energies, and the mean of its energy per atom, are a `FixedOffset`
    beside it in an `AdditionModel`; the standard deviation of the energy is a scale per element
    here, those of forces and stress are in the weights of the heads. Confidences and conditioning
    on charge and spin are left out, and so is the core repulsion of orb-models 0.5.5, in which
    nuclei are those of the next element, and which conservative models divide by the number of
    atoms: `ZBLCoreRepulsion` in the same sum does what it is for, in conservative models.

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

    Raises
    ------
    ValueError
        For an unknown norm, attention gate or key of ``read_out``, for less than one neighbour,
        and for a direct stress in a conservative model.

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
        self.force_head = None if conservative else heads.mlp(channels, 3, bias=heads.force_bias)
        self.stress_head = heads.mlp(channels, 6) if direct_stress else None

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
        for interaction in self.interactions:
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
    return sum_per_structure(x, graph) / structure_sizes(graph).unsqueeze(1)
