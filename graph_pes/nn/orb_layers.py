"""Layers of Orb: attention over neighbours, and the perceptrons in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    edge_wise_softmax,
    sum_over_neighbours,
    sum_over_receivers,
    values_of_structures,
    with_ghosts,
)

from .mlp import MLP
from .radial import Bessel
from .spherical_harmonics import SphericalHarmonics
from .trilinear import pieces

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


class ChargeAndSpin(nn.Module):
    r"""What the charge and the spin of a structure add to its atoms before each interaction.

    .. math::

        \mathbf{h}_i \leftarrow \mathbf{h}_i + W_t \left(
            \sin(2\pi Q \mathbf{v}) \oplus \cos(2\pi Q \mathbf{v}) \oplus
            \sin(2\pi S \mathbf{w}) \oplus \cos(2\pi S \mathbf{w}) \right) + \mathbf{b}_t

    with the total charge Q and the multiplicity S, that is 2S + 1 in other books; the part of a
    multiplicity of zero, which stands for an unknown one, is zero.

    Parameters
    ----------
    channels
        C, a multiple of four.
    layers
        Number of interactions.

    Raises
    ------
    ValueError
        For another number of channels.
    """

    def __init__(self, channels: int, layers: int):
        super().__init__()
        if channels % 4:
            raise ValueError(
                f"Orb: expected channels to be a multiple of 4 with charge_and_spin, got {channels}"
            )
        self.of_charge = nn.Parameter(torch.randn(channels // 4))
        self.of_spin = nn.Parameter(torch.randn(channels // 4))
        self.linears = nn.ModuleList(nn.Linear(channels, channels) for _ in range(layers))

    def forward(self, graph: AtomicGraph) -> list[Tensor]:
        """What is added to the atoms of a batch before each interaction: (N, C) each."""
        dtype = self.of_charge.dtype
        charges = values_of_structures(graph, "total_charge", 0.0, dtype).unsqueeze(1)
        spins = values_of_structures(graph, "total_spin", 1.0, dtype).unsqueeze(1)
        Q, S = 2 * math.pi * charges * self.of_charge, 2 * math.pi * spins * self.of_spin
        of_spins = torch.cat([torch.sin(S), torch.cos(S)], dim=1) * (spins != 0)
        features = torch.cat([torch.sin(Q), torch.cos(Q), of_spins], dim=1)  # (S, C)
        assert graph.batch is not None
        return [linear(features).index_select(0, graph.batch) for linear in self.linears]


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
