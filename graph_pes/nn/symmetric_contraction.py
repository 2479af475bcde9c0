r"""Many-body features of each atom: polynomials of features summed over its neighbours.

.. math::

    B_{i, L m, c} = \sum_{\nu} \sum_p w^{(\nu L)}_{z_i, p, c} \sum_{a_1 \dots a_\nu}
    U^{(\nu L)}_{p m, a_1 \dots a_\nu} \prod_{\xi=1}^{\nu} A_{i, a_\xi, c}

equations 10 and 11 of MACE, doi:10.48550/arXiv.2206.07697, with the independent couplings of
`symmetric_couplings`. There are three ways to evaluate terms of second and higher order:
`Polynomials`, which is general, `FoldedPolynomials`, which is faster for many atoms of few
elements, and `written_polynomials`, for compilers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from graph_pes.tensors import is_traced

from .couplings import Couplings, symmetric_couplings
from .equivariant import checked_unique, of_atoms
from .float64 import Float64Tensors
from .folded_polynomials import FoldedPolynomials, Kinds, table_of
from .irreps import Blocks, o3, parse_irreps
from .polynomials import Polynomials, as_terms, matrices_of
from .written_products import written_polynomials, written_terms

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

#: From how many atoms of each kind on coefficients are folded.
FOLD_FROM = 16


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
        self.terms, coefficients = as_terms(higher)
        self.register_float64_buffer("coefficients", coefficients, persistent=False)
        degrees = [ir.dim for _, ir in self.irreps_in]
        self.written = written_terms(
            [
                matrix.view(*term.shape, *(degrees[factor] for factor in term.pair))
                for term, matrix in zip(
                    self.terms, matrices_of(self.terms, coefficients), strict=True
                )
            ]
        )
        one_channel = o3().Irreps([(1, ir) for _, ir in self.irreps_in])
        self.table_names = []
        for (_, ir), couplings in found.items() if correlation < 4 else ():
            names = {n: f"table_{ir}_{n}" for n in orders if n > 1}
            for n, name in names.items():
                table = table_of(couplings[n - 1], one_channel, ir.l, n)
                self.register_float64_buffer(name, table, persistent=False)
            self.table_names.append(list(names.values()))

    def forward(
        self, x: Sequence[Tensor], attributes: Tensor, kinds: Kinds | None = None
    ) -> Blocks:
        """Contract features of N atoms.

        Parameters
        ----------
        x
            Blocks of ``irreps_in``, (N, 2l + 1, C).
        attributes
            What describes the atoms, (N, attributes); integers are taken for unit vectors.
        kinds
            Atoms of the same kind have the same attributes. Given where no second derivatives
            are wanted, it makes many atoms of a kind quicker.

        Returns
        -------
        list[Tensor]
            Blocks of ``irreps_out``.
        """
        blocks = self._higher_orders(x, attributes, kinds)
        for n, ((_, ir), source) in enumerate(zip(self.irreps_out, self.sources, strict=True)):
            if source is not None:
                w = of_atoms(self.weights[f"{ir}_1"], attributes)  # (N, 1, C)
                blocks[n] = blocks[n] + x[source] * w
        return blocks

    def _higher_orders(
        self, x: Sequence[Tensor], attributes: Tensor, kinds: Kinds | None
    ) -> Blocks:
        """Terms of second and higher order."""
        N, _, C = x[0].shape
        sizes = [ir.dim for _, ir in self.irreps_out]
        if not self.terms:
            return [x[0].new_zeros(N, size, C) for size in sizes]
        weights = [w for key, w in self.weights.items() if not key.endswith("_1")]
        W = torch.cat(weights, dim=1)  # (attributes, paths, C)
        matrices = matrices_of(self.terms, self.coefficients.to(W.dtype))
        if self.table_names and kinds is not None and FOLD_FROM * len(kinds.counts) <= N:
            tables = [
                [getattr(self, name).to(W.dtype) for name in names] for names in self.table_names
            ]
            w = of_atoms(W, attributes.index_select(0, kinds.first))
            args = (self.terms, matrices, tables, kinds, sizes, w, *x)
            return list(FoldedPolynomials.apply(*args))
        w = of_atoms(W, attributes)  # (N, paths, C)
        if is_traced(N) and self.written is not None:
            return written_polynomials(self.terms, self.written, sizes, w, x)
        return list(Polynomials.apply(self.terms, matrices, sizes, w, *x))

    def extra_repr(self) -> str:  # noqa: D102
        paths = sum(w.shape[1] for w in self.weights.values())
        return f"{self.irreps_in} -> {self.irreps_out}, {paths} paths"


def _random_weights(attributes: int, couplings: Sequence[Couplings], channels: int) -> nn.Parameter:
    """Weights of the paths of one order."""
    paths = sum(len(c.coefficients) for c in couplings)
    return nn.Parameter(torch.randn(attributes, paths, channels) / paths)
