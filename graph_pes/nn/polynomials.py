r"""Polynomials of the features of each atom, as `SymmetricContraction` needs them.

The components of two of the factors, multiplied with each other, go through a matrix of
couplings, and the result is multiplied with the other factors, of which there are up to two. The
weights of paths, which may differ from atom to atom, come last. Atoms go through in chunks that
stay in the cache, and the backward pass computes again what it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graph_pes.tensors import is_traced

from .couplings import Couplings

#: Atoms times channels of a chunk.
CHUNK = 1 << 12


@dataclass(frozen=True)
class Term:
    """Polynomials of the same factors that make the same irrep.

    Attributes
    ----------
    target
        Position of the irrep that they make.
    others
        Positions of up to two factors that are multiplied last.
    pair
        Positions of the two factors that are multiplied first.
    first_path
        The first of their weights.
    shape
        Number of paths, of components of the result, and of products of the other factors.
    columns
        Number of products of components of the pair.
    """

    target: int
    others: tuple[int, ...]
    pair: tuple[int, int]
    first_path: int
    shape: tuple[int, int, int]
    columns: int

    @property
    def paths(self) -> slice:
        """Their weights."""
        return slice(self.first_path, self.first_path + self.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Shape of the matrix of couplings."""
        paths, components, products = self.shape
        return paths * components * products, self.columns


def as_terms(couplings: Sequence[Sequence[Couplings]]) -> tuple[list[Term], Tensor]:
    """How to evaluate the couplings to each irrep of the result, and all their coefficients."""
    terms: list[Term] = []
    parts = [torch.zeros(0, dtype=torch.float64)]
    first_path = 0
    for target, to_target in enumerate(couplings):
        for c in to_target:
            paths, components, *degrees = c.coefficients.shape
            # The factors with the fewest components come last.
            columns, rows = degrees[-2] * degrees[-1], math.prod(degrees[:-2])
            *others, a, b = c.factors
            shape = (paths, components, rows)
            terms.append(Term(target, tuple(others), (a, b), first_path, shape, columns))
            parts.append(c.coefficients.flatten())
            first_path += paths
    return terms, torch.cat(parts)


def matrices_of(terms: Sequence[Term], coefficients: Tensor) -> list[Tensor]:
    """Their matrices of couplings."""
    parts = coefficients.split([rows * columns for rows, columns in (t.size for t in terms)])
    return [part.view(t.size) for t, part in zip(terms, parts, strict=True)]


class _Products:
    """Products of components of features (2l + 1, K), each pair of irreps once."""

    def __init__(self, x: Sequence[Tensor]):
        self.x = x
        self.known: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, factors: tuple[int, ...]) -> Tensor:
        """Of one or two irreps: shape (products, K)."""
        if len(factors) == 1:
            return self.x[factors[0]]
        if factors not in self.known:
            a, b = (self.x[f] for f in factors)
            self.known[factors] = (a.unsqueeze(1) * b.unsqueeze(0)).flatten(0, 1)
        return self.known[factors]


def _evaluate(
    terms: Sequence[Term],
    matrices: Sequence[Tensor],
    n_targets: int,
    w: Tensor,
    x: Sequence[Tensor],
) -> list[Tensor]:
    """From weights (paths, K) and features (2l + 1, K) to results (2L + 1, K)."""
    products, K = _Products(x), w.shape[1]
    result: list[Any] = [0] * n_targets
    for term, V in zip(terms, matrices, strict=True):
        S = (V @ products(term.pair)).view(*term.shape, K)
        f = (S * products(term.others)).sum(2) if term.others else S.squeeze(2)
        result[term.target] = result[term.target] + (f * w[term.paths].unsqueeze(1)).sum(0)
    return result


def _gradients(
    terms: Sequence[Term],
    matrices: Sequence[Tensor],
    w: Tensor,
    x: Sequence[Tensor],
    g: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """Gradients with respect to weights and features, from those of the results."""
    products, K = _Products(x), w.shape[1]
    of_products: dict[tuple[int, ...], Any] = {}
    gw: list[Tensor] = []
    for term, V in zip(terms, matrices, strict=True):
        S = (V @ products(term.pair)).view(*term.shape, K)
        g_m = g[term.target]
        g_pm = w[term.paths].unsqueeze(1) * g_m  # (paths, 2L + 1, K)
        if term.others:
            X = products(term.others)
            gS, gX = g_pm.unsqueeze(2) * X, (g_pm.unsqueeze(2) * S).sum((0, 1))
            of_products[term.others] = of_products.get(term.others, 0) + gX
            f = (S * X).sum(2)
        else:
            gS, f = g_pm, S.squeeze(2)
        gw.append((f * g_m).sum(1))
        gP = V.T @ gS.reshape(-1, K)
        of_products[term.pair] = of_products.get(term.pair, 0) + gP
    gx: list[Any] = [torch.zeros_like(block) for block in x]
    for factors, gradient in of_products.items():
        if len(factors) == 1:
            gx[factors[0]] = gx[factors[0]] + gradient
            continue
        a, b = factors
        gradient = gradient.view(x[a].shape[0], x[b].shape[0], K)
        gx[a] = gx[a] + (gradient * x[b].unsqueeze(0)).sum(1)
        gx[b] = gx[b] + (gradient * x[a].unsqueeze(1)).sum(0)
    return torch.cat(gw), gx


def _columns(x: Tensor) -> Tensor:
    """From (n, components, C) to (components, n C)."""
    return x.transpose(0, 1).flatten(1)


def _blocks(x: Tensor, C: int) -> Tensor:
    """From (components, n C) to (n, components, C)."""
    return x.unflatten(1, (-1, C)).transpose(0, 1)


def _chunks(w: Tensor) -> Iterator[slice]:
    """Groups of atoms."""
    N, _, C = w.shape
    if is_traced(N):
        yield slice(0, N)
        return
    size = max(1, CHUNK // C)
    for start in range(0, N, size):
        yield slice(start, min(N, start + size))


class Polynomials(torch.autograd.Function):
    """The terms of second and higher order; can be differentiated twice."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        terms: Sequence[Term],
        matrices: Sequence[Tensor],
        sizes: Sequence[int],
        w: Tensor,
        *x: Tensor,
    ) -> tuple[Tensor, ...]:
        """From weights (N, paths, C) and blocks (N, 2l + 1, C) to blocks of given sizes."""
        ctx.terms, ctx.matrices = terms, matrices
        ctx.save_for_backward(w, *x)
        N, _, C = w.shape
        result = tuple(w.new_zeros(N, size, C) for size in sizes)
        for atoms in _chunks(w):
            columns = [_columns(block[atoms]) for block in x]
            parts = _evaluate(terms, matrices, len(sizes), _columns(w[atoms]), columns)
            for block, part in zip(result, parts, strict=True):
                if isinstance(part, Tensor):
                    block[atoms] = _blocks(part, C)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Of weights and features; differentiable where that is asked for."""
        w, *x = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: all at once
            gw, gx = gradients_of(ctx.terms, ctx.matrices, w, x, gradients)
            return None, None, None, gw, *gx
        gw, gx = torch.empty_like(w), [torch.empty_like(block) for block in x]
        for atoms in _chunks(w):
            blocks, g = [block[atoms] for block in x], [gradient[atoms] for gradient in gradients]
            gw[atoms], parts = gradients_of(ctx.terms, ctx.matrices, w[atoms], blocks, g)
            for block, part in zip(gx, parts, strict=True):
                block[atoms] = part
        return None, None, None, gw, *gx


def gradients_of(
    terms: Sequence[Term],
    matrices: Sequence[Tensor],
    w: Tensor,
    x: Sequence[Tensor],
    gradients: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """As `_gradients`, of atoms by blocks."""
    C = w.shape[2]
    columns, g = [_columns(block) for block in x], [_columns(gradient) for gradient in gradients]
    gw, gx = _gradients(terms, matrices, _columns(w), columns, g)
    return _blocks(gw, C), [_blocks(part, C) for part in gx]
