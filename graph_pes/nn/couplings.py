r"""Symmetric couplings: all independent ways to make one irrep of a product of equal features.

The components :math:`A_a` of the features of an atom are numbers, so that only the symmetric
part of a coupling counts, and a coupling of order :math:`\nu` is a homogeneous polynomial in
them. Those that make a given irrep are spanned by chains of Clebsch–Gordan products; chains
differ by symmetry only, so that few remain: 8 of 23 for the scalars of third order in degrees
up to 3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .irreps import clebsch_gordan

if TYPE_CHECKING:
    from e3nn.o3 import Irrep, Irreps


@dataclass(frozen=True)
class Couplings:
    """Independent couplings of given factors to one irrep.

    Attributes
    ----------
    factors
        Positions of the irreps that are multiplied, in ascending order.
    coefficients
        Of the monomials, shape (paths, 2L + 1, 2 l_1 + 1, ..., 2 l_ν + 1), float64. Where a
        factor occurs several times, a monomial such as :math:`A_1 A_2 = A_2 A_1` has one
        coefficient, at the components in ascending order.
    """

    factors: tuple[int, ...]
    coefficients: Tensor


def symmetric_couplings(irreps: Irreps, target: Irrep, order: int) -> list[Couplings]:
    r"""All independent symmetric couplings of a number of equal features to one irrep.

    They are orthogonal, and normalised so that a component of the result is of unit variance
    where the factors are independent and of unit variance,
    :math:`\sum_{m, a_1 ... a_\nu} U_{m a_1 ... a_\nu}^2 = 2L + 1`.

    Parameters
    ----------
    irreps
        Of the features, of one channel each.
    target
        The irrep of the result, of degree L.
    order
        Number of factors, ν.

    Examples
    --------
    >>> from graph_pes.nn.irreps import parse_irreps
    >>> irreps = parse_irreps("0e + 1o + 2e + 3o")
    >>> sum(len(c.coefficients) for c in symmetric_couplings(irreps, irreps[0].ir, 3))
    8
    """
    kinds = tuple((ir.l, ir.p) for _, ir in irreps)
    found = []
    for factors in itertools.combinations_with_replacement(range(len(kinds)), order):
        if math.prod(kinds[f][1] for f in factors) != target.p:
            continue
        coefficients = _independent(
            tuple(kinds[f][0] for f in factors), _repeats(factors), target.l
        )
        if len(coefficients) > 0:
            found.append(Couplings(factors, coefficients))
    return found


def dense(couplings: Sequence[Couplings], irreps: Irreps) -> Tensor:
    """The couplings as symmetric tensors: shape (paths, 2L + 1, d, ..., d), d = irreps.dim."""
    slices = irreps.slices()
    parts = []
    for c in couplings:
        order = len(c.factors)
        U = c.coefficients.new_zeros(*c.coefficients.shape[:2], *[irreps.dim] * order)
        U[(slice(None), slice(None), *(slices[f] for f in c.factors))] = c.coefficients
        swapped = [
            U.permute(0, 1, *(2 + n for n in permutation))
            for permutation in itertools.permutations(range(order))
        ]
        parts.append(torch.stack(swapped).mean(0))
    return torch.cat(parts)


def _repeats(factors: Sequence[int]) -> tuple[int, ...]:
    """For each factor, the position at which it occurs first."""
    return tuple(factors.index(f) for f in factors)


@cache
def _independent(degrees: tuple[int, ...], repeats: tuple[int, ...], L: int) -> Tensor:
    """Orthonormal polynomials, shape (paths, 2L + 1, 2 l_1 + 1, ...), always in the same order.

    Gram–Schmidt in the order of the chains rather than a singular value decomposition, whose
    choice among equally good bases is up to the library: weights of models refer to these.
    """
    shape = [2 * l + 1 for l in degrees]
    canonical, copies = _monomials(shape, repeats)
    # In how many orders the factors may stand.
    orders = math.factorial(len(degrees))
    orders //= math.prod(math.factorial(repeats.count(first)) for first in set(repeats))
    copies = orders * copies
    kept: list[Tensor] = []
    for chain in _chains(degrees, L):
        polynomial = torch.zeros_like(chain.flatten(1)).index_add(1, canonical, chain.flatten(1))
        size = _dot(polynomial, polynomial, copies).sqrt()
        for _ in range(2):  # the second time against rounding
            for other in kept:
                overlap = _dot(polynomial, other, copies) / (2 * L + 1)
                polynomial = polynomial - overlap * other
        rest = _dot(polynomial, polynomial, copies).sqrt()
        if rest > 1e-6 * max(float(size), 1e-6):
            polynomial = polynomial * (math.sqrt(2 * L + 1) / rest)
            kept.append(torch.where(polynomial.abs() < 1e-12, 0.0, polynomial))
    result = torch.stack(kept) if kept else torch.zeros(0, 2 * L + 1, math.prod(shape)).double()
    return result.view(-1, 2 * L + 1, *shape)


def _monomials(shape: Sequence[int], repeats: Sequence[int]) -> tuple[Tensor, Tensor]:
    """For every product of components: which one stands for it, and how many those stand for."""
    components = torch.cartesian_prod(*(torch.arange(n) for n in shape)).view(-1, len(shape))
    ordered = components.clone()
    for first in set(repeats):
        same = [k for k, repeat in enumerate(repeats) if repeat == first]
        ordered[:, same] = components[:, same].sort(dim=1).values
    strides = torch.tensor([math.prod(shape[k + 1 :]) for k in range(len(shape))])
    canonical = (ordered * strides).sum(1)
    return canonical, torch.bincount(canonical, minlength=len(canonical)).clamp(min=1).double()


def _dot(x: Tensor, y: Tensor, copies: Tensor) -> Tensor:
    """Scalar product of polynomials as of the symmetric tensors that they stand for."""
    return (x * y / copies).sum()


def _chains(degrees: Sequence[int], L: int) -> Iterator[Tensor]:
    """Clebsch–Gordan products of one factor after the other that end in degree L."""
    first = torch.eye(2 * degrees[0] + 1, dtype=torch.float64)
    partial: list[tuple[int, Tensor]] = [(degrees[0], first)]
    for n, l in enumerate(degrees[1:], start=2):
        reach = L + sum(degrees[n:])  # what can still become L
        partial = [
            (l_next, _coupled(tensor, l_left, l, l_next))
            for l_left, tensor in partial
            for l_next in range(abs(l_left - l), min(l_left + l, reach) + 1)
        ]
    return (tensor for l, tensor in partial if l == L)


def _coupled(left: Tensor, l_left: int, l: int, l_next: int) -> Tensor:
    """From (2 l_left + 1, ...) to (2 l_next + 1, ..., 2 l + 1)."""
    C: Any = clebsch_gordan(l_left, l, l_next) * math.sqrt(2 * l_next + 1)
    return torch.tensordot(C, left, dims=([0], [0])).movedim(1, 0).movedim(1, -1)
