r"""How atoms see their neighbours in MACE-OMOL: messages of pairs of elements, and a gate.

As ``RealAgnosticResidualNonLinearInteractionBlock`` of mace-torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.atomic_graph import (
    AtomicGraph,
    Z_with_ghosts,
    all_with_ghosts,
    sum_over_neighbours,
)

from .edges import Edges
from .equivariant import EquivariantLinear, Gate, normalised_sigmoid
from .irreps import Blocks, o3
from .per_element import PerElementEmbedding
from .tensor_product import NeighbourTensorProduct

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

#: Width of the hidden layer from which the density is read.
DENSITY_WIDTH = 64


class PairNetwork(nn.Module):
    """An MLP with layer norms of radial functions and of vectors of both elements.

    Parameters
    ----------
    n_radial
        Number of radial functions.
    channels
        Length of the vectors of the elements.
    widths
        Of the hidden layers.
    n_out
        Number of outputs.
    """

    def __init__(self, n_radial: int, channels: int, widths: Sequence[int], n_out: int):
        super().__init__()
        # One matrix of all inputs, in parts: those of the elements are products of atoms.
        self.of_basis = nn.Linear(n_radial, widths[0])
        self.of_neighbour = nn.Linear(channels, widths[0], bias=False)
        self.of_centre = nn.Linear(channels, widths[0], bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last = nn.Linear(widths[-1], n_out)

    def forward(self, basis: Tensor, neighbours: Tensor, centres: Tensor, ij: Tensor) -> Tensor:
        """The last hidden layer, (E, width).

        Parameters
        ----------
        basis
            Radial functions (E, B).
        neighbours, centres
            Vectors of the elements of atoms, ghosts included among the first.
        ij
            Centre and neighbour of each edge, (2, E).
        """
        i, j = ij
        x = self.of_basis(basis)
        x = x + self.of_neighbour(neighbours).index_select(0, j)
        x = x + self.of_centre(centres).index_select(0, i)
        x = F.silu(self.norms[0](x))
        for linear, norm in zip(self.hidden, self.norms[1:], strict=True):
            x = F.silu(norm(linear(x)))
        return x


class NonLinearInteraction(nn.Module):
    r"""Sums over neighbours, normalised by a learnt density, that pass a gate.

    .. math::

        A_i = W_2 \, g \left( \frac{W_1 \sum_j f(r_{ij}) \, R(r_{ij}, z_i, z_j) \left( W h_j
        \otimes Y(\hat{\mathbf{r}}_{ij}) \right)}{\alpha + \beta \sum_j f(r_{ij}) \tanh \rho(
        r_{ij}, z_i, z_j)^2} + W_3 W h_i \right)

    with two `PairNetwork`, R and :math:`\rho`, the envelope f, and a `Gate` g whose gates have
    gone through sigmoids.

    Parameters
    ----------
    irreps_in
        Irreps of the features of atoms.
    irreps_sent
        Irreps of what is summed.
    channels
        Number of channels of each irrep of the result.
    l_max
        The highest degree of spherical harmonics, and of the result.
    n_radial
        Number of radial functions.
    widths
        Of the hidden layers of R.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        irreps_sent: Irreps,
        channels: int,
        l_max: int,
        n_radial: int,
        widths: Sequence[int],
    ):
        super().__init__()
        harmonics = o3().Irreps.spherical_harmonics(l_max)
        self.gate = Gate(o3().Irreps([(channels, ir) for _, ir in harmonics]), normalised_sigmoid)
        self.irreps_out = self.gate.irreps_out
        scalars = irreps_in.count(o3().Irrep("0e"))
        self.of_neighbour = PerElementEmbedding(scalars)
        self.of_centre = PerElementEmbedding(scalars)
        self.pre_linear = EquivariantLinear(irreps_in, irreps_sent)
        sent = self.pre_linear.irreps_out
        self.product = NeighbourTensorProduct(sent, harmonics, harmonics)
        self.radial_network = PairNetwork(n_radial, scalars, widths, self.product.n_weights)
        self.density_network = PairNetwork(n_radial, scalars, [DENSITY_WIDTH], 1)
        self.alpha = nn.Parameter(torch.tensor(20.0))
        self.beta = nn.Parameter(torch.tensor(0.0))
        self.of_sums = EquivariantLinear(self.product.irreps_out, self.gate.irreps_in)
        self.of_atom = EquivariantLinear(sent, self.gate.irreps_in)
        kept = [ir for _, ir in self.of_atom.irreps_out]
        self.kept = [kept.index(ir) if ir in kept else None for _, ir in self.of_sums.irreps_out]
        self.post_linear = EquivariantLinear(self.irreps_out, self.irreps_out)

    def forward(self, x: Sequence[Tensor], edges: Edges, graph: AtomicGraph) -> Blocks:
        """From blocks of ``irreps_in`` to blocks of ``irreps_out``."""
        everyone = self.of_neighbour(Z_with_ghosts(graph))
        pairs = (edges.basis, everyone, self.of_centre(graph.Z), graph.neighbour_list)
        h = self.pre_linear(x)
        phi, last = self.radial_network(*pairs), self.radial_network.last
        # The envelope itself multiplies the bias.
        phi = torch.cat([phi * edges.envelope, edges.envelope], dim=1)
        V = torch.cat([last.weight, last.bias.unsqueeze(1)], dim=1).T
        sums = self.product(all_with_ghosts(h, graph), edges.harmonics, phi, V, edges.neighbours)
        rho = self.density_network.last(self.density_network(*pairs))
        density = sum_over_neighbours(torch.tanh(rho**2) * edges.envelope, graph)  # (N, 1)
        scale = (1 / (density * self.beta + self.alpha)).unsqueeze(2)
        own = self.of_atom(h)
        mixed = [
            total * scale if kept is None else total * scale + own[kept]
            for total, kept in zip(self.of_sums(sums), self.kept, strict=True)
        ]
        return self.post_linear(self.gate(mixed))

    def non_decayable_parameters(self) -> list[nn.Parameter]:
        """What sums are divided by must not decay to zero."""
        return [self.alpha, self.beta]
