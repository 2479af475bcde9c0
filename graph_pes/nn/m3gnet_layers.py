"""Layers of M3GNet: features of edges that know the angles to other edges of the same atom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.atomic_graph import (
    AtomicGraph,
    index_over_central_atoms,
    neighbour_vectors,
    sum_over_neighbours,
)
from graph_pes.tensors import is_traced, safe_norm

from .envelopes import PolynomialEnvelope
from .float64 import Float64Tensors
from .mlp import MLP
from .radial import DistanceExpansion, SmoothBessel
from .spherical_harmonics import SphericalHarmonics

#: How many terms the series of spherical Bessel functions have, enough up to their degree.
TERMS = 14


def spherical_bessel(x: Tensor, degrees: Tensor) -> Tensor:
    r"""Spherical Bessel functions of the first kind, :math:`j_l(x)`.

    Parameters
    ----------
    x
        Arguments, none negative, of shape (..., K).
    degrees
        :math:`l` of each, integers of shape (K,).

    Returns
    -------
    Tensor
        Shape (..., K). Precise, with all derivatives, also for arguments near zero.

    Examples
    --------
    >>> spherical_bessel(torch.tensor([0.0, math.pi]), torch.tensor([0, 1]))
    tensor([1.0000, 0.3183])
    """
    sines, cosines, series = (
        table.index_select(0, degrees.cpu()).to(x) for table in _tables(int(degrees.max()))
    )
    return _spherical_bessel(x, degrees.to(x), sines, cosines, series)


def _spherical_bessel(
    x: Tensor, degrees: Tensor, sines: Tensor, cosines: Tensor, series: Tensor
) -> Tensor:
    """With the coefficients (K, P) of each function."""
    # Terms of the closed form cancel where x is small, and their series where it is large.
    first = degrees.clamp(min=1)
    near = x < first
    far = torch.where(near, first, x)
    inverse = far.reciprocal()
    closed = _polynomial(sines, inverse) * far.sin() + _polynomial(cosines, inverse) * far.cos()
    x = torch.where(near, x, 0.0)
    return torch.where(near, x**degrees * _polynomial(series, x * x), closed)


def _polynomial(coefficients: Tensor, x: Tensor) -> Tensor:
    """One for each of the last dimension of x (..., K), of coefficients (K, P)."""
    *lower, value = coefficients.unbind(1)
    for coefficient in reversed(lower):
        value = torch.addcmul(coefficient, value, x)
    return value


def _tables(l_max: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Coefficients of all degrees, for `_spherical_bessel`.

    .. math::

        j_l(x) = p_l(1/x) \sin x + q_l(1/x) \cos x
               = x^l \sum_m \frac{(-1/2)^m x^{2m}}{m! \, (2l + 2m + 1)!!}
    """
    closed = torch.zeros(2, max(l_max, 1) + 1, max(l_max, 1) + 2, dtype=torch.float64)
    closed[0, 0, 1] = closed[0, 1, 2] = 1.0
    closed[1, 1, 1] = -1.0
    for l in range(1, l_max):
        closed[:, l + 1] = (2 * l + 1) * closed[:, l].roll(1, dims=1) - closed[:, l - 1]
    series = torch.ones(l_max + 1, TERMS, dtype=torch.float64)
    for l in range(l_max + 1):
        series[l, 0] = 1 / math.prod(range(1, 2 * l + 2, 2))
        for m in range(1, TERMS):
            series[l, m] = -series[l, m - 1] / (2 * m * (2 * l + 2 * m + 1))
    return closed[0, : l_max + 1], closed[1, : l_max + 1], series


def spherical_bessel_zeros(l_max: int, n: int) -> Tensor:
    """The first n positive zeros of each degree up to l_max, by bisection: shape (l_max + 1, n).

    Examples
    --------
    >>> spherical_bessel_zeros(1, 2)
    tensor([[3.1416, 6.2832],
            [4.4934, 7.7253]], dtype=torch.float64)
    """
    zeros = math.pi * torch.arange(1, n + l_max + 1, dtype=torch.float64)
    found = [zeros[:n]]
    for l in range(1, l_max + 1):
        # Between any two of one degree is one of the next.
        low, high = zeros[:-1], zeros[1:]
        degree = torch.full(low.shape, l)
        sign = spherical_bessel(low, degree).sign()
        for _ in range(60):
            middle = (low + high) / 2
            before = spherical_bessel(middle, degree) * sign > 0
            low, high = torch.where(before, middle, low), torch.where(before, high, middle)
        zeros = (low + high) / 2
        found.append(zeros[:n])
    return torch.stack(found)


class SphericalBessel(DistanceExpansion, Float64Tensors):
    r"""Spherical Bessel functions of several degrees that are zero at the cutoff.

    .. math::

        \phi_{ln}(r) = \sqrt{\frac{2}{r_c^3}} \,
            \frac{j_l(z_{ln} r / r_c)}{|j_{l+1}(z_{ln})|}, \qquad l \le l_{max}

    with the zeros :math:`z_{ln}` of :math:`j_l`: orthonormal, for each degree, in a ball.
    Gasteiger, Groß and Günnemann, doi:10.48550/arXiv.2003.03123. Nothing is trained.

    Parameters
    ----------
    l_max
        The largest degree.
    n
        Number of functions of each degree.
    cutoff
        In Å.
    """

    frequencies: Tensor
    scales: Tensor
    degrees: Tensor
    sines: Tensor
    cosines: Tensor
    series: Tensor

    def __init__(self, l_max: int, n: int, cutoff: float):
        super().__init__((l_max + 1) * n, cutoff, trainable=False)
        zeros = spherical_bessel_zeros(l_max, n).flatten()
        degrees = torch.arange(l_max + 1).repeat_interleave(n)
        scales = math.sqrt(2 / cutoff**3) / spherical_bessel(zeros, degrees + 1).abs()
        sines, cosines, series = (x.repeat_interleave(n, dim=0) for x in _tables(l_max))
        for name, value in {
            "frequencies": zeros / cutoff,
            "scales": scales,
            "degrees": degrees,
            "sines": sines,
            "cosines": cosines,
            "series": series,
        }.items():
            self.register_float64_buffer(name, value, persistent=False)

    def expand(self, r: Tensor) -> Tensor:  # noqa: D102
        tables = (x.to(r.dtype) for x in (self.degrees, self.sines, self.cosines, self.series))
        x = r * self.frequencies.to(r.dtype)
        return _spherical_bessel(x, *tables) * self.scales.to(r.dtype)


class GatedMLP(nn.Module):
    r"""The product of two perceptrons, of which one is a gate, :math:`g(x) \, \sigma(s(x))`.

    Both have the same widths, and SiLU between their layers.

    Parameters
    ----------
    layers
        Widths, from the input to the output.
    activate_last
        Whether SiLU also follows the last layer of g.
    bias
        Whether the layers have biases.
    """

    def __init__(self, layers: Sequence[int], activate_last: bool = True, bias: bool = True):
        super().__init__()
        self.activate_last = activate_last
        self.first = nn.Linear(layers[0], 2 * layers[1], bias=bias)  # of g, of s
        self.values, self.gates = (
            MLP(layers[1:], "SiLU", bias=bias) if len(layers) > 2 else nn.Identity()
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """From (K, layers[0]) to (K, layers[-1])."""
        return self.after_first(self.first(x))

    def after_first(self, hidden: Tensor) -> Tensor:
        """From what the first layers give, (K, 2 layers[1]), to (K, layers[-1])."""
        if isinstance(self.values, MLP):
            hidden = F.silu(hidden)
        values, gates = hidden.chunk(2, dim=1)
        values, gates = self.values(values), self.gates(gates)
        return (F.silu(values) if self.activate_last else values) * gates.sigmoid()


@dataclass(frozen=True)
class Geometry:
    """Functions of the vectors of the edges, once for all layers.

    Attributes
    ----------
    graph
        Whose edges they are.
    radial
        Functions of the distance, zero from the cutoff on: shape (E, B).
    others
        `AngularSums`: shape (E, K).
    """

    graph: AtomicGraph
    radial: Tensor
    others: Tensor


class AngularSums(Float64Tensors):
    r"""Functions of the other edges of the same atom, and of the angles to them.

    .. math::

        a_{ij,ln} = \sum_{k \ne j} f(r_{ij}) f(r_{ik}) \, \phi_{ln}(r_{ik}) \,
            Y_{l0}(\theta_{jik})

    of all edges ik of atom i, with `SphericalBessel` functions :math:`\phi_{ln}`, and an envelope f
    that ends at the three-body cutoff. No triplets are listed: by the addition theorem

    .. math::

        Y_{l0}(\theta_{jik}) = \sqrt{\tfrac{4\pi}{2l + 1}} \sum_m
            Y_{lm}(\hat{\mathbf{r}}_{ij}) Y_{lm}(\hat{\mathbf{r}}_{ik})

    the sum over all k is one per atom, from which the part of j itself is subtracted.

    Parameters
    ----------
    cutoff
        Of the Bessel functions, in Å.
    three_body_cutoff
        In Å.
    l_max
        The largest degree.
    n
        Number of functions of each degree.
    """

    components: Tensor
    of_functions: Tensor
    of_harmonics: Tensor

    def __init__(self, cutoff: float, three_body_cutoff: float, l_max: int, n: int):
        super().__init__()
        self.n = n
        self.bessel = SphericalBessel(l_max, n, cutoff)
        self.harmonics = SphericalHarmonics(range(l_max + 1))
        self.envelope = PolynomialEnvelope(three_body_cutoff, p=3)
        l = torch.arange(l_max + 1)
        l_m = l.repeat_interleave(2 * l + 1)
        same = (l.unsqueeze(1) == l_m).double()
        for name, value in {
            # 1 where a component (l, m, n) belongs to a function (l, n)
            "components": torch.kron(same, torch.eye(n, dtype=torch.float64)),
            "of_functions": ((2 * l.double() + 1) / (4 * math.pi)).sqrt().repeat_interleave(n),
            # so that harmonics of each degree have length 1
            "of_harmonics": (2 * l_m.double() + 1).rsqrt(),
        }.items():
            self.register_float64_buffer(name, value, persistent=False)

    def forward(self, graph: AtomicGraph, vectors: Tensor, r: Tensor) -> Tensor:
        """From vectors (E, 3) and their lengths (E, 1) to shape (E, K)."""
        envelope, components = self.envelope(r), self.components.to(r.dtype)
        of_k = self.bessel(r) * self.of_functions.to(r.dtype) * envelope  # (E, K)
        Y = self.harmonics(vectors) * self.of_harmonics.to(r.dtype)  # (E, (l_max + 1)²)
        Y = Y.unsqueeze(2).expand(-1, -1, self.n).flatten(1)  # (E, Q)
        sums = sum_over_neighbours((of_k @ components) * Y, graph)  # (N, Q)
        along = index_over_central_atoms(sums, graph) * Y
        return (along @ components.T - of_k) * envelope


class GeometryEncoder(nn.Module):
    """Makes a `Geometry`.

    Parameters
    ----------
    cutoff, three_body_cutoff
        In Å.
    radial_features
        Number of radial functions, B, and of three-body functions of each degree.
    l_max
        Largest degree of the three-body functions.
    """

    def __init__(self, cutoff: float, three_body_cutoff: float, radial_features: int, l_max: int):
        super().__init__()
        self.cutoff = float(cutoff)
        self.radial = SmoothBessel(radial_features, cutoff)
        self.others = AngularSums(cutoff, three_body_cutoff, l_max, radial_features)

    def forward(self, graph: AtomicGraph) -> Geometry:
        """Of all edges of a graph."""
        vectors = neighbour_vectors(graph)
        r = safe_norm(vectors).unsqueeze(1)
        radial = torch.where(r < self.cutoff, self.radial(r), 0.0)
        return Geometry(graph, radial, self.others(graph, vectors, r))


class ThreeBody(nn.Module):
    r"""What edges learn from the other edges of the same atom.

    .. math::

        \Delta\mathbf{e}_{ij} = \mathrm{SiLU}(W_g \mathbf{x}_{ij}) \odot
            \sigma(W_s \mathbf{x}_{ij}), \qquad
        \mathbf{x}_{ij} = \mathbf{a}_{ij} \odot \sigma(W \mathbf{h}_i + \mathbf{b})

    with the `Geometry` :math:`\mathbf{a}_{ij}` of the others.

    Parameters
    ----------
    channels
        C.
    functions
        Number of three-body functions, K.
    """

    def __init__(self, channels: int, functions: int):
        super().__init__()
        self.gate = nn.Linear(channels, functions)
        self.update = GatedMLP([functions, channels], bias=False)

    def forward(self, nodes: Tensor, geometry: Geometry) -> Tensor:
        """From atoms (N, C) to what is added to the edges (E, C)."""
        gates = index_over_central_atoms(self.gate(nodes).sigmoid(), geometry.graph)
        return self.update(geometry.others * gates)


class PairNetwork(GatedMLP):
    """A gated perceptron of the features of an edge and its two atoms.

    Parameters
    ----------
    channels
        C, of atoms, edges, and what comes out.
    """

    def __init__(self, channels: int):
        super().__init__([3 * channels, channels, channels])

    def of_edges(
        self, nodes: Tensor, everyone: Tensor, edges: Tensor, graph: AtomicGraph
    ) -> Tensor:
        """From atoms (N, C), these and ghosts (M, C), and edges (E, C) to (E, C)."""
        # The first layer is linear: what the atoms add to it is computed once per atom.
        W_i, W_j, W_ij = self.first.weight.split(nodes.shape[1], dim=1)
        of_i = torch.addmm(self.first.bias, nodes, W_i.T)
        of_j = everyone @ W_j.T
        hidden = of_j.index_select(0, graph.neighbour_list[1])
        if is_traced(edges.shape[0]):
            # With a dimension in between, compilers add in one loop with what follows; else they
            # would make it a product that is added to a copy.
            products = (edges @ W_ij.T).unsqueeze(1) + hidden.unsqueeze(1)
            hidden = products.squeeze(1) + index_over_central_atoms(of_i, graph)
        else:
            # In place: no gradient needs what is overwritten.
            hidden.add_(index_over_central_atoms(of_i, graph)).addmm_(edges, W_ij.T)
        return self.after_first(hidden)


class Block(nn.Module):
    r"""Update of edges and atoms.

    .. math::

        \mathbf{e}_{ij} &\leftarrow \mathbf{e}_{ij} + \Delta\mathbf{e}_{ij} \\
        \mathbf{e}_{ij} &\leftarrow \mathbf{e}_{ij} +
            \phi_e(\mathbf{h}_i \oplus \mathbf{h}_j \oplus \mathbf{e}_{ij})
            \odot W_e \mathbf{b}_{ij} \\
        \mathbf{h}_i &\leftarrow \mathbf{h}_i + \sum_j
            \phi_h(\mathbf{h}_i \oplus \mathbf{h}_j \oplus \mathbf{e}_{ij})
            \odot \mathrm{SiLU}(W_h \mathbf{b}_{ij})

    with what `ThreeBody` adds, gated perceptrons :math:`\phi`, and radial functions
    :math:`\mathbf{b}_{ij}`.

    Parameters
    ----------
    channels
        C.
    radial_features
        Number of radial functions, B.
    functions
        Number of three-body functions, K.
    """

    def __init__(self, channels: int, radial_features: int, functions: int):
        super().__init__()
        self.three_body = ThreeBody(channels, functions)
        self.edge_network, self.node_network = PairNetwork(channels), PairNetwork(channels)
        self.edge_weights = nn.Linear(radial_features, channels, bias=False)
        self.node_weights = nn.Linear(radial_features, channels, bias=False)

    def forward(
        self, nodes: Tensor, everyone: Tensor, edges: Tensor, geometry: Geometry
    ) -> tuple[Tensor, Tensor]:
        """From atoms (N, C), these and ghosts (M, C), and edges (E, C) to new atoms and edges."""
        graph, radial = geometry.graph, geometry.radial
        edges = edges + self.three_body(nodes, geometry)
        update = self.edge_network.of_edges(nodes, everyone, edges, graph)
        edges = edges + update * self.edge_weights(radial)
        messages = self.node_network.of_edges(nodes, everyone, edges, graph)
        messages = messages * F.silu(self.node_weights(radial))
        return nodes + sum_over_neighbours(messages, graph), edges
