"""Screened repulsion of nuclei, with the rounded constants of mace-torch and orb-models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    neighbour_distances,
    neighbour_Z,
    sum_over_neighbours,
)

from .covalent_radii import CovalentRadii
from .envelopes import PolynomialEnvelope

#: Coefficients and decay rates of the screening function.
SCREENING_FUNCTION = ((0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4028), (0.02817, 0.2016))
#: Screening length in Å of two charges of one half each, and the power of the charges in it.
SCREENING_LENGTH, SCREENING_EXPONENT = 0.4543 * 0.529, 0.300
#: Energy, in eV, of two elementary charges at a distance of 1 Å.
COULOMB = 14.3996


def screened_coulomb(r: Tensor, q_i: Tensor, q_j: Tensor) -> tuple[Tensor, Tensor]:
    r"""Energy of two screened nuclei, and its derivative with respect to their distance.

    .. math::

        V(r) = \frac{e^2}{4\pi\epsilon_0} \frac{q_i q_j}{r} \,
            \phi\left(r (q_i^{0.3} + q_j^{0.3}) / a\right)

    .. math::

        \phi(x) = 0.1818 e^{-3.2 x} + 0.5099 e^{-0.9423 x}
                + 0.2802 e^{-0.4028 x} + 0.02817 e^{-0.2016 x}

    with :math:`a` = 0.4543 · 0.529 Å: that of Ziegler, Biersack and Littmark, see
    `ZBLCoreRepulsion`, with other constants.

    Parameters
    ----------
    r
        Distances (E,) in Å.
    q_i, q_j
        Charges (E,), in the dtype of the distances.

    Returns
    -------
    Tensor, Tensor
        V in eV and dV/dr in eV/Å, shape (E,).
    """
    rate = (q_i**SCREENING_EXPONENT + q_j**SCREENING_EXPONENT) / SCREENING_LENGTH
    terms = [(c * torch.exp(-d * rate * r), d) for c, d in SCREENING_FUNCTION]
    screening = sum(term for term, _ in terms)
    slope = -rate * sum(d * term for term, d in terms)
    bare = COULOMB * q_i * q_j / r
    return bare * screening, bare * (slope - screening / r)


class ScreenedRepulsion(nn.Module):
    r"""Repulsion of nuclei at short distances, as in the foundation models of mace-torch.

    .. math::

        \varepsilon_i = \frac{1}{2} \sum_j V(r_{ij}) \, f(r_{ij} / r_{ij}^c)

    with V of `screened_coulomb`, whose charges are the atomic numbers, and the
    `PolynomialEnvelope` f. It ends at :math:`r_{ij}^c`, the sum of the covalent radii, or at the
    cutoff, if that is less (mace-torch cuts it off there).

    Parameters
    ----------
    cutoff
        In Å.
    power
        Of the envelope.
    """

    def __init__(self, cutoff: float, power: int):
        super().__init__()
        self.cutoff = float(cutoff)
        self.envelope = PolynomialEnvelope(1.0, power)
        self.radii = CovalentRadii()

    def forward(self, graph: AtomicGraph) -> Tensor:
        """Local energies (N,) in eV."""
        r = neighbour_distances(graph)
        Z_i, Z_j = graph.Z.index_select(0, graph.neighbour_list[0]), neighbour_Z(graph)
        V, _ = screened_coulomb(r, Z_i.to(r.dtype), Z_j.to(r.dtype))
        end = self.radii(Z_i, Z_j).clamp(max=self.cutoff).to(r.dtype)
        return sum_over_neighbours(V * self.envelope(r / end), graph) / 2
