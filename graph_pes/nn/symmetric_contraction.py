r"""Many-body features of each atom: polynomials of features summed over its neighbours.

.. math::

    B_{i, L m, c} = \sum_{\nu} \sum_p w^{(\nu L)}_{z_i, p, c} \sum_{a_1 \dots a_\nu}
    U^{(\nu L)}_{p m, a_1 \dots a_\nu} \prod_{\xi=1}^{\nu} A_{i, a_\xi, c}

equations 10 and 11 of MACE, doi:10.48550/arXiv.2206.07697, with the independent couplings of
`symmetric_couplings`. A polynomial of second or higher order is evaluated as follows: the
components of two of its factors, multiplied with each other, go through a matrix of couplings,
and the result is multiplied with the other factors, of which there are up to two. The weights of
paths, which depend on the element, come last. Atoms go through in chunks that stay in the
cache, and the backward pass computes again what it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .couplings import Couplings, symmetric_couplings
from .equivariant import checked_unique
from .float64 import Float64Tensors
from .irreps import Blocks, o3, parse_irreps

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

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


class SymmetricContraction(Float64Tensors):
    """Polynomials of the features of each atom, up to a given order.

    Parameters
    ----------
    irreps_in
        Irreps of the features A, each once, all of the same number of channels C.
    irreps_out
        Irreps that are wanted, each once, of C channels. ``self.irreps_out`` are those that can
        be made.
    correlation
        The highest order ν, 1 to 4.
    attributes
        Length of the vector that describes an atom, such as a unit vector for each element: its
        weights are linear in it.

    Attributes
    ----------
    weights
        Those of each irrep of the result and order, ``weights["0e_3"]`` for instance, of shape
        (attributes, paths, C), the paths in the order of `symmetric_couplings`.

    Raises
    ------
    ValueError
        If numbers of channels differ, or the order is out of range.

    Examples
    --------
    >>> contraction = SymmetricContraction("8x0e + 8x1o", "8x0e", correlation=2, attributes=1)
    >>> s, v, one = torch.randn(5, 1, 8), torch.randn(5, 3, 8), torch.ones(5, 1)
    >>> (result,) = contraction([s, v], one)
    >>> result.shape
    torch.Size([5, 1, 8])
    >>> torch.allclose(contraction([s, -v], one)[0], result)
    True
    """

    coefficients: Tensor

    def __init__(
        self,
        irreps_in: str | Irreps,
        irreps_out: str | Irreps,
        correlation: int,
        attributes: int,
    ):
        super().__init__()
        self.irreps_in = checked_unique(parse_irreps(irreps_in))
        wanted = checked_unique(parse_irreps(irreps_out))
        channels = {mul for mul, _ in [*self.irreps_in, *wanted]}
        if len(channels) != 1:
            raise ValueError(
                "SymmetricContraction: expected the same number of channels for all irreps, got "
                f"{self.irreps_in} -> {wanted}"
            )
        if correlation not in (1, 2, 3, 4):
            raise ValueError(f"expected a correlation of 1, 2, 3 or 4, got {correlation}")
        self.correlation = correlation
        orders = range(1, correlation + 1)
        found = {
            mul_ir: [symmetric_couplings(self.irreps_in, mul_ir.ir, n) for n in orders]
            for mul_ir in wanted
        }
        found = {mul_ir: couplings for mul_ir, couplings in found.items() if any(couplings)}
        self.irreps_out = o3().Irreps(list(found))
        # Which irrep a result is proportional to in first order.
        self.sources = [c[0].factors[0] if c else None for c, *_ in found.values()]
        # Pairs, since a dictionary would be sorted.
        self.weights = nn.ParameterDict(
            [
                (f"{ir}_{n}", _random_weights(attributes, couplings[n - 1], mul))
                for (mul, ir), couplings in found.items()
                for n in orders
                if couplings[n - 1]
            ]
        )
        higher = [
            [c for of_order in couplings for c in of_order] for _, *couplings in found.values()
        ]
        self.terms, coefficients = _as_terms(higher)
        self.register_float64_buffer("coefficients", coefficients, persistent=False)

    def forward(self, x: Sequence[Tensor], attributes: Tensor) -> Blocks:
        """Contract features of N atoms.

        Parameters
        ----------
        x
            Blocks of ``irreps_in``, (N, 2l + 1, C).
        attributes
            What describes the atoms, (N, attributes).

        Returns
        -------
        list[Tensor]
            Blocks of ``irreps_out``.
        """
        attributes = attributes.to(x[0].dtype)
        blocks = [x[0].new_zeros(x[0].shape[0], ir.dim, x[0].shape[2]) for _, ir in self.irreps_out]
        if self.terms:
            higher = [w for key, w in self.weights.items() if not key.endswith("_1")]
            w = torch.tensordot(attributes, torch.cat(higher, dim=1), dims=1)  # (N, paths, C)
            matrices = _matrices(self.terms, self.coefficients.to(w.dtype))
            sizes = [ir.dim for _, ir in self.irreps_out]
            blocks = list(_Polynomials.apply(self.terms, matrices, sizes, w, *x))
        for n, ((_, ir), source) in enumerate(zip(self.irreps_out, self.sources, strict=True)):
            if source is not None:
                w = torch.tensordot(attributes, self.weights[f"{ir}_1"], dims=1)  # (N, 1, C)
                blocks[n] = blocks[n] + x[source] * w
        return blocks

    def extra_repr(self) -> str:  # noqa: D102
        paths = sum(w.shape[1] for w in self.weights.values())
        return f"{self.irreps_in} -> {self.irreps_out}, {paths} paths"


def _random_weights(attributes: int, couplings: Sequence[Couplings], channels: int) -> nn.Parameter:
    """Weights of the paths of one order."""
    paths = sum(len(c.coefficients) for c in couplings)
    return nn.Parameter(torch.randn(attributes, paths, channels) / paths)


def _as_terms(couplings: Sequence[Sequence[Couplings]]) -> tuple[list[Term], Tensor]:
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


def _matrices(terms: Sequence[Term], coefficients: Tensor) -> list[Tensor]:
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
    if isinstance(N, torch.SymInt):  # being traced
        yield slice(0, N)
        return
    size = max(1, CHUNK // C)
    for start in range(0, N, size):
        yield slice(start, min(N, start + size))


class _Polynomials(torch.autograd.Function):
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
        w, *x = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: all at once
            gw, gx = _gradients_of(ctx, w, x, gradients)
            return None, None, None, gw, *gx
        gw, gx = torch.empty_like(w), [torch.empty_like(block) for block in x]
        for atoms in _chunks(w):
            blocks, g = [block[atoms] for block in x], [gradient[atoms] for gradient in gradients]
            gw[atoms], parts = _gradients_of(ctx, w[atoms], blocks, g)
            for block, part in zip(gx, parts, strict=True):
                block[atoms] = part
        return None, None, None, gw, *gx


def _gradients_of(
    ctx: Any, w: Tensor, x: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """As `_gradients`, of atoms by blocks."""
    C = w.shape[2]
    columns, g = [_columns(block) for block in x], [_columns(gradient) for gradient in gradients]
    gw, gx = _gradients(ctx.terms, ctx.matrices, _columns(w), columns, g)
    return _blocks(gw, C), [_blocks(part, C) for part in gx]
