"""Distances, measured in the sizes of the two atoms, before they are expanded in a basis."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .covalent_radii import CovalentRadii
from .radial import DistanceExpansion


class DistanceTransform(nn.Module, ABC):
    """A function of the distance and of the sum of the covalent radii of the two atoms."""

    @abstractmethod
    def forward(self, r: Tensor, length: Tensor) -> Tensor:
        """What takes the place of the distance.

        Parameters
        ----------
        r
            Distances (E, 1) in Å.
        length
            Sums of covalent radii (E, 1) in Å.
        """


class AgnesiTransform(DistanceTransform):
    r"""Falls from 1, for atoms on top of each other, to 0, fastest about where they bind.

    .. math::

        T(r) = \left( 1 + \frac{a x^p}{1 + x^{p - q}} \right)^{-1}, \qquad
        x = \frac{2 r}{R_i + R_j}

    with the covalent radii R, a = 1.0805, p = 4.5791 and q = 0.9183, as in mace-torch. After
    Witt et al., doi:10.1063/5.0158783.

    Examples
    --------
    >>> AgnesiTransform()(torch.tensor([0.0, 1.07, 2.14]), torch.tensor(1.07))
    tensor([1.0000, 0.3457, 0.2068])
    """

    a: Tensor
    p: Tensor
    q: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, value in {"a": 1.0805, "p": 4.5791, "q": 0.9183}.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, r: Tensor, length: Tensor) -> Tensor:  # noqa: D102
        x = 2 * r / length
        # Only positive powers: at r = 0 too, value and slope are finite.
        return 1 / (1 + self.a * x**self.p / (1 + x ** (self.p - self.q)))


class SoftTransform(DistanceTransform):
    r"""The distance itself, but for close atoms, whose distance is softly kept from falling.

    .. math::

        T(r) = r_0 + (r - r_0) \, \tfrac{1}{2} \left( 1 + \tanh \left( \alpha
            \frac{r - (r_0 + r_1) / 2}{r_1 - r_0} \right) \right), \qquad
        r_0 = \tfrac{3}{4} (R_i + R_j), \quad r_1 = \tfrac{4}{3} (R_i + R_j)

    with the covalent radii R and :math:`\alpha` = 4, as in mace-torch.

    Examples
    --------
    >>> SoftTransform()(torch.tensor([0.0, 1.07, 2.14]), torch.tensor(1.07))
    tensor([0.8025, 0.8990, 2.1400])
    """

    alpha: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.tensor(4.0))

    def forward(self, r: Tensor, length: Tensor) -> Tensor:  # noqa: D102
        start, end = 3 / 4 * length, 4 / 3 * length
        x = self.alpha * (r - (start + end) / 2) / (end - start)
        return start + (r - start) * (1 + torch.tanh(x)) / 2


class TransformedExpansion(nn.Module):
    """A basis of transformed distances, which depends on the elements of the two atoms.

    It is no `DistanceExpansion`, so that networks of it are never replaced by tables of functions
    of the distance alone.

    Parameters
    ----------
    expansion
        Of what the transform makes of distances.
    transform
        ``"Agnesi"`` or ``"Soft"``.

    Raises
    ------
    ValueError
        For any other transform.
    """

    def __init__(self, expansion: DistanceExpansion, transform: str):
        super().__init__()
        known = {"Agnesi": AgnesiTransform, "Soft": SoftTransform}
        if transform not in known:
            raise ValueError(
                f"distance_transform: expected one of {sorted(known)} or None, got {transform!r}"
            )
        self.expansion = expansion
        self.transform: DistanceTransform = known[transform]()
        self.radii = CovalentRadii()

    def forward(self, r: Tensor, Z_i: Tensor, Z_j: Tensor) -> Tensor:
        """From distances (E, 1) and atomic numbers (E,) to the basis (E, B)."""
        length = self.radii(Z_i, Z_j).to(r.dtype).unsqueeze(1)
        return self.expansion(self.transform(r, length))
