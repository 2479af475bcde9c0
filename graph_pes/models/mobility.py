"""Mobilities of particles in a fluid: how fast they move where forces pull at them.

In overdamped dynamics the velocities of particles are M F, for forces F and a mobility M, a
symmetric positive definite matrix that depends on all positions; kT M is their diffusion matrix.
Such dynamics run in LAMMPS, by ``fix graph_pes/mobility``, with the mobilities of this module: the
analytic ones of spheres, and those of a model that is trained to these, or to data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    neighbour_vectors,
    neighbour_Z,
    sum_over_neighbours,
)
from graph_pes.nn.envelopes import PolynomialEnvelope
from graph_pes.nn.mlp import MLP
from graph_pes.nn.per_element import PerElementEmbedding, PerElementParameter
from graph_pes.nn.radial import SmoothBessel
from graph_pes.tensors import safe_norm

from .base import GraphTensorModel, in_precision_of

#: Functions of the distance: along the edge and across it, of L_ii and of L_ij.
RADIAL_FUNCTIONS = 4


def oseen(R: Tensor, radius: float, viscosity: float) -> Tensor:
    r"""Mobility of equal spheres, far from each other in an unbounded fluid.

    .. math::

        M_{ii} = \frac{1}{6 \pi \eta a}, \qquad
        M_{ij} = \frac{1}{8 \pi \eta r} (1 + \hat r \hat r^T)

    It is not positive definite where spheres are close. It has no divergence.

    Parameters
    ----------
    R
        Positions (N, 3); images of periodic structures are not considered.
    radius
        a, of the spheres.
    viscosity
        η, of the fluid.

    Returns
    -------
    Tensor
        M, shape (3 N, 3 N), in units that follow from those of the arguments.

    Examples
    --------
    >>> R = torch.tensor([[0.0, 0, 0], [10, 0, 0]])
    >>> oseen(R, radius=1.0, viscosity=1 / (6 * math.pi))[0, ::3]
    tensor([1.0000, 0.1500])
    """
    _, r = _separations(R)
    far = 0.75 * radius / r
    return _assembled(R, far, far, radius, viscosity)


def rotne_prager(R: Tensor, radius: float, viscosity: float) -> Tensor:
    """Mobility of equal spheres that may overlap, in an unbounded fluid.

    Rotne and Prager, doi:10.1063/1.1670977, and Yamakawa, doi:10.1063/1.1673799. It is positive
    definite wherever the spheres are, and has no divergence.

    Parameters
    ----------
    R, radius, viscosity
        As in `oseen`.

    Returns
    -------
    Tensor
        M, shape (3 N, 3 N).

    Examples
    --------
    >>> R = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    >>> bool(torch.linalg.eigvalsh(rotne_prager(R, radius=1.0, viscosity=1.0)).min() > 0)
    True
    """
    _, r = _separations(R)
    far, square = 0.75 * radius / r, (radius / r) ** 2
    overlap = r / (32 * radius)
    apart = r > 2 * radius
    across = torch.where(apart, far * (1 + 2 / 3 * square), 1 - 9 * overlap)
    along = torch.where(apart, far * (1 - 2 * square), 3 * overlap)
    return _assembled(R, across, along, radius, viscosity)


def _separations(R: Tensor) -> tuple[Tensor, Tensor]:
    """Directions (N, N, 3) and distances (N, N), of which those on the diagonal are 1."""
    vectors = R.unsqueeze(0) - R.unsqueeze(1)
    r = vectors.norm(dim=-1) + torch.eye(len(R)).to(R)
    return vectors / r.clamp(min=torch.finfo(R.dtype).tiny).unsqueeze(-1), r


def _assembled(R: Tensor, one: Tensor, outer: Tensor, radius: float, viscosity: float) -> Tensor:
    """M from the parts (N, N) of its blocks: times 1, and times the outer product of directions."""
    N = len(R)
    directions, _ = _separations(R)
    identity = torch.eye(3).to(R)
    blocks = one[..., None, None] * identity
    blocks = blocks + outer[..., None, None] * directions.unsqueeze(-1) * directions.unsqueeze(-2)
    own = torch.eye(N, dtype=torch.bool, device=R.device)[..., None, None]
    M = torch.where(own, identity, blocks) / (6 * math.pi * viscosity * radius)
    return M.transpose(1, 2).reshape(3 * N, 3 * N)


class Mobility(GraphTensorModel):
    r"""A mobility that is learned: M = L Lᵀ, where L has blocks for pairs of neighbours.

    .. math::

        L_{ii} = s_i \Big( 1 + \sum_j f_1(r_{ij}) \hat r \hat r^T
                           + f_2(r_{ij}) (1 - \hat r \hat r^T) \Big), \qquad
        L_{ij} = \sqrt{s_i s_j} \, \Big( f_3(r_{ij}) \hat r \hat r^T
                           + f_4(r_{ij}) (1 - \hat r \hat r^T) \Big)

    Whatever its parameters are, M is symmetric, never negative, rotates with the particles, and
    changes smoothly as they move. Particles up to two cutoffs apart move each other. The functions
    f vanish at the cutoff, and depend on the elements of both particles, which stand for kinds.

    Parameters
    ----------
    cutoff
        In Å.
    self_mobility
        Of a particle alone, to begin with, in Å²/(eV ps): the square of s.
    channels
        Width of the network of the functions.
    radial_features
        Number of radial basis functions.
    embedding
        Numbers that describe an element.

    Examples
    --------
    >>> from ase import Atoms
    >>> model = Mobility(cutoff=8.0, self_mobility=2.0)
    >>> model.matrix(AtomicGraph.from_ase(Atoms("Ar"), cutoff=8.0)).round(decimals=4).tolist()
    [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]
    """

    def __init__(
        self,
        cutoff: float,
        self_mobility: float = 1.0,
        channels: int = 32,
        radial_features: int = 8,
        embedding: int = 4,
    ):
        super().__init__(cutoff, ["mobility_self", "mobility_pairs"])
        if not self_mobility > 0:
            raise ValueError(f"self_mobility: expected a value above 0, got {self_mobility}")
        self.log_scale = PerElementParameter.full((), math.log(self_mobility) / 2)
        self.embedding = PerElementEmbedding(embedding)
        self.radial = SmoothBessel(radial_features, cutoff)
        self.envelope = PolynomialEnvelope(cutoff)
        layers = [radial_features + 2 * embedding, channels, channels, RADIAL_FUNCTIONS]
        self.functions = MLP(layers, "SiLU")

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """The blocks of L: ``mobility_self`` (N, 3, 3) and ``mobility_pairs`` (E, 3, 3)."""
        i = graph.neighbour_list[0]
        vectors, others = neighbour_vectors(graph), neighbour_Z(graph)
        r = safe_norm(vectors).unsqueeze(-1)  # (E, 1)
        ours, theirs = self.embedding(graph.Z).index_select(0, i), self.embedding(others)
        inputs = torch.cat([self.radial(r), ours + theirs, ours * theirs], dim=1)
        f = (self.functions(inputs) * self.envelope(r))[..., None, None]  # (E, 4, 1, 1)
        directions = vectors / r.clamp(min=torch.finfo(r.dtype).tiny)
        along = directions.unsqueeze(1) * directions.unsqueeze(2)
        identity = torch.eye(3, dtype=r.dtype, device=r.device)
        across = identity - along
        scale = self.log_scale(graph.Z)
        pairs = (0.5 * (scale.index_select(0, i) + self.log_scale(others))).exp()[:, None, None]
        own = identity + sum_over_neighbours(f[:, 0] * along + f[:, 1] * across, graph)
        return {
            "mobility_self": scale.exp()[:, None, None] * own,
            "mobility_pairs": pairs * (f[:, 2] * along + f[:, 3] * across),
        }

    def matrix(self, graph: AtomicGraph) -> Tensor:
        """M of a structure, or of a batch, whose structures do not move each other.

        Returns
        -------
        Tensor
            Shape (3 N, 3 N), in Å²/(eV ps), which can be differentiated.
        """
        batch = self._prepared(graph, self.implemented_properties)
        blocks = self(in_precision_of(self, batch))
        own, pairs = blocks["mobility_self"], blocks["mobility_pairs"]
        N, (i, j) = len(own), batch.neighbour_list
        atoms = torch.arange(N, device=own.device)
        L = own.new_zeros(N, N, 3, 3).index_put((i, j), pairs, accumulate=True)
        L = L.index_put((atoms, atoms), own, accumulate=True)
        L = L.transpose(1, 2).reshape(3 * N, 3 * N)
        return L @ L.T
