"""Layers of CHGNet: bonds, the angles between them, and gated perceptrons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.atomic_graph import AtomicGraph, number_of_atoms, sum_over_neighbours
from graph_pes.tensors import index_sum

#: Vectors of the two directions of a bond differ by less than this, in Å, and by rounding only.
#: Images of an atom are further apart.
SAME_BOND = 1e-2

#: Cosines are multiplied by this, as those are that published weights were trained with.
SHORTENED = 1 - 1e-6


@dataclass(frozen=True)
class Bonds:
    """The edges up to some length, B of them, and T angles, pairs of them at the same atom.

    Attributes
    ----------
    edges
        Which edges they are, shape (B,).
    i
        Their central atoms, shape (B,).
    directions
        Unit vectors, shape (B, 3).
    first, second
        The bonds of each angle, in both orders: shape (2, T).
    forwards, backwards
        The bonds whose reverse is known, and these reverse bonds.
    """

    edges: Tensor
    i: Tensor
    directions: Tensor
    first: Tensor
    second: Tensor
    forwards: Tensor
    backwards: Tensor

    def in_both_directions(self, x: Tensor) -> Tensor:
        """Add to what belongs to each bond (B, ...) what belongs to its reverse."""
        reverse = x.index_select(0, self.backwards)
        return x + index_sum(reverse, self.forwards, x.shape[0])


def bonds_of(graph: AtomicGraph, vectors: Tensor, r: Tensor, cutoff: float) -> Bonds:
    """The bonds of a graph, of which only those within the cutoff are listed.

    How many there are depends on the structure, also in programs that are traced: a neighbour
    matrix has many more columns than an atom has bonds, and angles are their squares.

    Parameters
    ----------
    vectors, r
        Of the edges, and their lengths, in Å: shapes (E, 3) and (E,).
    cutoff
        In Å.
    """
    edges = (r.detach() < cutoff).nonzero()[:, 0]
    i, j = (atoms.index_select(0, edges) for atoms in graph.neighbour_list)
    counts = index_sum(torch.ones_like(i), i, number_of_atoms(graph))
    of_bonds = vectors.index_select(0, edges)
    a, b = _pairs(i, counts)
    once = (a < b).nonzero()[:, 0]
    a, b = a.index_select(0, once), b.index_select(0, once)
    there, back = _pairs(j, counts)
    returns = j.index_select(0, back) == i.index_select(0, there)
    gap = of_bonds.detach().index_select(0, there) + of_bonds.detach().index_select(0, back)
    both = (returns & ((gap * gap).sum(1) < SAME_BOND**2)).nonzero()[:, 0]
    return Bonds(
        edges=edges,
        i=i,
        directions=of_bonds / r.index_select(0, edges).clamp(min=1e-6).unsqueeze(1),
        first=torch.stack([a, b]),
        second=torch.stack([b, a]),
        forwards=there.index_select(0, both),
        backwards=back.index_select(0, both),
    )


def _pairs(atoms: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Each bond with all bonds that start at an atom of its own, of ``atoms`` (B,).

    Parameters
    ----------
    counts
        How many bonds start at each atom, shape (N,); they are sorted by it.
    """
    partners = counts.index_select(0, atoms)
    bond = torch.repeat_interleave(partners)
    starts = (counts.cumsum(0) - counts).index_select(0, atoms)
    skipped = starts - (partners.cumsum(0) - partners)
    return bond, skipped.index_select(0, bond) + torch.arange(bond.shape[0], device=bond.device)


class AngleExpansion(nn.Module):
    r"""Fourier series of angles between unit vectors, whose frequencies are trained.

    .. math::

        \left( \tfrac{1}{\sqrt{2}} \oplus \sin(f_n \theta) \oplus \cos(f_n \theta) \right)
        / \sqrt{\pi}, \qquad \cos\theta = (1 - 10^{-6}) \, \mathbf{u} \cdot \mathbf{v}

    with :math:`f_n = n` to begin with. Bonds in line, too, have finite derivatives.

    Parameters
    ----------
    features
        Number of functions, an odd one.

    Raises
    ------
    ValueError
        If it is even.
    """

    def __init__(self, features: int):
        super().__init__()
        if features % 2 == 0:
            raise ValueError(f"CHGNet: expected an odd number of angular_features, got {features}")
        frequencies = torch.arange(1, features // 2 + 1, dtype=torch.get_default_dtype())
        self.frequencies = nn.Parameter(frequencies)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """From unit vectors (T, 3) to functions (T, features)."""
        # Other than an arc cosine, this is precise for all angles.
        normal = torch.linalg.cross(u, v)
        sine = (SHORTENED**2 * (normal * normal).sum(1) + (1 - SHORTENED**2)).sqrt()
        angle = torch.atan2(sine, SHORTENED * (u * v).sum(1))
        x = angle.unsqueeze(1) * self.frequencies
        constant = torch.full_like(x[:, :1], 1 / math.sqrt(2))
        return torch.cat([constant, x.sin(), x.cos()], dim=1) / math.sqrt(math.pi)


class GatedMLP(nn.Module):
    r"""A perceptron whose outputs are multiplied by those of a second one, after a sigmoid.

    .. math::  \mathrm{SiLU}(\mathrm{LN}(\mathrm{MLP}_1(\mathbf{x}))) \odot
        \sigma(\mathrm{LN}(\mathrm{MLP}_2(\mathbf{x})))

    The first layer of both is one linear map, of whose input several parts are known separately.

    Parameters
    ----------
    n_in
        Widths of the parts.
    channels
        Width of the output, C.
    hidden
        Width of the hidden layer; None if there is none.
    """

    def __init__(self, n_in: Sequence[int], channels: int, hidden: int | None = None):
        super().__init__()
        self.n_in = list(n_in)
        self.first = nn.Linear(sum(n_in), 2 * (hidden or channels))
        layers = [] if hidden is None else [nn.Linear(hidden, channels) for _ in range(2)]
        self.second = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))

    def parts(self) -> tuple[Tensor, ...]:
        """Weights of the first layer that multiply each part of the input, transposed."""
        return tuple(W.T for W in self.first.weight.split(self.n_in, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """From what the first layer gives, (..., 2 hidden), to (..., C)."""
        if len(self.second) > 0:
            x = F.silu(x)
        core, gate = x.chunk(2, dim=-1)
        if len(self.second) > 0:
            core, gate = self.second[0](core), self.second[1](gate)
        return F.silu(self.norms[0](core)) * torch.sigmoid(self.norms[1](gate))


class AtomConvolution(nn.Module):
    r"""Update of atoms by the edges that start at them.

    .. math::

        \mathbf{h}_i \leftarrow \mathbf{h}_i + W \sum_j \mathbf{w}_{ij} \odot \phi(
            \mathbf{h}_i \oplus \mathbf{b}_{ij} \oplus \mathbf{h}_j)

    with a `GatedMLP` :math:`\phi`. The features of edges are
    :math:`\mathbf{b}_{ij} = V \mathbf{e}(r_{ij}) + \mathbf{u}_{ij}`, of which the second part,
    the updates, belongs to bonds only.

    Parameters
    ----------
    channels
        C.
    hidden
        Width of the hidden layer.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.mlp = GatedMLP([channels] * 3, channels, hidden)
        self.mix = nn.Linear(channels, channels, bias=False)

    def forward(
        self,
        nodes: Tensor,
        basis: Tensor,
        embedding: nn.Linear,
        updates: Tensor | None,
        weights: Tensor,
        bonds: Bonds,
        graph: AtomicGraph,
    ) -> Tensor:
        """New features of atoms.

        Parameters
        ----------
        nodes
            Their features, shape (N, C).
        basis
            Functions of the lengths of edges, shape (E, B).
        embedding
            The matrix V, (C, B).
        updates
            Of the features of bonds, shape (B, C); None if there were none yet.
        weights
            Of the messages, shape (E, C).
        """
        W_i, W_ij, W_j = self.mlp.parts()
        i, j = graph.neighbour_list
        of_i = torch.addmm(self.mlp.first.bias, nodes, W_i)  # (N, 2 hidden)
        # Not with_ghosts: bonds need all neighbours to be among the atoms that are computed.
        of_j = nodes @ W_j
        hidden = basis @ (embedding.weight.T @ W_ij)  # (E, 2 hidden)
        if updates is not None:
            hidden = hidden.index_add_(0, bonds.edges, updates @ W_ij)
        # In place: no gradient needs what is overwritten.
        hidden = hidden.add_(of_i.index_select(0, i)).add_(of_j.index_select(0, j))
        messages = sum_over_neighbours(self.mlp(hidden) * weights, graph)
        return nodes + self.mix(messages)


class BondConvolution(nn.Module):
    r"""Update of bonds by the angles that they are part of, at both of their ends.

    .. math::

        \mathbf{b}_{ij} \leftarrow \mathbf{b}_{ij} + W (\mathbf{m}_{ij} + \mathbf{m}_{ji}), \qquad
        \mathbf{m}_{ij} = \sum_{k \ne j} \mathbf{v}_{ij} \odot \mathbf{v}_{ik} \odot \phi(
            \mathbf{b}_{ij} \oplus \mathbf{b}_{ik} \oplus \mathbf{a}_{jik} \oplus \mathbf{h}_i)

    with a `GatedMLP` :math:`\phi`.

    Parameters
    ----------
    channels
        C.
    hidden
        Width of the hidden layer.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.mlp = GatedMLP([channels] * 4, channels, hidden)
        self.mix = nn.Linear(channels, channels, bias=False)

    def forward(
        self, nodes: Tensor, features: Tensor, angles: Tensor, weights: Tensor, bonds: Bonds
    ) -> Tensor:
        """What is added to the features of bonds, shape (B, C).

        Parameters
        ----------
        nodes, features, angles
            Features of atoms (N, C), of bonds (B, C), and of angles (2, T, C), or (1, T, C)
            where both orders of their bonds have the same.
        weights
            The vectors v of bonds, shape (B, C).
        """
        messages = self.mlp(first_layer(self.mlp, nodes, features, angles, bonds))
        messages = messages * weights.index_select(0, bonds.second.reshape(-1))
        sums = weights * index_sum(messages, bonds.first.reshape(-1), features.shape[0])
        return self.mix(bonds.in_both_directions(sums))


class AngleUpdate(nn.Module):
    r"""Update of angles by their bonds and central atoms.

    .. math::

        \mathbf{a}_{jik} \leftarrow \mathbf{a}_{jik} + \phi(
            \mathbf{b}_{ij} \oplus \mathbf{b}_{ik} \oplus \mathbf{a}_{jik} \oplus \mathbf{h}_i)

    with a `GatedMLP` :math:`\phi` without hidden layer.

    Parameters
    ----------
    channels
        C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.mlp = GatedMLP([channels] * 4, channels)

    def forward(self, nodes: Tensor, features: Tensor, angles: Tensor, bonds: Bonds) -> Tensor:
        """New features of angles (2, T, C); the arguments are those of `BondConvolution`."""
        change = self.mlp(first_layer(self.mlp, nodes, features, angles, bonds))
        return change.view(2, -1, change.shape[1]) + angles.expand(2, -1, -1)


def first_layer(
    mlp: GatedMLP, nodes: Tensor, features: Tensor, angles: Tensor, bonds: Bonds
) -> Tensor:
    """What the first layer gives for all angles, (2 T, 2 hidden): see `BondConvolution`.

    What it makes of atoms and bonds is computed once for each of these.
    """
    W_ij, W_ik, W_jik, W_i = mlp.parts()
    of_i = torch.addmm(mlp.first.bias, nodes, W_i).index_select(0, bonds.i)
    of_first, of_second = torch.addmm(of_i, features, W_ij), features @ W_ik
    # In place: no gradient needs what is overwritten.
    hidden = of_first.index_select(0, bonds.first.reshape(-1))
    hidden = hidden.add_(of_second.index_select(0, bonds.second.reshape(-1)))
    orders, _, C = angles.shape  # compilers want matrices to be of two dimensions
    of_angles = (angles.view(-1, C) @ W_jik).view(orders, -1, hidden.shape[1])
    return (hidden.view(2, -1, hidden.shape[1]) + of_angles).view_as(hidden)
