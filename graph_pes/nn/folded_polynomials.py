r"""Polynomials of atoms that come in a few kinds, each with weights of its own.

For the atoms of one kind, weights and couplings are folded into symmetric coefficients of each
channel, with which

.. math::

    T_{m a} = \sum_b c^{(2)}_{m a b} A_b + \sum_{b c} c^{(3)}_{m a b c} A_b A_c, \qquad
    B_m = \sum_a A_a T_{m a}, \qquad
    \frac{\partial B_m}{\partial A_a} = 2 \sum_b c^{(2)}_{m a b} A_b +
    3 \sum_{b c} c^{(3)}_{m a b c} A_b A_c ,

one product of matrices per channel, after which the derivative costs nothing. This pays off
where many atoms share a kind, and no second derivatives are wanted: see `Polynomials`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graph_pes.tensors import gradient_is_wanted, index_sum

from .couplings import Couplings, dense
from .polynomials import Term, gradients_of

#: Products of pairs of components of all atoms, for a few channels, that are held at once.
CHUNK = 1 << 18


@dataclass(frozen=True)
class Kinds:
    """Atoms sorted by kind.

    Attributes
    ----------
    order
        The atoms in order of their kinds.
    place
        The place of each atom in this order.
    kind
        The kind of each atom, shape (N,), from 0.
    first
        One atom of each kind.
    counts
        Number of atoms of each kind.
    """

    order: Tensor
    place: Tensor
    kind: Tensor
    first: Tensor
    counts: list[int]


def sorted_kinds(labels: Tensor) -> Kinds:
    """Sort atoms by integer labels (N,)."""
    order = torch.argsort(labels, stable=True)
    _, kind, counts = labels.unique(return_inverse=True, return_counts=True)
    first = order[torch.cumsum(counts, 0) - counts]
    return Kinds(order, torch.argsort(order), kind, first, counts.tolist())


def table_of(couplings: Sequence[Couplings], irreps: Any, degree: int, order: int) -> Tensor:
    """Couplings of second or third order to degree L as a matrix from paths to coefficients.

    Shape (paths, (2L + 1) d²), or (paths, (2L + 1) d n) for the n = d (d + 1) / 2 pairs of
    components b ≤ c, of which those with b < c stand for two.
    """
    d = irreps.dim
    b, c = torch.triu_indices(d, d)
    if not couplings:
        per_row = d if order == 2 else len(b)
        return torch.zeros(0, (2 * degree + 1) * d * per_row, dtype=torch.float64)
    U = dense(couplings, irreps)
    if order == 3:
        U = U[..., b, c] * torch.where(b == c, 1.0, 2.0)
    return U.flatten(1)


def _pairs(A: Tensor) -> Tensor:
    """Products of components (C, d, N) with those that follow: shape (C, d (d + 1) / 2, N)."""
    C, d, N = A.shape
    result, start = A.new_empty(C, d * (d + 1) // 2, N), 0
    for a in range(d):
        torch.mul(A[:, a : a + 1], A[:, a:], out=result[:, start : start + d - a])
        start += d - a
    return result


def _folded(w: Tensor, tables: Sequence[Sequence[Tensor]], d: int) -> list[Tensor]:
    """Coefficients (C, components, ...) of each order from weights (paths, C) of all orders.

    The tables are those of each irrep of the result, by order.
    """
    C, start = w.shape[1], 0
    parts: list[list[Tensor]] = [[] for _ in tables[0]]
    for of_target in tables:
        for order, table in enumerate(of_target):
            of_order = w[start : start + table.shape[0]]
            parts[order].append(
                (of_order.T @ table).view(C, -1, d if order == 0 else d * (d + 1) // 2)
            )
            start += table.shape[0]
    return [torch.cat(part, dim=1) for part in parts]


def _values_and_jacobian(A: Tensor, coefficients: Sequence[Tensor], B: Tensor, J: Tensor) -> None:
    """Write B (C, M, N) and its derivatives J (C, M d, N) for features A (C, d, N)."""
    C, d, N = A.shape
    size = max(1, CHUNK // (N * d * (d + 1) // 2))
    for start in range(0, C, size):
        some = slice(start, start + size)
        a, (c2, *c3) = A[some], [c[some] for c in coefficients]
        t = t2 = torch.bmm(c2, a)
        J[some] = 2 * t2
        if c3:
            t3 = torch.bmm(c3[0], _pairs(a))
            J[some].add_(t3, alpha=3)
            t = t2 + t3
        B[some] = (t.view(a.shape[0], -1, d, N) * a.unsqueeze(1)).sum(2)


class FoldedPolynomials(torch.autograd.Function):
    """As `Polynomials`, with weights (kinds, paths, C)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        terms: Sequence[Term],
        matrices: Sequence[Tensor],
        tables: Sequence[Sequence[Tensor]],
        kinds: Kinds,
        sizes: Sequence[int],
        w: Tensor,
        *x: Tensor,
    ) -> tuple[Tensor, ...]:
        """From weights (kinds, paths, C) and blocks (N, 2l + 1, C) to blocks of given sizes."""
        A = torch.cat(x, dim=1).index_select(0, kinds.order)
        A = A.permute(2, 1, 0).contiguous()  # (C, d, N)
        C, d, N = A.shape
        B, J = A.new_empty(C, sum(sizes), N), A.new_empty(C, sum(sizes) * d, N)
        start = 0
        for n, count in enumerate(kinds.counts):
            some = slice(start, start + count)
            coefficients = _folded(w[n], tables, d)
            _values_and_jacobian(
                A[..., some].contiguous(), coefficients, B[..., some], J[..., some]
            )
            start += count
        ctx.terms, ctx.matrices, ctx.kinds, ctx.sizes = terms, matrices, kinds, sizes
        ctx.save_for_backward(w, J, *x)
        return _as_blocks(B, kinds, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The derivatives that were kept; what else is asked for is computed."""
        w, J, *x = ctx.saved_tensors
        kinds = ctx.kinds
        none = (None,) * 5
        if torch.is_grad_enabled() or gradient_is_wanted(w):
            of_atoms = w.index_select(0, kinds.kind)
            gw, gx = gradients_of(ctx.terms, ctx.matrices, of_atoms, x, gradients)
            return *none, index_sum(gw, kinds.kind, w.shape[0]), *gx
        g = torch.cat(gradients, dim=1).index_select(0, kinds.order)
        g = g.permute(2, 1, 0)  # (C, M, N)
        C, M, N = g.shape
        gA = (J.view(C, M, -1, N) * g.unsqueeze(2)).sum(1)
        return *none, None, *_as_blocks(gA, kinds, [block.shape[1] for block in x])


def _as_blocks(x: Tensor, kinds: Kinds, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """From (C, components, N), sorted by kind, to blocks (N, 2l + 1, C) of all atoms."""
    rows = x.permute(2, 1, 0).contiguous()
    return torch.empty_like(rows).index_copy_(0, kinds.order, rows).split(list(sizes), dim=1)
