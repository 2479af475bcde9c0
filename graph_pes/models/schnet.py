"""SchNet: continuous-filter convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from graph_pes.atomic_graph import (
    DEFAULT_CUTOFF,
    AtomicGraph,
    PropertyKey,
    as_directed,
    as_neighbour_matrix,
    index_over_neighbours,
    neighbour_matrix,
    neighbour_vectors,
    sum_over_neighbours,
    undirected_edges,
    with_ghosts,
)
from graph_pes.nn.envelopes import CosineEnvelope
from graph_pes.nn.mlp import MLP
from graph_pes.nn.per_element import PerElementEmbedding
from graph_pes.nn.radial import DistanceExpansion, GaussianSmearing, get_distance_expansion
from graph_pes.nn.radial_table import Distance, RadialMLP, RadialTable
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.nn.tabulated_messages import tabulated_messages
from graph_pes.tensors import index_sum, safe_norm

from .base import GraphPESModel


class Interaction(nn.Module):
    r"""A continuous-filter convolution, followed by an MLP on each atom.

    .. math::  \Delta h_i = \mathrm{MLP}\Big(\sum_j (A h_j) \circ W(r_{ij}) f_c(r_{ij})\Big)

    Parameters
    ----------
    channels
        C.
    expansion_features
        B.
    """

    def __init__(self, channels: int, expansion_features: int):
        super().__init__()
        self.linear = nn.Linear(channels, channels, bias=False)
        self.filters = RadialMLP(
            [expansion_features, channels, channels], "ShiftedSoftplus", own_table=True
        )
        self.mlp = MLP([channels, channels, channels], "ShiftedSoftplus")

    def forward(
        self, h: Tensor, basis: Tensor, envelope: Tensor, graph: AtomicGraph, pairs: Tensor | None
    ) -> Tensor:
        """From h (N, C), basis (P, B) and envelope (P, 1) to the change of h.

        Filters are the same in both directions: where ``pairs`` (P,) are given, each of these
        edges stands for its reverse too; else P = E.
        """
        x = self.linear(h)  # (N, C)
        if isinstance(self.filters, RadialTable):
            neighbours, x_all = neighbour_matrix(graph), with_ghosts(x, graph)
            (messages,) = tabulated_messages(self.filters, basis, neighbours, [x_all])
            return self.mlp(messages)
        filters = self.filters(basis) * envelope  # (P, C)
        if pairs is None:
            messages = sum_over_neighbours(index_over_neighbours(x, graph) * filters, graph)
        else:
            N, (i, j) = h.shape[0], graph.neighbour_list.index_select(1, pairs)
            messages = index_sum(x.index_select(0, j) * filters, i, N)
            messages = messages + index_sum(x.index_select(0, i) * filters, j, N)
        return self.mlp(messages)


class SchNet(GraphPESModel):
    """Continuous-filter convolutional neural network.

    Schütt et al., doi:10.1063/1.5019779. As in the paper's reference implementation,
    and unlike graph-pes 1, the filters end with a cosine envelope, without which
    forces would jump at the cutoff. As in graph-pes 1, and unlike the paper, the radial basis
    is trained unless ``trainable_basis=False``; to begin with, its Gaussians are
    :math:`r_c / B` wide, rather than as wide as the distance between them.

    Parameters
    ----------
    cutoff
        In Å.
    channels
        C.
    expansion_features
        Number of radial basis functions, B.
    layers
        Number of interactions.
    expansion
        The radial basis: a `DistanceExpansion` class, Gaussians by default.
    trainable_basis
        Whether the parameters of the radial basis are trained, which they are not in the paper.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = SchNet(cutoff=4.0, channels=16)
    >>> model.predict_energy(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([])
    """

    def __init__(
        self,
        cutoff: float = DEFAULT_CUTOFF,
        channels: int = 64,
        expansion_features: int = 50,
        layers: int = 3,
        expansion: type[DistanceExpansion] | str | None = None,
        trainable_basis: bool = True,
    ):
        super().__init__(cutoff, implemented_properties=["local_energies"])
        self.embedding = PerElementEmbedding(channels)
        basis = get_distance_expansion(expansion or GaussianSmearing)
        self.radial = basis(expansion_features, cutoff, trainable_basis)
        self.envelope = CosineEnvelope(cutoff)
        self.interactions = nn.ModuleList(
            Interaction(channels, expansion_features) for _ in range(layers)
        )
        self.read_out = MLP([channels, channels // 2, 1], "ShiftedSoftplus")
        self.scaler = LocalEnergiesScaler()

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies, shape (N,)."""
        if isinstance(self.radial, Distance):  # a table instead of the filters
            graph = as_directed(as_neighbour_matrix(graph))
        vectors, pairs = neighbour_vectors(graph), undirected_edges(graph)
        if pairs is not None:
            vectors = vectors.index_select(0, pairs)
        r = safe_norm(vectors).unsqueeze(-1)  # (P, 1)
        basis, envelope = self.radial(r), self.envelope(r)
        h = self.embedding(graph.Z)
        for interaction in self.interactions:
            h = h + interaction(h, basis, envelope, graph, pairs)
        return {"local_energies": self.scaler(self.read_out(h), graph)}
