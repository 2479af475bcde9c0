"""Layers of PET: transformers over the edges of each atom.

Edges are rows of a neighbour matrix: features have shape (N, D, C), for the D edges of each of N
atoms, some of which may be of no weight.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.atomic_graph import AtomicGraph, values_of_structures
from graph_pes.tensors import is_traced

from .mlp import MLP
from .pet_neighbours import Neighbours

NormType = Literal["rms", "layer"]
Activation = Literal["SwiGLU", "SiLU"]
Order = Literal["pre", "post"]
_NORMS: dict[str, type[nn.Module]] = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}
_ACTIVATIONS = ("SwiGLU", "SiLU")
_ORDERS = ("pre", "post")


@dataclass(frozen=True)
class TransformerSettings:
    """What the transformers are made of; see `graph_pes.models.PET` for the meaning of each."""

    channels: int
    node_channels: int
    hidden_channels: int
    heads: int
    temperature: float
    norm_type: NormType
    activation: Activation
    order: Order

    def __post_init__(self) -> None:
        for name, known in (
            ("norm_type", _NORMS),
            ("activation", _ACTIVATIONS),
            ("order", _ORDERS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"PET: expected {name} to be one of {[*known]}, got {getattr(self, name)!r}"
                )
        if self.channels % self.heads:
            raise ValueError(
                f"PET: expected channels to be a multiple of heads, got {self.channels} and "
                f"{self.heads}"
            )

    def norm(self, channels: int) -> nn.Module:
        """A normalisation."""
        return _NORMS[self.norm_type](channels)

    def perceptron(self, channels: int, hidden: int) -> nn.Module:
        """With as many channels out as in."""
        if self.activation == "SwiGLU":
            return GatedPerceptron(channels, hidden)
        return MLP([channels, hidden, channels], self.activation)


class GatedPerceptron(nn.Module):
    r"""A hidden layer whose values are multiplied by gates.

    .. math::

        \mathbf{x} \leftarrow W' (\mathbf{v} \odot \sigma(\mathbf{g})) + \mathbf{b}', \qquad
        \mathbf{v} \oplus \mathbf{g} = W \mathbf{x} + \mathbf{b}

    Parameters
    ----------
    channels, hidden
        Width of what goes in and comes out, and of the hidden layer.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.first, self.last = nn.Linear(channels, 2 * hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """From (..., channels) to the same shape."""
        values, gates = self.first(x).chunk(2, dim=-1)
        return self.last(values * torch.sigmoid(gates))


class Attention(nn.Module):
    r"""Each token, of T in a row, is given a mean of all of them.

    .. math::

        \mathbf{x}_a \leftarrow W \bigoplus_h \frac
        {\sum_b f_b \, e^{\mathbf{q}_a \cdot \mathbf{k}_b / \sqrt{d} \tau} \, \mathbf{v}_b}
        {\sum_b f_b \, e^{\mathbf{q}_a \cdot \mathbf{k}_b / \sqrt{d} \tau}} + \mathbf{b}

    with queries, keys and values of d channels in each of the heads h, weights :math:`f_b`, and a
    temperature :math:`\tau`.

    Parameters
    ----------
    settings
        Of the transformers.
    """

    def __init__(self, settings: TransformerSettings):
        super().__init__()
        C, self.heads = settings.channels, settings.heads
        self.scale = 1 / (math.sqrt(C // self.heads) * settings.temperature)
        self.first, self.last = nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, tokens: Tensor, log_weights: Tensor) -> Tensor:
        """From tokens (N, T, C) and the logarithm of weights (N, T) to tokens (N, T, C)."""
        N, T, C = tokens.shape
        H, d = self.heads, C // self.heads
        # Copied once, in the order in which products of matrices take them: (3, H N, T, d).
        heads = self.first(tokens).view(N, T, 3, H, d).permute(2, 3, 0, 1, 4)
        queries, keys, values = heads.reshape(3, H * N, T, d).unbind(0)
        logits = torch.bmm(self.scale * queries, keys.transpose(1, 2)).view(H, N, T, T)
        means = torch.softmax(logits + log_weights.unsqueeze(1), dim=-1).view(H * N, T, T)
        found = torch.bmm(means, values).view(H, N, T, d).permute(1, 2, 0, 3)
        return self.last(found.reshape(N, T, C))


class TransformerLayer(nn.Module, ABC):
    """Attention among an atom and its edges, and perceptrons.

    Parameters
    ----------
    settings
        Of the transformers. If there are as many ``node_channels`` as ``channels``, the atom is a
        token like its edges; else it is made one by a linear map, and what comes out is added to it
        by another one.
    """

    def __init__(self, settings: TransformerSettings):
        super().__init__()
        C, C_node = settings.channels, settings.node_channels
        self.attention = Attention(settings)
        self.norm_attention, self.norm_mlp = settings.norm(C), settings.norm(C)
        self.mlp = settings.perceptron(C, settings.hidden_channels)
        self.node = NodeUpdate(settings) if C_node != C else None

    @abstractmethod
    def forward(self, nodes: Tensor, edges: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        """From atoms (N, C'), edges (N, D, C) and weights (N, 1 + D) to atoms and edges."""

    def tokens(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Of an atom, and of its edges: (N, 1 + D, C)."""
        token = nodes if self.node is None else self.node.contraction(nodes)
        return torch.cat([token.unsqueeze(1), edges], dim=1)

    def updated(self, nodes: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Atoms, and what else there is in the tokens."""
        token, edges = tokens[:, 0], tokens[:, 1:]
        return token if self.node is None else self.node(nodes, token), edges


class NodeUpdate(nn.Module):
    """What happens to atoms that have more channels than their tokens.

    Parameters
    ----------
    settings
        Of the transformers.
    """

    def __init__(self, settings: TransformerSettings):
        super().__init__()
        C, C_node = settings.channels, settings.node_channels
        self.contraction, self.expansion = nn.Linear(C_node, C), nn.Linear(C, C_node)
        self.norm = settings.norm(C_node)
        self.mlp = settings.perceptron(C_node, 2 * C_node)

    def forward(self, nodes: Tensor, token: Tensor) -> Tensor:
        """From atoms (N, C') and their new tokens (N, C) to atoms."""
        nodes = nodes + self.expansion(token)
        return nodes + self.mlp(self.norm(nodes))


class PreNormLayer(TransformerLayer):
    r"""Normalisation before attention and perceptron, :math:`x + g(\mathrm{norm}(x))`.

    An atom that is a token like its edges is *replaced* by what attention gives, as in metatrain.
    """

    def forward(self, nodes: Tensor, edges: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        tokens = self.norm_attention(self.tokens(nodes, edges))
        nodes, new = self.updated(nodes, self.attention(tokens, log_weights))
        edges = edges + new
        return nodes, edges + self.mlp(self.norm_mlp(edges))


class PostNormLayer(TransformerLayer):
    r"""Normalisation of the sums, :math:`\mathrm{norm}(x + g(x))`."""

    def forward(self, nodes: Tensor, edges: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        tokens = self.tokens(nodes, edges)
        tokens = self.norm_attention(tokens + self.attention(tokens, log_weights))
        return self.updated(nodes, self.norm_mlp(tokens + self.mlp(tokens)))


_LAYERS: dict[str, type[TransformerLayer]] = {"pre": PreNormLayer, "post": PostNormLayer}


class CartesianTransformer(nn.Module):
    r"""Tokens of edges, from where the neighbour is and what was sent, and layers that mix them.

    .. math::

        \mathbf{t}_{ij} = W \, \mathrm{SiLU}\left( U (\mathbf{r}_{ij} \oplus r_{ij}) +
        \mathbf{u}_{Z_j} + V \mathbf{m}_{ij} + \mathbf{b} \right) + \mathbf{b}'

    Parameters
    ----------
    settings
        Of the transformers.
    layers
        Number of layers.
    elements
        Number of elements, of vectors :math:`\mathbf{u}_Z`; 0 for none, where the messages say
        nothing but what element the neighbour is of.
    """

    def __init__(self, settings: TransformerSettings, layers: int, elements: int):
        super().__init__()
        C = settings.channels
        self.geometry = nn.Linear(4, C)
        self.elements = nn.Embedding(elements, C) if elements else None
        self.messages = nn.Linear(C, C, bias=False)
        self.last = nn.Linear(C, C)
        self.layers = nn.ModuleList(_LAYERS[settings.order](settings) for _ in range(layers))

    def forward(
        self, nodes: Tensor, messages: Tensor, neighbours: Neighbours
    ) -> tuple[Tensor, Tensor]:
        """From atoms (N, C') and messages to new atoms, and to edges (N, D, C).

        Messages are (N, D, C), or those of each element (Z, C).
        """
        hidden = self.geometry(neighbours.geometry)
        sent = self.messages(messages)
        hidden = hidden + (F.embedding(neighbours.kinds, sent) if messages.dim() == 2 else sent)
        if self.elements is not None:
            hidden = hidden + self.elements(neighbours.kinds)
        edges = self.last(F.silu(hidden))
        log_weights = F.pad(neighbours.log_weights, (1, 0))  # an atom sees itself
        for layer in self.layers:
            nodes, edges = layer(nodes, edges, log_weights)
        return nodes, edges


class Combination(nn.Module):
    r"""What both directions of an edge give together.

    .. math::

        \mathrm{MLP}(\mathrm{norm}(\mathbf{e}_{ij} \oplus \mathbf{e}_{ji}))

    Parameters
    ----------
    channels
        C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels)
        self.mlp = MLP([2 * channels, 2 * channels, channels], "SiLU")

    def forward(self, edges: Tensor, reverse: Tensor) -> Tensor:
        """From features of edges and of their reverse, (N, D, C) each, to (N, D, C)."""
        return self.mlp(self.norm(torch.cat([edges, reverse], dim=2)))


class ChargeAndSpin(nn.Module):
    r"""What the charge and the spin of a structure add to its atoms after each layer.

    .. math::

        \mathbf{h}_i \leftarrow \mathbf{h}_i + W' \mathrm{SiLU}(W (\mathbf{q}_Q \oplus \mathbf{s}_S)
        + \mathbf{b}) + \mathbf{b}'

    with learnt vectors of each total charge Q and multiplicity S. It is nothing to begin with.

    Parameters
    ----------
    channels
        Width of the features of atoms.
    max_charge, max_spin
        Charges from minus to plus the first, and multiplicities from 1 to the second are known.
    """

    def __init__(self, channels: int, max_charge: int, max_spin: int):
        super().__init__()
        self.charges = nn.Embedding(2 * max_charge + 1, channels)
        self.spins = nn.Embedding(max_spin, channels)
        self.mlp = MLP([2 * channels, channels, channels], "SiLU")
        for parameter in self.mlp.linear_layers[-1].parameters():
            nn.init.zeros_(parameter)
        self.lowest = {"total_charge": -max_charge, "total_spin": 1}

    def forward(self, graph: AtomicGraph) -> Tensor:
        """Shape (N, channels).

        Raises
        ------
        ValueError
            For a charge or multiplicity that is not known.
        """
        parts = []
        for (key, lowest), vectors, default in zip(
            self.lowest.items(), (self.charges, self.spins), (0, 1), strict=True
        ):
            index = values_of_structures(graph, key, default, torch.long) - lowest
            known = vectors.num_embeddings
            if not is_traced(graph.Z.shape[0]) and bool(((index < 0) | (index >= known)).any()):
                raise ValueError(
                    f"{key}: expected {lowest} to {lowest + known - 1}, got "
                    f"{(index + lowest).tolist()}"
                )
            parts.append(vectors(index))
        assert graph.batch is not None
        return self.mlp(torch.cat(parts, dim=1)).index_select(0, graph.batch)
