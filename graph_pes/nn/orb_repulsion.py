"""The repulsion of cores that Orb-v3 adds to what its network predicts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    get_cell_volume,
    neighbour_vectors,
    neighbour_Z,
    structure_sizes,
    sum_over_neighbours,
    sum_over_receivers,
    sum_per_structure,
)
from graph_pes.periodic_table import COVALENT_RADII, MAX_Z
from graph_pes.tensors import safe_norm

from .envelopes import PolynomialEnvelope
from .float64 import Float64Tensors
from .screened_repulsion import screened_coulomb

CoreRepulsion = Literal["sum", "mean"]

#: Order of the polynomial that ends it.
ORDER = 6


class OrbRepulsion(Float64Tensors):
    r"""Screened repulsion of nuclei as orb-models 0.5.5 has it, with its derivatives.

    .. math::

        E = \frac{w}{2} \sum_{ij} V(r_{ij}), \qquad
        V(r) = V_q(r) \, f(r / r_{ij}^c)

    with :math:`V_q` of `screened_coulomb` and the `PolynomialEnvelope` f. It is that of Ziegler,
    Biersack and Littmark with other constants, and with the nuclei of the *next* element: the
    charge is :math:`q_i = Z_i + 1`, and :math:`r_{ij}^c`, where it ends, the sum of the covalent
    radii of the elements after those of the two atoms. Networks that were trained with it need
    it as it is.

    Parameters
    ----------
    cutoff
        In Å, by which it has ended.
    kind
        ``"sum"``: w is 1. ``"mean"``: it is one over the number of atoms of the structure, as in
        the conservative models there.
    """

    radii: Tensor

    def __init__(self, cutoff: float, kind: CoreRepulsion):
        super().__init__()
        if kind not in ("sum", "mean"):
            raise ValueError(
                f"Orb: expected core_repulsion to be 'sum', 'mean' or None, got {kind!r}"
            )
        self.cutoff, self.kind = cutoff, kind
        self.envelope = PolynomialEnvelope(1.0, ORDER)
        # Nothing comes after the last element.
        radii = [COVALENT_RADII[min(Z + 1, MAX_Z)] for Z in range(MAX_Z + 1)]
        self.register_float64_buffer("radii", torch.tensor(radii, dtype=torch.float64), False)

    def forward(
        self, graph: AtomicGraph, properties: Iterable[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        """Some properties of a batch, in which the reverse of an edge may be missing.

        Parameters
        ----------
        graph
            With edges at least up to where the repulsion ends.
        properties
            Any of ``local_energies`` (N,) in eV, ``forces`` (N, 3) in eV/Å, and ``stress``
            (S, 3, 3) in eV/Å^3, which is zero where there is no volume.
        """
        vectors, i = neighbour_vectors(graph), graph.neighbour_list[0]
        r = safe_norm(vectors)
        V, slopes = self.pairs(r, graph.Z.index_select(0, i), neighbour_Z(graph))
        if self.kind == "mean":
            assert graph.batch is not None
            sizes = structure_sizes(graph).view(-1).to(r.dtype).index_select(0, graph.batch)
            V, slopes = V / sizes.index_select(0, i), slopes / sizes.index_select(0, i)
        found = {"local_energies": sum_over_neighbours(V, graph) / 2}
        gradients = (slopes / (2 * r)).unsqueeze(1) * vectors
        if "forces" in properties:
            pulled = sum_over_receivers(gradients, graph)
            found["forces"] = sum_over_neighbours(gradients, graph) - pulled
        if "stress" in properties:
            per_edge = vectors.unsqueeze(2) * gradients.unsqueeze(1)
            of_structures = sum_per_structure(sum_over_neighbours(per_edge, graph), graph)
            volumes = get_cell_volume(graph).to(r.dtype).view(-1, 1, 1)
            flat = volumes == 0
            found["stress"] = torch.where(flat, 0.0, of_structures / volumes.where(~flat, 1.0))
        return found

    def pairs(self, r: Tensor, Z_i: Tensor, Z_j: Tensor) -> tuple[Tensor, Tensor]:
        """V (E,) of pairs at distances r (E,) in Å, and dV/dr (E,), in eV and eV/Å."""
        V, slope = screened_coulomb(r, (Z_i + 1).to(r.dtype), (Z_j + 1).to(r.dtype))
        end = (self.radii.index_select(0, Z_i) + self.radii.index_select(0, Z_j)).to(r.dtype)
        end = end.clamp(max=self.cutoff)
        x = (r / end).clamp(max=1.0)
        f = self.envelope(x)
        # of the polynomial
        df = -ORDER * (ORDER + 1) * (ORDER + 2) / 2 * x ** (ORDER - 1) * (1 - x) ** 2 / end
        return V * f, slope * f + V * df
