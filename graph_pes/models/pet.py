"""PET: transformers over the edges of each atom, which learn the symmetry under rotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    as_neighbour_matrix,
    neighbour_matrix,
    neighbour_vectors,
    neighbour_Z,
)
from graph_pes.nn.mlp import MLP
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.nn.pet_layers import (
    Activation,
    CartesianTransformer,
    ChargeAndSpin,
    Combination,
    NormType,
    Order,
    TransformerSettings,
)
from graph_pes.nn.pet_neighbours import (
    LOG_ENVELOPES,
    Neighbours,
    cutoff_finder,
    exchanged,
    reverse_edges,
    without_weightless,
)
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.tensors import safe_norm

from .base import GraphPESModel

Featurizer = Literal["feedforward", "residual"]
FEATURIZERS = ("feedforward", "residual")


class PET(GraphPESModel):
    r"""The point edge transformer, which learns the symmetry under rotation from data.

    Pozdnyakov and Ceriotti, doi:10.48550/arXiv.2305.19302, and, as metatrain has it, Mazitov et
    al. (PET-MAD), doi:10.1038/s41467-025-65662-7. An atom and the edges to its neighbours are
    tokens, which several layers of a transformer mix (`CartesianTransformer`), with an attention
    that fades out at the cutoff. Then both directions of each edge exchange what came out of it,
    and the next transformer follows. Energies are read from atoms, and from edges, whose part
    fades out at the cutoff:

    .. math::

        E_i = \sigma_{Z_i} \sum_t \left( \mathrm{MLP}(\mathbf{h}_i^t) + \sum_j f_{ij} \,
        \mathrm{MLP}(\mathbf{e}_{ij}^t) \right)

    With the featurizer ``"feedforward"`` that is after the last transformer only, and edges carry

    .. math::

        \mathbf{m}_{ij} \leftarrow \mathbf{m}_{ij} + \mathbf{e}_{ij}
        + \mathrm{MLP}(\mathrm{norm}(\mathbf{e}_{ij} \oplus \mathbf{e}_{ji})),

    which is also what energies are read from; with ``"residual"`` after each one, which starts from
    new vectors of the elements of atoms, and :math:`\mathbf{m}_{ij} \leftarrow (\mathbf{m}_{ij} +
    \mathbf{e}_{ji}) / 2`.

    Energies are not exactly invariant under rotation, which is learnt from structures that are
    turned at random (``transform: random_rotation``). They are continuous at the cutoff. In a loss
    in which energies weigh much more than forces, the scale of the energies shrinks to zero before
    anything is learnt: ``configs/pet.yaml``.

    What an atom is predicted depends on atoms ``transformers`` cutoffs away, one more for
    ``"feedforward"``, and one more with an adaptive cutoff. Engines of many processes compute
    ghosts that far away, rather than exchange what is known of them.

    The linear maps that metatrain has before others, without anything in between, are not there:
    they are multiplied into the latter when `graph_pes.interfaces.upet` fills the network with the
    published weights. Edges of no weight take no part in attention at all; there, they have
    :math:`10^{-15}` of it.

    Parameters
    ----------
    elements
        Chemical symbols of the elements that the model is for.
    cutoff
        In Å.
    channels, node_channels
        Widths of the features of edges, and of atoms.
    transformers
        Number of transformers, with messages in between.
    layers
        Number of attention layers in each of them.
    heads
        Of the attention.
    hidden_channels, head_channels
        Width of the hidden layers of the transformers, and of the read-outs.
    norm_type
        ``"rms"`` or ``"layer"``.
    activation
        Of the transformers: ``"SwiGLU"``, which has gates (`GatedPerceptron`), or ``"SiLU"``.
    order
        ``"pre"`` or ``"post"``: `PreNormLayer` or `PostNormLayer`.
    featurizer
        ``"feedforward"`` or ``"residual"``.
    temperature
        That logits of the attention are divided by.
    envelope, envelope_width
        ``"bump"`` or ``"cosine"``, and the width, in Å, of the shell below the cutoff in which it
        falls to zero.
    adaptive_cutoff
        ``{"neighbours": 16}``, and what differs from the defaults in `AdaptiveCutoff`, for cutoffs
        that are shorter where there are many neighbours; None for the same everywhere.
    charge_and_spin
        The largest charge and multiplicity, if the prediction depends on
        ``graph.other["total_charge"]`` (0 if there is none) and ``graph.other["total_spin"]``, the
        multiplicity (1 if there is none): see `ChargeAndSpin`.

    Raises
    ------
    ValueError
        If an argument makes no sense, or an element is unknown or given twice; in predictions, if
        a charge or multiplicity is not known.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = PET(["H", "C"], cutoff=4.0, channels=16, node_channels=32, heads=2)
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float = 4.5,
        channels: int = 128,
        node_channels: int = 256,
        transformers: int = 2,
        layers: int = 2,
        heads: int = 8,
        hidden_channels: int = 256,
        head_channels: int = 128,
        norm_type: NormType = "rms",
        activation: Activation = "SwiGLU",
        order: Order = "pre",
        featurizer: Featurizer = "feedforward",
        temperature: float = 1.0,
        envelope: Literal["bump", "cosine"] = "bump",
        envelope_width: float = 0.5,
        adaptive_cutoff: Mapping[str, Any] | None = None,
        charge_and_spin: tuple[int, int] | None = None,
    ):
        super().__init__(cutoff, implemented_properties=["local_energies"])
        if transformers < 1 or layers < 1:
            raise ValueError(
                f"PET: expected at least one transformer and layer, got {transformers} and {layers}"
            )
        inside = TransformerSettings(
            channels=channels,
            node_channels=node_channels,
            hidden_channels=hidden_channels,
            heads=heads,
            temperature=temperature,
            norm_type=norm_type,
            activation=activation,
            order=order,
        )
        self.residual = one_of(featurizer, FEATURIZERS, "featurizer") == "residual"
        self.envelope = LOG_ENVELOPES[one_of(envelope, LOG_ENVELOPES, "envelope")](envelope_width)
        self.cutoffs = None if adaptive_cutoff is None else cutoff_finder(adaptive_cutoff, cutoff)
        # The step of an adaptive cutoff is hard to find by trying.
        self.steps = transformers + (not self.residual) + (self.cutoffs is not None)
        n_read = transformers if self.residual else 1
        self.one_hot = AtomicOneHot(elements)
        n = len(self.one_hot.elements)
        self.node_embeddings = nn.ModuleList(nn.Embedding(n, node_channels) for _ in range(n_read))
        self.edge_embedding = nn.Embedding(n, channels)
        self.transformers = nn.ModuleList(
            CartesianTransformer(inside, layers, n if t > 0 else 0) for t in range(transformers)
        )
        self.combinations = nn.ModuleList(
            Combination(channels) for _ in range(0 if self.residual else transformers)
        )
        self.charge_and_spin = (
            None if charge_and_spin is None else ChargeAndSpin(node_channels, *charge_and_spin)
        )
        hidden = [head_channels, head_channels, 1]
        self.node_heads = nn.ModuleList(
            MLP([node_channels, *hidden], "SiLU") for _ in range(n_read)
        )
        self.edge_heads = nn.ModuleList(MLP([channels, *hidden], "SiLU") for _ in range(n_read))
        self.scaler = LocalEnergiesScaler()

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,)."""
        graph = as_neighbour_matrix(graph)
        neighbours = self.neighbours(graph)
        features = self.residual_features if self.residual else self.feedforward_features
        weights = neighbours.log_weights.exp()
        energies = torch.zeros_like(weights[:, 0])
        heads = zip(self.node_heads, self.edge_heads, strict=True)
        for (nodes, edges), (of_node, of_edge) in zip(
            features(graph, neighbours), heads, strict=True
        ):
            of_edges = (of_edge(edges).squeeze(2) * weights).sum(1)
            energies = energies + of_node(nodes).squeeze(1) + of_edges
        return {"local_energies": self.scaler(energies, graph)}

    def neighbours(self, graph: AtomicGraph) -> Neighbours:
        """The edges of a neighbour matrix: those of any weight, and what fills it up."""
        atoms = neighbour_matrix(graph)
        vectors = neighbour_vectors(graph)
        geometry = torch.cat([vectors, safe_norm(vectors).unsqueeze(1)], dim=1).view(
            *atoms.shape, 4
        )
        kinds = self.one_hot.index_of.index_select(0, neighbour_Z(graph)).view(atoms.shape)
        r = geometry[..., 3]
        if self.cutoffs is None:
            return Neighbours(geometry, atoms, kinds, self.envelope(r, self.cutoff_value))
        cutoffs = self.cutoffs(r)
        # All are atoms of this process, as in `reverse_edges`.
        of_neighbours = cutoffs.index_select(0, atoms.reshape(-1)).view(atoms.shape)
        cutoffs = (cutoffs.unsqueeze(1) + of_neighbours) / 2
        found = Neighbours(geometry, atoms, kinds, self.envelope(r, cutoffs))
        return without_weightless(found, kept=r.detach() < cutoffs.detach())

    def feedforward_features(
        self, graph: AtomicGraph, neighbours: Neighbours
    ) -> list[tuple[Tensor, Tensor]]:
        """Features of atoms (N, C') and edges (N, D, C) after the last transformer."""
        (embedding,) = self.node_embeddings
        reverse = reverse_edges(neighbours)
        nodes = embedding(self.one_hot.index_of.index_select(0, graph.Z))
        messages = self.edge_embedding.weight
        state = self.edge_embedding(neighbours.kinds)
        for transformer, combination in zip(self.transformers, self.combinations, strict=True):
            nodes, edges = transformer(nodes, messages, neighbours)
            nodes = self.conditioned(nodes, graph)
            state = state + edges + combination(edges, exchanged(edges, reverse))
            messages = state
        return [(nodes, state)]

    def residual_features(
        self, graph: AtomicGraph, neighbours: Neighbours
    ) -> list[tuple[Tensor, Tensor]]:
        """Features of atoms (N, C') and edges (N, D, C) after each transformer."""
        kinds = self.one_hot.index_of.index_select(0, graph.Z)
        features: list[tuple[Tensor, Tensor]] = []
        messages, state = self.edge_embedding.weight, self.edge_embedding(neighbours.kinds)
        reverse = reverse_edges(neighbours) if len(self.transformers) > 1 else None
        for transformer, embedding in zip(self.transformers, self.node_embeddings, strict=True):
            if features:
                assert reverse is not None
                messages = state = (state + exchanged(features[-1][1], reverse)) / 2
            nodes, edges = transformer(embedding(kinds), messages, neighbours)
            features.append((self.conditioned(nodes, graph), edges))
        return features

    def conditioned(self, nodes: Tensor, graph: AtomicGraph) -> Tensor:
        """Atoms (N, C') of the charge and spin of their structure."""
        return nodes if self.charge_and_spin is None else nodes + self.charge_and_spin(graph)


def one_of(value: str, known: Sequence[str] | Mapping[str, Any], argument: str) -> str:
    """The value, if it is known."""
    if value not in known:
        raise ValueError(f"PET: expected {argument} to be one of {[*known]}, got {value!r}")
    return value
