"""Functions that take an interaction smoothly to zero at a cutoff."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Envelope(nn.Module, ABC):
    """A function of the distance that is exactly 0 from the cutoff on."""

    @abstractmethod
    def forward(self, r: Tensor) -> Tensor:
        """Value at distances ``r`` of any shape, in Å."""


class PolynomialEnvelope(Envelope):
    r"""Polynomial with p - 1 vanishing derivatives at the origin and two at the cutoff.

    .. math::

        f(r) = 1 - \tfrac{(p+1)(p+2)}{2} x^p + p(p+2) x^{p+1} - \tfrac{p(p+1)}{2} x^{p+2},
        \qquad x = r / r_c

    which is :math:`(1 - x)^3 \sum_{k<p} \tfrac{(k+1)(k+2)}{2} x^k`.
    Gasteiger, Groß and Günnemann, doi:10.48550/arXiv.2003.03123.

    Parameters
    ----------
    cutoff
        :math:`r_c` in Å.
    p
        Order of the polynomial.

    Examples
    --------
    >>> PolynomialEnvelope(cutoff=5.0)(torch.tensor([0.0, 2.5, 5.0]))
    tensor([1.0000, 0.8555, 0.0000])
    """

    def __init__(self, cutoff: float, p: int = 6):
        super().__init__()
        self.cutoff, self.p = float(cutoff), p
        self.coefficients = [(k + 1) * (k + 2) / 2 for k in range(p)]

    def forward(self, r: Tensor) -> Tensor:  # noqa: D102
        # Clamped: at and beyond the cutoff the value and its slope are exactly 0.
        x = (r / self.cutoff).clamp(max=1.0)
        # (1 - x)^3 taken out: no cancellation, so that the value is never below 0.
        value = torch.zeros_like(x)
        for coefficient in reversed(self.coefficients):
            value = value * x + coefficient
        return (1 - x) ** 3 * value

    def extra_repr(self) -> str:  # noqa: D102
        return f"cutoff={self.cutoff}, p={self.p}"


class CosineEnvelope(Envelope):
    r"""Half a period of a cosine, :math:`f(r) = \tfrac{1}{2}(1 + \cos(\pi r / r_c))`.

    Behler, doi:10.1063/1.3553717.

    Parameters
    ----------
    cutoff
        :math:`r_c` in Å.
    """

    def __init__(self, cutoff: float):
        super().__init__()
        self.cutoff = float(cutoff)

    def forward(self, r: Tensor) -> Tensor:  # noqa: D102
        value = 0.5 * (1 + torch.cos(math.pi * r / self.cutoff))
        return torch.where(r < self.cutoff, value, 0.0)

    def extra_repr(self) -> str:  # noqa: D102
        return f"cutoff={self.cutoff}"


class SmoothOnsetEnvelope(Envelope):
    r"""1 up to an onset, then a cubic that reaches 0, with zero slope, at the cutoff.

    .. math::

        f(r) = \frac{(r_c - r)^2 (r_c + 2r - 3r_o)}{(r_c - r_o)^3}, \qquad r_o \le r < r_c

    as in ASE's smooth Lennard-Jones calculator (there in squared distances) and HOOMD-blue's
    XPLOR smoothing.

    Parameters
    ----------
    cutoff
        :math:`r_c` in Å.
    onset
        :math:`r_o` in Å, less than the cutoff.

    Raises
    ------
    ValueError
        If the onset is not less than the cutoff.
    """

    def __init__(self, cutoff: float, onset: float):
        super().__init__()
        if onset >= cutoff:
            raise ValueError(f"Onset must be less than cutoff, got {onset} >= {cutoff}")
        self.cutoff, self.onset = float(cutoff), float(onset)

    def forward(self, r: Tensor) -> Tensor:  # noqa: D102
        rc, ro = self.cutoff, self.onset
        value = (rc - r) ** 2 * (rc + 2 * r - 3 * ro) / (rc - ro) ** 3
        return torch.where(r < ro, 1.0, torch.where(r < rc, value, 0.0))

    def extra_repr(self) -> str:  # noqa: D102
        return f"cutoff={self.cutoff}, onset={self.onset}"


class XPLOREnvelope(Envelope):
    r"""1 up to an onset, then a polynomial of squared distances that reaches 0 with zero slope.

    .. math::

        f(r) = \frac{(r_c^2 - r^2)^2 (r_c^2 + 2r^2 - 3r_o^2)}{(r_c^2 - r_o^2)^3},
        \qquad r_o \le r < r_c

    as in HOOMD-blue, and in SevenNet.

    Parameters
    ----------
    cutoff
        :math:`r_c` in Å.
    onset
        :math:`r_o` in Å, less than the cutoff.

    Raises
    ------
    ValueError
        If the onset is not less than the cutoff.

    Examples
    --------
    >>> XPLOREnvelope(cutoff=5.0, onset=4.0)(torch.tensor([3.0, 4.5, 5.0]))
    tensor([1.0000, 0.5416, 0.0000])
    """

    def __init__(self, cutoff: float, onset: float):
        super().__init__()
        if onset >= cutoff:
            raise ValueError(f"Onset must be less than cutoff, got {onset} >= {cutoff}")
        self.cutoff, self.onset = float(cutoff), float(onset)

    def forward(self, r: Tensor) -> Tensor:  # noqa: D102
        rc, ro, x = self.cutoff**2, self.onset**2, r * r
        value = (rc - x) ** 2 * (rc + 2 * x - 3 * ro) / (rc - ro) ** 3
        return torch.where(r < self.onset, 1.0, torch.where(r < self.cutoff, value, 0.0))

    def extra_repr(self) -> str:  # noqa: D102
        return f"cutoff={self.cutoff}, onset={self.onset}"


def get_envelope(name: str, cutoff: float) -> Envelope:
    """The envelope of a name, ``"polynomial"`` or ``"cosine"``, that ends at a cutoff in Å.

    Raises
    ------
    ValueError
        If there is no envelope of that name.

    Examples
    --------
    >>> get_envelope("cosine", cutoff=5.0)
    CosineEnvelope(cutoff=5.0)
    """
    known = {"polynomial": PolynomialEnvelope, "cosine": CosineEnvelope}
    if name not in known:
        raise ValueError(f"Unknown envelope {name!r}: expected one of {sorted(known)}")
    return known[name](cutoff)
