"""Tensor products written out number by number, for compilers.

These make few loops of it, whose vectors are the channels, and which store little between them:
several times as fast as the same operations as batched matrix products. Operation by operation
it would be slow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .irreps import Blocks
from .paths import Paths

#: Indices m2, m1 and m3 of coupling coefficients that are not zero, and their values.
Terms = list[tuple[int, int, int, float]]


def written_terms(coefficients: Tensor) -> Terms:
    """Of coefficients of shape (2 l2 + 1, 2 l1 + 1, 2 l3 + 1)."""
    return [(*m, coefficients[tuple(m)].item()) for m in coefficients.nonzero().tolist()]


def written_out(
    paths: Paths,
    terms: Sequence[Terms],
    x: Sequence[Tensor],
    Y: Tensor,
    phi: Tensor,
    V: Tensor,
    neighbours: Tensor,
) -> Blocks:
    """The same as `NeighbourTensorProduct` of its arguments, with the terms of each coupling."""
    N, D = neighbours.shape
    # By component, so that backward passes add up rows of (M, C), without copies of slices.
    h = [[component[neighbours] for component in block.unbind(1)] for block in x]
    y = [part.unbind(2) for part in Y.view(N, D, -1).split(paths.harmonics, dim=2)]
    weights = (phi @ V).view(N, D, -1).split(paths.widths, dim=2)
    blocks: list[list[Tensor]] = [[] for _ in paths.targets]
    for p, w in zip(paths.paths, weights, strict=True):
        messages = [component * w for component in h[p.source]]
        sums = _coupled(messages, y[p.harmonic], terms[p.coupling])
        blocks[p.target].append(torch.stack(sums, dim=1))
    return [torch.cat(block, dim=2) for block in blocks]


def _coupled(messages: Sequence[Tensor], Y: Sequence[Tensor], terms: Terms) -> list[Tensor]:
    """Each component of the sums over neighbours (N, C) of messages (N, D, C) with Y (N, D)."""
    if len(Y) == 1:  # which is 1
        return [message.sum(1) for message in messages]
    factors: dict[tuple[int, int], Tensor] = {}
    for m2, m1, m3, value in terms:
        _add(factors, (m3, m1), value * Y[m2])
    totals: dict[int, Tensor] = {}
    for (m3, m1), factor in factors.items():
        _add(totals, m3, factor.unsqueeze(2) * messages[m1])
    return [totals[m3].sum(1) for m3 in sorted(totals)]


def _add(totals: dict, key: object, more: Tensor) -> None:
    totals[key] = totals[key] + more if key in totals else more
