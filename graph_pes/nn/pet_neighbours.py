"""Edges of PET: how far they reach, what weight they have, and which leads back.

They are rows of a neighbour matrix, D for each of N atoms.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.tensors import is_traced


class Neighbours(NamedTuple):
    """The edges of each atom.

    Attributes
    ----------
    geometry
        Vectors from the atom to its neighbours, and their lengths, in Å: shape (N, D, 4).
    atoms
        Index of each neighbour, shape (N, D).
    kinds
        Which of the elements of the model it is of, shape (N, D).
    log_weights
        Logarithm of the weight of the edge: see `LogEnvelope`. Shape (N, D).
    """

    geometry: Tensor
    atoms: Tensor
    kinds: Tensor
    log_weights: Tensor


# --- weights ------------------------------------------------------------------------------------


class LogEnvelope(nn.Module, ABC):
    """Logarithm of an envelope that falls from 1 to 0 in a shell below a cutoff.

    At and beyond the cutoff it is so negative that the envelope, its exponential, is exactly zero,
    and finite, so that derivatives are.

    Parameters
    ----------
    width
        Of the shell, in Å.
    """

    def __init__(self, width: float):
        super().__init__()
        self.width = float(width)

    @abstractmethod
    def forward(self, r: Tensor, cutoff: Tensor | float) -> Tensor:
        """Value at distances ``r`` for cutoffs that may be different for each, in Å."""

    def extra_repr(self) -> str:  # noqa: D102
        return f"width={self.width}"


class LogBump(LogEnvelope):
    r"""Of :math:`f(r) = \tfrac{1}{2}(1 + \tanh \cot \pi x)`, smooth to all orders.

    With :math:`x = (r - r_c + w) / w` between 0 and 1 in the shell of width :math:`w`.

    Examples
    --------
    >>> LogBump(0.5)(torch.tensor([4.0, 4.25, 4.5]), 4.5).exp()
    tensor([1.0000, 0.5000, 0.0000])
    """

    def forward(self, r: Tensor, cutoff: Tensor | float) -> Tensor:  # noqa: D102
        # (1 + tanh y) / 2 is the logistic function of 2y, of which torch has the logarithm.
        return F.logsigmoid(2 / torch.tan(math.pi * self._x(r, cutoff)))

    def value_and_slope(self, r: Tensor, cutoff: Tensor) -> tuple[Tensor, Tensor]:
        """The envelope itself, and its derivative with respect to the cutoff, in 1/Å."""
        x = self._x(r, cutoff)
        f = torch.sigmoid(2 / torch.tan(math.pi * x))
        slope = 2 * math.pi / self.width * f * (1 - f) / torch.sin(math.pi * x) ** 2
        return f, slope

    def _x(self, r: Tensor, cutoff: Tensor | float) -> Tensor:
        # Nearer to the ends than that, the function is 1 or 0 to all digits.
        return ((r - cutoff) / self.width + 1).clamp(1e-6, 1 - 1e-6)


class LogCosine(LogEnvelope):
    r"""Of :math:`f(r) = \tfrac{1}{2}(1 + \cos \pi x)`, with a slope that is continuous.

    With :math:`x = (r - r_c + w) / w` between 0 and 1 in the shell of width :math:`w`.

    Examples
    --------
    >>> LogCosine(0.5)(torch.tensor([4.0, 4.25, 4.5]), 4.5).exp()
    tensor([1.0000, 0.5000, 0.0000])
    """

    #: Instead of minus infinity.
    ZERO = -1e9

    def forward(self, r: Tensor, cutoff: Tensor | float) -> Tensor:  # noqa: D102
        # The square of a sine, which keeps its digits where it is small.
        inside = (cutoff - r) / self.width
        is_zero = inside <= 0
        y = torch.where(is_zero, 1.0, inside.clamp(max=1.0))
        return torch.where(is_zero, self.ZERO, 2 * torch.log(torch.sin(math.pi / 2 * y)))


LOG_ENVELOPES: dict[str, type[LogEnvelope]] = {"bump": LogBump, "cosine": LogCosine}


# --- cutoffs of each atom -----------------------------------------------------------------------


@dataclass(frozen=True)
class AdaptiveCutoff:
    r"""Cutoffs of atoms that leave them about equally many neighbours: ``adaptive_cutoff``.

    With the bump :math:`f` of `LogBump`, the number of neighbours up to a distance :math:`r`, and
    those of an atom in a dense and in an empty surrounding,

    .. math::

        n_i(r) = \sum_j f(r_{ij}; r, w) + n \left( r / r_c \right)^3

    is to be :math:`n`, at a distance between zero and the cutoff :math:`r_c` of the model. The
    cutoff of an edge is the mean of those of its atoms.

    Attributes
    ----------
    neighbours
        :math:`n`.
    width
        :math:`w` in Å.
    method
        ``"solver"``: by Newton's method. ``"grid"``: the mean of distances in steps of w / 4, with
        weights that fall with :math:`|n_i(r) - n|`, as in older models.
    """

    neighbours: float
    width: float = 1.0
    method: Literal["solver", "grid"] = "solver"

    def __post_init__(self) -> None:
        if self.method not in CUTOFF_FINDERS:
            raise ValueError(
                f"PET: expected adaptive_cutoff['method'] to be one of {sorted(CUTOFF_FINDERS)}, "
                f"got {self.method!r}"
            )
        if not self.neighbours > 0 or not self.width > 0:
            raise ValueError(
                "PET: expected adaptive_cutoff['neighbours'] and ['width'] above zero, got "
                f"{self.neighbours} and {self.width}"
            )


class SolvedCutoffs(nn.Module):
    """Solves for the distance up to which an atom has its number of neighbours.

    Parameters
    ----------
    settings
        How many.
    cutoff
        Of the model, in Å.
    """

    #: Steps of Newton's method, or of bisection where that would leave the interval. The models
    #: that there are were trained with as many.
    STEPS = 10
    #: Smallest cutoff relative to the one of the model.
    SMALLEST = 1 / 16
    #: Smallest slope, in neighbours per Å, that is divided by.
    FLAT = 1e-6

    def __init__(self, settings: AdaptiveCutoff, cutoff: float):
        super().__init__()
        self.n, self.cutoff = float(settings.neighbours), float(cutoff)
        self.envelope = LogBump(settings.width)

    def forward(self, distances: Tensor) -> Tensor:
        """From distances (N, D) to cutoffs of the atoms (N,)."""
        with torch.no_grad():
            r, slope = self.solve(distances)
        # One more step, through which the solution depends on the distances.
        missing, _ = self.excess(distances, r)
        lowest = self.SMALLEST * self.cutoff
        return (r - missing / slope.clamp(min=self.FLAT)).clamp(lowest, self.cutoff)

    def excess(self, distances: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """How many neighbours too many there are up to r (N,), and the derivative of that."""
        f, slope = self.envelope.value_and_slope(distances, r.unsqueeze(1))
        x = r / self.cutoff
        number = f.sum(1) + self.n * x**3 - self.n
        return number, slope.sum(1) + 3 * self.n / self.cutoff * x**2

    def solve(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """The distance up to which there are none too many, and the slope there: (N,) each."""
        low = torch.zeros_like(distances[:, 0])
        high = torch.full_like(low, self.cutoff)
        r = high / 2
        for _ in range(self.STEPS):
            excess, slope = self.excess(distances, r)
            low, high = torch.where(excess <= 0, r, low), torch.where(excess <= 0, high, r)
            step = r - excess / slope.clamp(min=self.FLAT)
            r = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
        return r, self.excess(distances, r)[1]


class GridCutoffs(nn.Module):
    """Averages distances up to which an atom has about its number of neighbours.

    Parameters
    ----------
    settings
        How many.
    cutoff
        Of the model, in Å.

    Raises
    ------
    ValueError
        If the cutoff is too short for two distances.
    """

    probes: Tensor
    uniform: Tensor

    #: Smallest distance, in Å.
    FIRST = 0.5
    #: Distances in the width of the envelope.
    PER_WIDTH = 4
    #: Smallest difference between numbers of neighbours, that is divided by.
    FLAT = 1e-12

    def __init__(self, settings: AdaptiveCutoff, cutoff: float):
        super().__init__()
        self.n = float(settings.neighbours)
        self.envelope = LogBump(settings.width)
        step = settings.width / self.PER_WIDTH
        probes = torch.arange(self.FIRST, cutoff, step, dtype=torch.float64)
        if len(probes) < 2:
            raise ValueError(
                f"PET: expected a cutoff above {self.FIRST + step} Å for method='grid' with this "
                f"width, got {cutoff}"
            )
        uniform = torch.linspace(0, 1, len(probes), dtype=torch.float64) ** 3
        dtype = torch.get_default_dtype()
        self.register_buffer("probes", probes.to(dtype))
        self.register_buffer("uniform", uniform.to(dtype))

    def forward(self, distances: Tensor) -> Tensor:
        """From distances (N, D) to cutoffs of the atoms (N,)."""
        counted = self.envelope(distances.unsqueeze(2), self.probes).exp().sum(1)  # (N, P)
        excess = counted - self.n + self.n * self.uniform
        inner = (excess[:, 2:] - excess[:, :-2]) / 2
        first, last = excess[:, 1:2] - excess[:, :1], excess[:, -1:] - excess[:, -2:-1]
        slope = torch.cat([first, inner, last], dim=1).abs().clamp(min=self.FLAT)
        weights = torch.softmax(-((excess / slope) ** 2) / 2, dim=1)
        return weights @ self.probes


CUTOFF_FINDERS: dict[str, type[SolvedCutoffs] | type[GridCutoffs]] = {
    "solver": SolvedCutoffs,
    "grid": GridCutoffs,
}


def cutoff_finder(settings: Mapping[str, Any], cutoff: float) -> SolvedCutoffs | GridCutoffs:
    """What finds cutoffs of atoms, from the attributes of `AdaptiveCutoff`.

    Raises
    ------
    ValueError
        For unknown or missing attributes, and values that make no sense.
    """
    known = [field.name for field in fields(AdaptiveCutoff)]
    if [key for key in settings if key not in known] or "neighbours" not in settings:
        raise ValueError(
            f"PET: expected adaptive_cutoff to have neighbours, and perhaps others of {known}, "
            f"got {dict(settings)}"
        )
    adaptive = AdaptiveCutoff(**settings)
    return CUTOFF_FINDERS[adaptive.method](adaptive, cutoff)


def without_weightless(neighbours: Neighbours, kept: Tensor) -> Neighbours:
    """Only those columns that some atom needs.

    Parameters
    ----------
    kept
        Booleans (N, D): edges that must remain. Some of the others remain, too.
    """
    columns = _most(kept)
    order = torch.argsort((~kept).to(torch.int8), dim=1, stable=True)[:, :columns]  # (N, K)
    geometry, *others = neighbours
    wide = order.unsqueeze(2).expand(-1, -1, 4)
    return Neighbours(geometry.gather(1, wide), *(x.gather(1, order) for x in others))


def _most(kept: Tensor) -> int:
    """The largest number in a row, at least 2 if there are as many."""
    counts = kept.sum(dim=1)
    if not is_traced(kept.shape[0]):
        most = int(counts.amax()) if counts.shape[0] else 0
        return min(kept.shape[1], max(2, most))
    columns = cast(int, counts.amax().clamp(min=2).item())
    # What compilers have to know of a size that they can't compute.
    torch.ops.aten.sym_constrain_range_for_size.default(columns, min=2)
    for known in (columns >= 2, columns <= kept.shape[1]):
        torch.ops.aten._assert_scalar.default(known, "PET: more neighbours than there are")
    return columns


# --- messages from the other direction ---------------------------------------------------------


#: In Å: atoms are not as close as that, and vectors are not rounded as much.
SAME_PLACE = 0.01


class Reverse(NamedTuple):
    """The edge j → i of each edge i → j, of all N D edges one after the other.

    Attributes
    ----------
    edges
        Its index, shape (N D,), or any where there is none.
    found
        1 where there is one, else 0: shape (N D, 1).
    """

    edges: Tensor
    found: Tensor


def reverse_edges(neighbours: Neighbours) -> Reverse:
    """For each edge, the one of the neighbour that leads back, to the same image of the atom.

    Found by its vector, which is minus that of the edge, to rounding.
    """
    vectors, atoms = neighbours.geometry.detach()[..., :3], neighbours.atoms
    N, D = atoms.shape
    flat = atoms.reshape(-1)
    # Rows of the neighbours, which have to be atoms of this process: a ghost is out of range.
    onwards = vectors.index_select(0, flat).view(N, D, D, 3)
    distance, column = (onwards + vectors.unsqueeze(2)).square().sum(-1).min(dim=2)
    index = flat * D + column.reshape(-1)
    found = (distance < SAME_PLACE**2).reshape(-1, 1)
    return Reverse(index, found.to(vectors.dtype))


def exchanged(x: Tensor, reverse: Reverse) -> Tensor:
    """The features (N, D, C) of the reverse edges; zero where there is none."""
    return _Exchange.apply(x.flatten(0, 1), *reverse).view(x.shape)


class _Exchange(torch.autograd.Function):
    """A permutation that is its own inverse: its derivative is itself, and adds nothing up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, found: Tensor) -> Tensor:
        ctx.save_for_backward(index, found)
        return x.index_select(0, index) * found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Exchange.apply(gradient, *ctx.saved_tensors), None, None
