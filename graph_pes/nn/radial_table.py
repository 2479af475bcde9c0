r"""Functions of the distance from a table, in place of the networks they were computed with.

All weights that the edges of a model have, :math:`w(r)`, are mixtures of a few functions,
:math:`w(r) = \phi(r) V`, of which a table holds the coefficients of a cubic for each of many
short intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .envelopes import Envelope
from .mlp import MLP
from .radial import DistanceExpansion


class RadialLinear(nn.Linear):
    r"""Weights of edges :math:`w = f(r) (W b(r) + \beta)`, of basis b and envelope f.

    Used as ``nn.Linear``, but a compiled model takes :math:`w(r)` from a table: nothing but the
    distance may go in. Whoever uses it multiplies by the envelope.

    Parameters
    ----------
    own_table
        Whether it gets a table of its own, a `RadialTable`, rather than one of fewer functions
        that the networks of a module share.
    """

    def __init__(self, in_features: int, out_features: int, own_table: bool = False):
        super().__init__(in_features, out_features)
        self.own_table = own_table


class RadialMLP(MLP):
    r"""Weights of edges :math:`w = f(r) \, n(b(r))`, of basis b and envelope f.

    Used as `MLP`, but a compiled model takes :math:`w(r)` from a table: nothing but the
    distance may go in. Whoever uses it multiplies by the envelope.

    Parameters
    ----------
    own_table
        Whether it gets a table of its own, a `RadialTable`, rather than one of fewer functions
        that the networks of a module share.
    """

    def __init__(
        self,
        layers: Sequence[int],
        activation: str,
        activate_last: bool = False,
        own_table: bool = False,
    ):
        super().__init__(layers, activation, activate_last)
        self.own_table = own_table


def values_and_slopes(functions: Callable[[Tensor], Tensor], r: Tensor) -> tuple[Tensor, Tensor]:
    """Of n functions, each at K distances, from (K,) to (K, n): both of shape (K, n)."""
    with torch.enable_grad():
        r = r.detach().requires_grad_()
        values = functions(r)
        # Slopes are linear in the weights of a sum of functions: the derivative with respect to
        # these is the slope of each.
        weights = torch.ones_like(values).requires_grad_()
        (slope,) = torch.autograd.grad(values, r, weights, create_graph=True)
        (slopes,) = torch.autograd.grad(slope.sum(), weights)
    return values.detach(), slopes


class RadialTable(DistanceExpansion):
    r"""Functions that are cubics in each of K intervals.

    With :math:`s = r / h - k` in the interval :math:`k`, of length :math:`h = r_c / K`,

    .. math::  \phi(r) = c_{k0} + c_{k1} s + c_{k2} s^2 + c_{k3} s^3

    has the values and slopes of the functions at both ends of each interval, so that it has a
    continuous slope. From the cutoff on, functions are exactly zero, and at it the table is as
    smooth as they are.

    Parameters
    ----------
    functions
        From distances (K + 1,) to values (K + 1, P), in double precision; zero, and of zero slope,
        at the cutoff.
    intervals
        K.
    cutoff
        In Å.

    Examples
    --------
    >>> table = RadialTable(lambda r: ((1 - r / 5) ** 3).unsqueeze(1), intervals=64, cutoff=5.0)
    >>> table(torch.tensor([2.5, 5.0, 9.0], dtype=torch.float64)).flatten()
    tensor([0.1250, 0.0000, 0.0000], dtype=torch.float64)
    """

    coefficients: Tensor

    def __init__(self, functions: Callable[[Tensor], Tensor], intervals: int, cutoff: float):
        r = torch.linspace(0, cutoff, intervals + 1, dtype=torch.float64)
        values, slopes = values_and_slopes(functions, r)
        super().__init__(values.shape[1], cutoff, trainable=False)
        self.intervals = intervals
        v0, v1 = values[:-1], values[1:]
        d0, d1 = (slopes * (cutoff / intervals)).unfold(0, 2, 1).unbind(-1)
        cubics = [v0, d0, 3 * (v1 - v0) - 2 * d0 - d1, 2 * (v0 - v1) + d0 + d1]
        beyond = values.new_zeros(1, 4, self.n_features)
        self.register_buffer("coefficients", torch.cat([torch.stack(cubics, dim=1), beyond]))

    def places(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Interval of each distance, k, and where it is within that, s."""
        t = r * (self.intervals / self.cutoff)
        # Written so that NaN, of which there is no interval, counts as beyond the cutoff.
        k = torch.where(t < self.intervals, t, float(self.intervals)).long()
        return k, t - k

    def expand(self, r: Tensor) -> Tensor:  # noqa: D102
        k, s = self.places(r)
        c0, c1, c2, c3 = self.coefficients.index_select(0, k.reshape(-1)).unbind(1)
        return ((c3 * s + c2) * s + c1) * s + c0


class Distance(DistanceExpansion):
    """The distance itself, for networks that are tables of their own."""

    def __init__(self, cutoff: float):
        super().__init__(1, cutoff, trainable=False)

    def expand(self, r: Tensor) -> Tensor:  # noqa: D102
        return r


class One(Envelope):
    """1 everywhere: the envelope of functions that go to zero by themselves."""

    def forward(self, r: Tensor) -> Tensor:  # noqa: D102
        return torch.ones_like(r)


class TabulatedNetwork(nn.Module):
    """In place of a `RadialNetwork` or `DampedRadialNetwork`: factors from a table.

    Parameters
    ----------
    columns
        Which functions of the table are the factors.
    V
        Their mixture into weights, shape (Q, weights).
    """

    V: Tensor

    def __init__(self, columns: slice, V: Tensor):
        super().__init__()
        self.columns, self.n_factors = columns, V.shape[0]
        self.register_buffer("V", V)

    def forward(self, basis: Tensor, envelope: Tensor) -> tuple[Tensor, Tensor]:
        """From all functions of the table (E, P) to the factors (E, Q) and (Q, weights)."""
        return basis[:, self.columns], self.V
