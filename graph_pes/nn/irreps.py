r"""Irreducible representations of O(3): what kinds of features there are, and how they couple.

Features that transform under rotations and reflections are lists of *blocks*, one for each
irrep of an ``e3nn.o3.Irreps`` in which no irrep occurs twice. A block of ``mul`` channels of
degree l has shape (N, 2l + 1, mul): channels come last, so that mixing them is one matrix
product. e3nn itself keeps the blocks of an atom in one row, each (mul, 2l + 1);
`from_e3nn_rows` and `to_e3nn_rows` convert.

e3nn is imported when it is first needed, by `o3`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

# Features of N atoms: a block (N, 2l + 1, mul) for each irrep.
Blocks: TypeAlias = list[Tensor]


@cache
def o3() -> ModuleType:
    """The module ``e3nn.o3``."""
    # e3nn before 0.5.5 loads a file of constants, in which there is a slice, as it is imported;
    # and any e3nn uses TorchScript, which newer versions of torch advise against.
    with warnings.catch_warnings(), torch.serialization.safe_globals([slice]):
        warnings.simplefilter("ignore")
        import e3nn.o3

    return e3nn.o3


def parse_irreps(irreps: str | Irreps) -> Irreps:
    """Irreps from text such as ``"16x0e + 8x1o"``.

    Raises
    ------
    ValueError
        If the text can't be understood.

    Examples
    --------
    >>> parse_irreps("16x0e + 8x1o").dim
    40
    """
    try:
        return o3().Irreps(irreps)
    except (ValueError, AssertionError) as error:
        raise ValueError(
            f"expected irreps such as '16x0e + 8x1o' (channels x degree and parity), got {irreps!r}"
        ) from error


def merged(irreps: Irreps) -> Irreps:
    """The same irreps in sorted order, each occurring once.

    Examples
    --------
    >>> merged(parse_irreps("8x1o + 16x0e + 2x1o"))
    16x0e+10x1o
    """
    channels: dict = {}
    for mul, ir in irreps:
        channels[ir] = channels.get(ir, 0) + mul
    return o3().Irreps([(channels[ir], ir) for ir in sorted(channels) if channels[ir] > 0])


@cache
def clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    """How degrees l1 and l2 couple to l3: shape (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), float64.

    These are Wigner's 3j symbols in the basis of real spherical harmonics, of norm 1. Versions
    of e3nn differ in the sign of those with odd l1 + l2 + l3; here it is always that of e3nn
    0.4, so that the weights of a model mean the same whatever is installed: the first number
    that is not zero is positive if l1 ≤ l2 ≤ l3, and exchanging two degrees changes the sign.
    """
    degrees = (l1, l2, l3)
    order = sorted(range(3), key=degrees.__getitem__)
    C: Tensor = o3().wigner_3j(*sorted(degrees), dtype=torch.float64)
    C = torch.where(C.abs() < 1e-12, 0.0, C)  # numerical zeros
    if sum(degrees) % 2:
        first = C[C != 0][0]
        exchanged = order in ([1, 0, 2], [0, 2, 1], [2, 1, 0])
        C = C * torch.sign(first) * (-1 if exchanged else 1)
    return C.permute([order.index(axis) for axis in range(3)]).contiguous()


def from_e3nn_rows(x: Tensor, irreps: Irreps) -> Blocks:
    """Blocks of features that are in e3nn's order, shape (N, irreps.dim)."""
    parts = x.split([mul * ir.dim for mul, ir in irreps], dim=-1)
    return [
        part.unflatten(-1, (mul, ir.dim)).transpose(-1, -2)
        for part, (mul, ir) in zip(parts, irreps, strict=True)
    ]


def to_e3nn_rows(blocks: Sequence[Tensor]) -> Tensor:
    """Features in e3nn's order, shape (N, irreps.dim), from blocks."""
    return torch.cat([block.transpose(-1, -2).flatten(-2) for block in blocks], dim=-1)
