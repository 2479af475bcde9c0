"""Bases in which distances are expanded."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .envelopes import CosineEnvelope
from .float64 import Float64Tensors


class DistanceExpansion(nn.Module, ABC):
    """Expands distances in a set of functions.

    Parameters
    ----------
    n_features
        Number of functions, B.
    cutoff
        In Å.
    trainable
        Whether the parameters of the functions are trained.

    Raises
    ------
    ValueError
        If there are no functions, or the cutoff is not positive.
    """

    def __init__(self, n_features: int, cutoff: float, trainable: bool = True):
        super().__init__()
        if n_features < 1 or not float(cutoff) > 0:
            raise ValueError(
                f"{type(self).__name__}: expected at least one radial function and a cutoff in Å, "
                f"got {n_features} and {cutoff}"
            )
        self.n_features, self.cutoff, self.trainable = n_features, float(cutoff), trainable

    @abstractmethod
    def expand(self, r: Tensor) -> Tensor:
        """Expand distances of shape (..., 1): result (..., B)."""

    def forward(self, r: Tensor) -> Tensor:
        """Expand distances of shape (...) or (..., 1): result (..., B)."""
        column = r if r.dim() > 1 and r.shape[-1] == 1 else r.unsqueeze(-1)
        return self.expand(column)

    def extra_repr(self) -> str:  # noqa: D102
        return f"n_features={self.n_features}, cutoff={self.cutoff:.3g}, trainable={self.trainable}"


def _frequencies(n: int, cutoff: float, trainable: bool) -> nn.Parameter:
    return nn.Parameter(
        torch.arange(1, n + 1, dtype=torch.get_default_dtype()) * math.pi / cutoff,
        requires_grad=trainable,
    )


class Bessel(DistanceExpansion):
    r"""Spherical Bessel functions of order zero.

    .. math::  \phi_n(r) = \sqrt{2 / r_c} \, \frac{\sin(f_n r)}{r}, \qquad f_n = n \pi / r_c

    Gasteiger, Groß and Günnemann, doi:10.48550/arXiv.2003.03123. The frequencies are trained.
    """

    def __init__(self, n_features: int, cutoff: float, trainable: bool = True):
        super().__init__(n_features, cutoff, trainable)
        self.frequencies = _frequencies(n_features, cutoff, trainable)

    def expand(self, r: Tensor) -> Tensor:  # noqa: D102
        # At r = 0 too, the value and all its derivatives are finite.
        r = r.clamp(min=1e-6)
        return torch.sin(self.frequencies * r) * (math.sqrt(2 / self.cutoff) / r)


class GaussianSmearing(DistanceExpansion):
    r"""Gaussians on an even grid, :math:`\phi_n(r) = \exp(-\gamma (r - \mu_n)^2)`.

    The width is that of the grid, :math:`\gamma = (2 (r_c / B)^2)^{-1}`. Centres and width are
    trained. Schütt et al., doi:10.1063/1.5019779.
    """

    def __init__(self, n_features: int, cutoff: float, trainable: bool = True):
        super().__init__(n_features, cutoff, trainable)
        dtype = torch.get_default_dtype()
        coefficient = torch.tensor(-1 / (2 * (cutoff / n_features) ** 2), dtype=dtype)
        self.coef = nn.Parameter(coefficient, requires_grad=trainable)
        self.centers = nn.Parameter(
            torch.linspace(0, cutoff, n_features, dtype=dtype), requires_grad=trainable
        )

    def expand(self, r: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(self.coef * (r - self.centers) ** 2)


class SinExpansion(DistanceExpansion):
    r"""Sines, :math:`\phi_n(r) = \sin(f_n r)` with :math:`f_n = n \pi / r_c` to begin with."""

    def __init__(self, n_features: int, cutoff: float, trainable: bool = True):
        super().__init__(n_features, cutoff, trainable)
        self.frequencies = _frequencies(n_features, cutoff, trainable)

    def expand(self, r: Tensor) -> Tensor:  # noqa: D102
        return torch.sin(r * self.frequencies)


class ExponentialRBF(DistanceExpansion):
    r"""Gaussians in :math:`e^{-r}`: :math:`\phi_n(r) = \exp(-\beta_n (e^{-r} - \mu_n)^2)`.

    Unke and Meuwly, doi:10.1021/acs.jctc.9b00181. Centres and widths are trained.
    """

    def __init__(self, n_features: int, cutoff: float, trainable: bool = True):
        super().__init__(n_features, cutoff, trainable)
        dtype = torch.get_default_dtype()
        closest = math.exp(-cutoff)
        beta = (2 * (1 - closest) / n_features) ** -2
        self.beta = nn.Parameter(
            torch.full((n_features,), beta, dtype=dtype), requires_grad=trainable
        )
        self.centers = nn.Parameter(
            torch.linspace(closest, 1, n_features, dtype=dtype), requires_grad=trainable
        )

    def expand(self, r: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(-self.beta * (torch.exp(-r) - self.centers) ** 2)


class ExpNormal(DistanceExpansion):
    r"""Gaussians in :math:`e^{-5 r / r_c}`, times a cosine envelope :math:`f_c`.

    .. math::  \phi_n(r) = f_c(r) \exp(-\beta_n (e^{-5 r / r_c} - \mu_n)^2)

    The basis of TorchMD-Net, doi:10.48550/arXiv.2202.02541. Centres and widths, which are those
    of `ExponentialRBF` to begin with, are trained.
    """

    def __init__(self, n_features: int, cutoff: float, trainable: bool = True):
        super().__init__(n_features, cutoff, trainable)
        self.gaussians = ExponentialRBF(n_features, cutoff, trainable)
        self.envelope = CosineEnvelope(cutoff)

    def expand(self, r: Tensor) -> Tensor:  # noqa: D102
        return self.envelope(r) * self.gaussians.expand(r * (5 / self.cutoff))


class SmoothBessel(DistanceExpansion, Float64Tensors):
    r"""Orthogonal combinations of :math:`\sin(k \pi r / r_c) / r` that end smoothly.

    Value and slope are zero at the cutoff. Kocer, Mason and Erturk, doi:10.1063/1.5086167.
    Nothing is trained.
    """

    coefficients: Tensor

    def __init__(self, n_features: int, cutoff: float, trainable: bool = True):
        super().__init__(n_features, cutoff, trainable)
        coefficients = _smooth_bessel(n_features, float(cutoff))
        self.register_float64_buffer("coefficients", coefficients, persistent=False)

    def expand(self, r: Tensor) -> Tensor:  # noqa: D102
        k = torch.arange(1, self.n_features + 2, dtype=r.dtype, device=r.device)
        # At r = 0 too, the value and all its derivatives are finite.
        x = (math.pi / self.cutoff) * k * r.clamp(min=1e-6)
        return (x.sin() / x) @ self.coefficients.to(r.dtype)


def _smooth_bessel(n_features: int, cutoff: float) -> Tensor:
    """What sin(kπx)/(kπx), k = 1 ... B + 1, contribute to B functions of x: shape (B + 1, B)."""
    functions = torch.zeros(n_features, n_features + 1, dtype=torch.float64)
    d = 1.0
    for n in range(n_features):
        a, b = n + 1, n + 2
        size = (-1) ** n * math.sqrt(2) * math.pi / cutoff**1.5 * a * b / math.hypot(a, b)
        functions[n, n : n + 2] = size
        if n > 0:  # subtract what overlaps with the one before
            e = n**2 * (n + 2) ** 2 / (4 * (n + 1) ** 4 + 1)
            overlap, d = math.sqrt(e / d), 1 - e / d
            functions[n] = (functions[n] + overlap * functions[n - 1]) / math.sqrt(d)
    return functions.T.contiguous()


def get_distance_expansion(name: str | type[DistanceExpansion]) -> type[DistanceExpansion]:
    """The class of an expansion, which may be given by its name.

    Raises
    ------
    ValueError
        If there is no expansion of that name.
    """
    if isinstance(name, type) and issubclass(name, DistanceExpansion):
        return name
    expansions = (
        Bessel,
        GaussianSmearing,
        SinExpansion,
        ExponentialRBF,
        ExpNormal,
        SmoothBessel,
    )
    known = {cls.__name__: cls for cls in expansions}
    if name not in known:
        raise ValueError(f"Unknown distance expansion {name!r}: expected one of {sorted(known)}")
    return known[name]
