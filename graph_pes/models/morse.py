"""The Morse potential."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from graph_pes.atomic_graph import DEFAULT_CUTOFF, AtomicGraph, neighbour_distances

from .pair_potential import PairPotential, logarithm_of


def morse(r: Tensor, D: Tensor, a: Tensor, r0: Tensor) -> Tensor:
    r"""Morse energy, :math:`D (1 - e^{-a(r - r_0)})^2`.

    Parameters
    ----------
    r
        Distances in Å, shape (E,).
    D, a, r0
        In eV, 1/Å and Å, shape () or (E,).

    Returns
    -------
    Tensor
        In eV, shape (E,).

    Examples
    --------
    >>> D, a, r0 = torch.tensor([2.0, 5.0, 1.5])
    >>> morse(torch.tensor([1.5, 9.0]), D, a, r0)
    tensor([0., 2.])
    """
    return D * (1 - torch.exp(-a * (r - r0))) ** 2


class Morse(PairPotential):
    r"""Morse potential.

    .. math::  V(r) = D \left(1 - e^{-a (r - r_0)}\right)^2

    ============= ======================================================
    :math:`D`     depth of the well
    :math:`a`     inverse width of the well
    :math:`r_0`   distance of the minimum
    ============= ======================================================

    Energies are counted from the minimum of the well, as Morse did: :math:`V(r_0) = 0` and
    :math:`V(\infty) = D`. Truncated at the cutoff, the energy therefore drops by about
    :math:`D` when a pair breaks, and forces do not show it. In molecular dynamics, use
    `SmoothedPairPotential`, which spreads the drop over the range from its onset to the
    cutoff.

    Parameters
    ----------
    cutoff
        In Å.
    D
        In eV, positive; trained (as its logarithm, like the others).
    a
        In 1/Å, positive; trained.
    r0
        In Å, positive; set by `pre_fit`, and trained.

    Raises
    ------
    ValueError
        If ``D``, ``a`` or ``r0`` is not positive.

    Examples
    --------
    >>> r = torch.tensor([1.0, 1.5, 4.9])
    >>> Morse(D=0.1, a=5.0, r0=1.5).interaction(r).detach()
    tensor([12.5048,  0.0000,  0.1000])

    References
    ----------
    Morse, doi:10.1103/PhysRev.34.57.
    """

    def __init__(
        self,
        cutoff: float = DEFAULT_CUTOFF,
        D: float = 0.1,
        a: float = 5.0,
        r0: float = 1.5,
    ):
        super().__init__(cutoff)
        self._log_D = logarithm_of("D", D)
        self._log_a = logarithm_of("a", a)
        self._log_r0 = logarithm_of("r0", r0)

    @property
    def D(self) -> Tensor:
        """Depth of the well in eV, shape ()."""
        return self._log_D.exp()

    @property
    def a(self) -> Tensor:
        """Inverse width of the well in 1/Å, shape ()."""
        return self._log_a.exp()

    @property
    def r0(self) -> Tensor:
        """Distance of the minimum in Å, shape ()."""
        return self._log_r0.exp()

    def interaction(
        self, r: Tensor, Z_i: Tensor | None = None, Z_j: Tensor | None = None
    ) -> Tensor:
        """Energy of pairs (E,) in eV, whatever their elements."""
        return morse(r, self.D, self.a, self.r0)

    @torch.no_grad()
    def pre_fit(self, graphs: AtomicGraph) -> None:
        """Put the minimum near the closest pairs: 0.1 Å above the first decile of distances.

        Without any pair within the cutoff, the minimum stays where it is.
        """
        r = neighbour_distances(graphs)
        # Not torch.quantile, which takes 16 million values at most.
        within = r[r.lt(self.cutoff)].cpu().numpy()
        if within.size > 0:
            self._log_r0.fill_(math.log(np.quantile(within, 0.1) + 0.1))

    def extra_repr(self) -> str:  # noqa: D102
        D, a, r0 = self.D.item(), self.a.item(), self.r0.item()
        return f"cutoff={self.cutoff_value:.3g}, {D=:.3g}, {a=:.3g}, {r0=:.3g}"
