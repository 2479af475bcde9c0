"""PaiNN: a polarizable atom interaction neural network."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    DEFAULT_CUTOFF,
    AtomicGraph,
    PropertyKey,
    all_with_ghosts,
    as_neighbour_matrix,
    neighbour_matrix,
    neighbour_vectors,
    sum_outer_products_over_neighbours,
    sum_over_neighbours,
)
from graph_pes.nn.envelopes import get_envelope
from graph_pes.nn.mlp import MLP
from graph_pes.nn.per_element import PerElementEmbedding
from graph_pes.nn.radial import Bessel
from graph_pes.nn.radial_table import Distance, RadialLinear, RadialTable
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.nn.tabulated_messages import tabulated_messages
from graph_pes.tensors import safe_norm

from .base import GraphPESModel

#: Sums over a neighbour matrix take 0.7 to 0.9 of the time, per edge, of those over a list.
MAX_GROWTH = 1.3


class Interaction(nn.Module):
    r"""Messages from neighbours, equations 7 and 8 of the paper.

    .. math::

        \Delta s_i = \sum_j \phi_s(s_j) W_s(r_{ij}), \qquad
        \Delta \mathbf{v}_i = \sum_j \phi_{vs}(s_j) W_{vs}(r_{ij}) \, \hat{\mathbf{r}}_{ij}
        + \mathbf{v}_j \, \phi_{vv}(s_j) W_{vv}(r_{ij})

    Parameters
    ----------
    channels
        C.
    radial_features
        B.
    first
        Whether vectors are still zero, so that the last term vanishes.
    """

    def __init__(self, channels: int, radial_features: int, first: bool):
        super().__init__()
        self.n_filters = 2 if first else 3
        self.filters = RadialLinear(radial_features, self.n_filters * channels, own_table=True)
        self.phi = MLP([channels, channels, self.n_filters * channels], activation="SiLU")

    def forward(
        self, s: Tensor, v: Tensor | None, basis: Tensor, directions: Tensor, graph: AtomicGraph
    ) -> tuple[Tensor, Tensor]:
        """From s (N, C), v (N, 3, C), basis (E, B + 1), directions (E, 3): changes of s and v."""
        phi, *v_all = all_with_ghosts([self.phi(s), *([] if v is None else [v])], graph)
        if isinstance(self.filters, RadialTable):
            r, x = basis[:, :1], phi.chunk(self.n_filters, -1)
            neighbours = neighbour_matrix(graph)
            ds, dv = tabulated_messages(self.filters, r, neighbours, x, directions, *v_all)
            return ds, dv
        # The last basis function is the envelope itself, which multiplies the bias.
        weight = torch.cat([self.filters.weight, self.filters.bias[:, None]], dim=1)
        j = graph.neighbour_list[1]
        parts = zip(phi.chunk(self.n_filters, -1), weight.chunk(self.n_filters), strict=True)
        ds, *x_v = (part.index_select(0, j) * (basis @ W.T) for part, W in parts)  # (E, C)
        dv = sum_outer_products_over_neighbours(directions, x_v[0], graph)  # (N, 3, C)
        for v_j in v_all:
            dv = dv + sum_over_neighbours(x_v[1].unsqueeze(1) * v_j.index_select(0, j), graph)
        return sum_over_neighbours(ds, graph), dv


class Update(nn.Module):
    r"""Mixing of channels within each atom, equations 9 and 10 of the paper.

    .. math::

        \Delta s_i = a_{ss} + a_{sv} \langle U\mathbf{v}_i, V\mathbf{v}_i \rangle, \qquad
        \Delta \mathbf{v}_i = a_{vv} \, U\mathbf{v}_i, \qquad
        (a_{ss}, a_{sv}, a_{vv}) = a(s_i, \|V\mathbf{v}_i\|)

    Parameters
    ----------
    channels
        C.
    last
        Whether nothing reads the vectors afterwards, so that they need no update.
    """

    def __init__(self, channels: int, last: bool):
        super().__init__()
        self.last = last
        self.UV = nn.Linear(channels, 2 * channels, bias=False)
        self.a = MLP([2 * channels, channels, (2 if last else 3) * channels], activation="SiLU")

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """From s (N, C) and v (N, 3, C) to their new values."""
        Uv, Vv = self.UV(v).chunk(2, dim=-1)
        a = self.a(torch.cat([s, safe_norm(Vv, dim=1, epsilon=1e-8)], dim=-1))
        a_ss, a_sv, *a_vv = a.chunk(2 if self.last else 3, dim=-1)
        s = s + a_ss + a_sv * (Uv * Vv).sum(1)
        if not self.last:
            v = torch.addcmul(v, a_vv[0].unsqueeze(1), Uv)
        return s, v


class PaiNN(GraphPESModel):
    r"""Polarizable atom interaction neural network.

    Schütt, Unke and Gastegger, doi:10.48550/arXiv.2102.03150. Each atom carries C scalars and
    C vectors; layers pass messages between neighbours, then mix the channels of each atom, and
    an MLP reads the local energy from the scalars. Local energies are scaled per element.

    By default, as in graph-pes 1 and unlike the paper, the frequencies of the radial basis are
    trained, the envelope is a polynomial, and the read-out does not narrow. The paper's network
    is ``PaiNN(..., envelope="cosine", trainable_basis=False, readout_width=channels // 2)``. The
    vector output of the last layer, which no energy depends on, is not computed.

    Parameters
    ----------
    channels
        C.
    radial_features
        Number of radial basis functions, B.
    layers
        Number of interactions.
    cutoff
        In Å.
    envelope
        What takes messages to zero at the cutoff: ``"polynomial"``, a `PolynomialEnvelope`, or
        ``"cosine"``, a `CosineEnvelope`, as in the paper.
    trainable_basis
        Whether the frequencies of the radial basis are trained.
    readout_width
        Width of the hidden layer of the read-out, C by default.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = PaiNN(channels=16, layers=2, cutoff=4.0)
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        channels: int = 32,
        radial_features: int = 20,
        layers: int = 3,
        cutoff: float = DEFAULT_CUTOFF,
        envelope: Literal["polynomial", "cosine"] = "polynomial",
        trainable_basis: bool = True,
        readout_width: int | None = None,
    ):
        super().__init__(cutoff, implemented_properties=["local_energies"])
        self.embedding = PerElementEmbedding(channels)
        self.radial = Bessel(radial_features, cutoff, trainable_basis)
        self.envelope = get_envelope(envelope, cutoff)
        self.interactions = nn.ModuleList(
            Interaction(channels, radial_features, first=n == 0) for n in range(layers)
        )
        self.updates = nn.ModuleList(Update(channels, last=n == layers - 1) for n in range(layers))
        self.read_out = MLP([channels, readout_width or channels, 1], activation="SiLU")
        self.scaler = LocalEnergiesScaler()

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies, shape (N,)."""
        tabulated = isinstance(self.radial, Distance)
        graph = as_neighbour_matrix(graph, math.inf if tabulated else MAX_GROWTH)
        vectors = neighbour_vectors(graph)  # (E, 3)
        r = safe_norm(vectors).unsqueeze(-1)  # (E, 1)
        directions = vectors / r
        envelope = self.envelope(r)
        basis = torch.cat([self.radial(r) * envelope, envelope], dim=-1)  # (E, B + 1)
        s, v = self.embedding(graph.Z), None
        for interaction, update in zip(self.interactions, self.updates, strict=True):
            ds, dv = interaction(s, v, basis, directions, graph)
            s, v = update(s + ds, dv if v is None else v + dv)
        return {"local_energies": self.scaler(self.read_out(s), graph)}
