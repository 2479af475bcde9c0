"""Real spherical harmonics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graph_pes.tensors import safe_norm

from .float64 import Float64Tensors
from .irreps import clebsch_gordan


class SphericalHarmonics(Float64Tensors):
    r"""Real spherical harmonics of the directions of vectors, from degree to degree.

    .. math::

        Y_0 = 1, \qquad Y_1 = \sqrt{3} \, \hat{\mathbf{r}}, \qquad
        Y_{l m} \propto \sum_{m_1 m_2} C^{1, l-1, l}_{m_1 m_2 m} \, \hat{r}_{m_1} Y_{l-1, m_2}

    with :math:`|Y_l|^2 = 2l + 1` (e3nn's "component" normalisation), the components of
    degree 1 in the order x, y, z, and signs and order of the others as in e3nn.

    Parameters
    ----------
    degrees
        Those l that are wanted.

    Raises
    ------
    ValueError
        If there are none, or one is negative.

    Examples
    --------
    >>> SphericalHarmonics([0, 1])(torch.tensor([[0.0, 0.0, 2.0]]))
    tensor([[1.0000, 0.0000, 0.0000, 1.7321]])
    """

    def __init__(self, degrees: Sequence[int]):
        super().__init__()
        self.degrees = tuple(degrees)
        if min(self.degrees, default=-1) < 0:
            raise ValueError(f"expected degrees of at least 0 (l_max), got {list(degrees)}")
        for l in range(2, max(self.degrees, default=0) + 1):
            self.register_float64_buffer(f"step_{l}", _step(l), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """From non-zero vectors (..., 3) to harmonics (..., sum of 2l + 1)."""
        unit = vectors / safe_norm(vectors).unsqueeze(-1)
        Y = [torch.ones_like(unit[..., :1]), math.sqrt(3) * unit]
        for l in range(2, max(self.degrees, default=0) + 1):
            step = getattr(self, f"step_{l}").to(unit.dtype)
            Y.append((unit.unsqueeze(-1) * Y[-1].unsqueeze(-2)).flatten(-2) @ step)
        return torch.cat([Y[l] for l in self.degrees], dim=-1)

    def extra_repr(self) -> str:  # noqa: D102
        return f"degrees={list(self.degrees)}"


def _step(l: int) -> Tensor:
    """Matrix (3 (2l - 1), 2l + 1) from products of degrees 1 and l - 1 to degree l."""
    coefficients = clebsch_gordan(1, l - 1, l)
    z = torch.zeros(2 * l - 1, dtype=torch.float64)
    # The normalisation follows from any direction: take the axis, m = 0 of e3nn, which is y.
    z[l - 1] = math.sqrt(2 * l - 1)
    norm = (coefficients[1].T @ z).norm()
    return coefficients.flatten(0, 1) * (math.sqrt(2 * l + 1) / norm)
