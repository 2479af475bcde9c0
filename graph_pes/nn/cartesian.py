r"""Fields of 3×3 matrices, by irreducible components.

A matrix is the sum of a multiple of the identity (I), an antisymmetric part (A) and a symmetric
traceless one (S), with 1, 3 and 5 components: its coordinates in the basis ``MATRIX_BASIS``, which
is orthonormal in the Frobenius product :math:`\mathrm{tr}(X^T Y)`. Fields of C channels have shape
(N, 9, C), so that rows of memory hold all of an atom, norms are sums of squares, and channels are
mixed by matrix products on the last dimension. Simeon and de Fabritiis,
doi:10.48550/arXiv.2306.06482.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graph_pes.tensors import is_traced

from .float64 import Float64Tensors
from .trilinear import TrilinearForm, pieces

#: Rows of a field that hold I, A and S.
PARTS = (slice(0, 1), slice(1, 4), slice(4, 9))


def _matrix_basis() -> Tensor:
    """The basis, shape (9, 3, 3), in double precision.

    The antisymmetric matrices are those of cross products, v ↦ e × v; the symmetric ones go
    with xy, yz, xz, x² - y² and 2z² - x² - y².
    """
    basis = torch.zeros(9, 3, 3, dtype=torch.float64)
    basis[0] = torch.eye(3)
    for n, (a, b) in enumerate([(2, 1), (0, 2), (1, 0)], start=1):
        basis[n, a, b], basis[n, b, a] = 1.0, -1.0
    for n, (a, b) in enumerate([(0, 1), (1, 2), (0, 2)], start=4):
        basis[n, a, b] = basis[n, b, a] = 1.0
    basis[7] = torch.diag(torch.tensor([1.0, -1.0, 0.0]))
    basis[8] = torch.diag(torch.tensor([-1.0, -1.0, 2.0]))
    return basis / basis.square().sum((1, 2), keepdim=True).sqrt()


MATRIX_BASIS = _matrix_basis()


def _nonzero(rows: Tensor) -> list[list[tuple[int, float]]]:
    """The columns and values of each row of a matrix that are not zero."""
    return [[(k, value) for k, value in enumerate(row) if value] for row in rows.tolist()]


#: The elements of a matrix as combinations of its components, and the other way round.
ELEMENTS, COMPONENTS = _nonzero(MATRIX_BASIS.view(9, 9).T), _nonzero(MATRIX_BASIS.view(9, 9))


def components_of_directions(directions: Tensor) -> Tensor:
    r"""Components of :math:`1`, :math:`[\hat{r}]_\times` and :math:`\hat{r}\hat{r}^T - 1/3`.

    Parameters
    ----------
    directions
        Unit vectors, or zero, which gives the identity alone: shape (E, 3).

    Returns
    -------
    Tensor
        Shape (E, 9).

    Examples
    --------
    >>> r = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
    >>> matrix = torch.einsum("ek,kab->eab", components_of_directions(r), MATRIX_BASIS)[0]
    >>> outer = r.T @ r - torch.eye(3) / 3
    >>> torch.allclose((matrix + matrix.T) / 2, torch.eye(3, dtype=r.dtype) + outer)
    True
    """
    x, y, z = directions.unbind(-1)
    root_2 = math.sqrt(2)
    symmetric = [
        root_2 * x * y,
        root_2 * y * z,
        root_2 * x * z,
        (x + y) * (x - y) / root_2,
        (2 * z * z - x * x - y * y) / math.sqrt(6),
    ]
    identity = torch.full_like(x, math.sqrt(3))
    return torch.stack([identity, root_2 * x, root_2 * y, root_2 * z, *symmetric], dim=-1)


def vectors_of(x: Tensor) -> Tensor:
    """The vectors v whose cross products are the antisymmetric parts: (N, 9, C) to (N, 3, C)."""
    return x[:, PARTS[1]] / math.sqrt(2)


def squared_norms(x: Tensor) -> Tensor:
    """Squared Frobenius norms of the matrices (N, 9, C): shape (N, C)."""
    return x.square().sum(1)


def squared_norms_of_parts(x: Tensor) -> Tensor:
    """Squared Frobenius norms of I, A and S of (N, 9, C): shape (N, 3 C)."""
    squares = x.square()
    return torch.cat([squares[:, part].sum(1) for part in PARTS], dim=-1)


class MatrixLinear(nn.Module):
    """Mixes channels, with different weights for I, A and S.

    Parameters
    ----------
    channels
        C.
    """

    def __init__(self, channels: int):
        super().__init__()
        linear = [nn.Linear(channels, channels, bias=False) for _ in PARTS]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in linear]))

    def forward(self, x: Tensor) -> Tensor:
        """From (N, 9, C) to (N, 9, C)."""
        return linear_per_component(x, self.weight)


def per_component(x: Tensor, dim: int) -> Tensor:
    """Values for I, A and S, size 3 in a dimension, repeated for the components of each: size 9."""
    sizes = [part.stop - part.start for part in PARTS]
    parts = zip(x.split(1, dim), sizes, strict=True)
    return torch.cat([part for part, size in parts for _ in range(size)], dim=dim)


def linear_per_component(x: Tensor, weight: Tensor) -> Tensor:
    """Linear layers of I, A and S without bias.

    Parameters
    ----------
    x
        Shape (N, 9, B).
    weight
        Shape (3, C, B).

    Returns
    -------
    Tensor
        Shape (N, 9, C).
    """
    # One product for each component: no copies of the parts.
    weights = per_component(weight, dim=0).transpose(1, 2)
    return torch.bmm(x.transpose(0, 1), weights).transpose(0, 1).contiguous()


class MatrixProduct(Float64Tensors):
    """Products of matrices, XY or, if they are symmetric, XY + YX.

    Under reflection, antisymmetric parts that are made of directions change their sign, and
    others do not. XY + YX keeps the two apart; XY mixes them.
    """

    basis: Tensor

    def __init__(self, symmetric: bool):
        super().__init__()
        self.symmetric = symmetric
        self.register_float64_buffer("basis", MATRIX_BASIS.reshape(9, 9).T, persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """From two fields (N, 9, C) to one."""
        return _Product(self.basis.to(x.dtype), self.symmetric)(0, x, y)

    def extra_repr(self) -> str:  # noqa: D102
        return f"symmetric={self.symmetric}"


class _Product(TrilinearForm):
    """Sum over atoms of tr(gᵀ xy), or of tr(gᵀ (xy + yx)), of three fields (N, 9, C)."""

    def __init__(self, basis: Tensor, symmetric: bool):
        self.basis = basis  # (9 elements of the matrix, 9 components)
        self.symmetric = symmetric

    def partial(self, n: int, x: Tensor, y: Tensor) -> Tensor:
        if is_traced(x.shape[0]):
            return self._written_out(n, x, y)
        x, y = self.matrices(x), self.matrices(y)
        if n > 0:  # gyᵀ for n = 1; xᵀg, where g comes first, for n = 2
            y = y.transpose(1, 2)
        product = _matmul(y, x) if n == 2 else _matmul(x, y)
        if self.symmetric:
            product = _matmul(x, y, product) if n == 2 else _matmul(y, x, product)
        return torch.bmm(self.basis.T.expand(x.shape[0], 9, 9), product.flatten(1, 2))

    def matrices(self, x: Tensor) -> Tensor:
        """From components (N, 9, C) to elements (N, 3, 3, C)."""
        return torch.bmm(self.basis.expand(x.shape[0], 9, 9), x).unflatten(1, (3, 3))

    def _written_out(self, n: int, x: Tensor, y: Tensor) -> Tensor:
        """The same number by number, of which compilers make one loop that stores nothing else."""
        X, Y = ([_combination(row, field.unbind(1)) for row in ELEMENTS] for field in (x, y))
        if n > 0:
            Y = [Y[3 * b + a] for a in range(3) for b in range(3)]
        pairs = [(Y, X) if n == 2 else (X, Y)]
        if self.symmetric:
            pairs.append((X, Y) if n == 2 else (Y, X))
        product = []
        for a, b in itertools.product(range(3), repeat=2):
            terms = [l[3 * a + k] * r[3 * k + b] for l, r in pairs for k in range(3)]
            product.append(functools.reduce(torch.add, terms))
        return torch.stack([_combination(row, product) for row in COMPONENTS], dim=1)


def _combination(row: list[tuple[int, float]], x: Sequence[Tensor]) -> Tensor:
    """Sum of some of x, times coefficients."""
    (first, factor), *rest = row
    result = factor * x[first]
    for k, factor in rest:
        result = result + factor * x[k]
    return result


def _matmul(x: Tensor, y: Tensor, start: Tensor | None = None) -> Tensor:
    """Products of matrices (N, 3, 3, C), channel by channel, added to what there is."""
    terms = [(x[:, :, a, None], y[:, None, a]) for a in range(3)]
    if start is None:
        (first_x, first_y), *terms = terms
        start = first_x * first_y
    for left, right in terms:
        start = start.addcmul_(left, right)
    return start


class NeighbourSum(TrilinearForm):
    r"""Sum over edges of :math:`g_i \cdot (f_{ij} \circ h_j)`: its derivative 0 is the messages.

    Of fields g (N, 9, C) and h (M, 9, C), of atoms and of atoms that may be neighbours, and
    filters f (P, 3, C) with values for I, A and S.

    Parameters
    ----------
    i, j
        Central atom and neighbour of each edge, shape (P,).
    symmetric
        Whether each edge stands for its reverse too, with the same filters.
    sizes
        N and M.
    """

    def __init__(self, i: Tensor, j: Tensor, symmetric: bool, sizes: tuple[int, int]):
        self.i, self.j, self.symmetric, self.sizes = i, j, symmetric, sizes

    def partial(self, n: int, x: Tensor, y: Tensor) -> Tensor:
        """Messages for n = 0; how the form depends on filters and neighbours for n = 1 and 2."""
        if n == 1:
            return self._filters(x, y)
        if n == 0:
            return self._messages(x, y, self.i, self.j, self.sizes[0])
        return self._messages(y, x, self.j, self.i, self.sizes[1])

    def _messages(self, f: Tensor, h: Tensor, i: Tensor, j: Tensor, size: int) -> Tensor:
        result = h.new_zeros(size, h.shape[1:].numel())
        for piece in pieces(f.shape[0], h.shape[1:].numel(), h.device):
            f_piece, ends = f[piece], [(i[piece], j[piece])]
            if self.symmetric:
                ends.append((j[piece], i[piece]))
            for to, source in ends:
                message = h.index_select(0, source)
                for n, part in enumerate(PARTS):
                    message[:, part].mul_(f_piece[:, n : n + 1])
                result.index_add_(0, to, message.flatten(1))
        return result.view(size, *h.shape[1:])

    def _filters(self, g: Tensor, h: Tensor) -> Tensor:
        result = []
        for piece in pieces(self.i.shape[0], h.shape[1:].numel(), h.device):
            i, j = self.i[piece], self.j[piece]
            products = g.index_select(0, i) * h.index_select(0, j)
            if self.symmetric:
                products.addcmul_(g.index_select(0, j), h.index_select(0, i))
            result.append(torch.stack([products[:, part].sum(1) for part in PARTS], dim=1))
        return torch.cat(result) if result else h.new_zeros(0, 3, h.shape[2])


class DensityExpansion(TrilinearForm):
    r"""Sum over edges of :math:`g \cdot (y_e \otimes \phi_e)`; its derivative 0 is the densities.

    Of components y (E, 9) and radial functions :math:`\phi` (E, B) of edges, and g (R, 9, B), of
    which each edge takes a row.

    Parameters
    ----------
    row
        Of each edge, shape (E,).
    n_rows
        R.
    """

    def __init__(self, row: Tensor, n_rows: int):
        self.row, self.n_rows = row, n_rows

    def partial(self, n: int, x: Tensor, y: Tensor) -> Tensor:
        """Densities (R, 9, B) for n = 0; how the form depends on y and φ for n = 1 and 2."""
        if n == 0:
            return self._densities(x, y)
        size, result = x.shape[1:].numel(), []
        for piece in pieces(self.row.shape[0], size, x.device):
            g = x.index_select(0, self.row[piece])  # (E, 9, B)
            if n == 1:
                result.append(torch.bmm(g, y[piece].unsqueeze(2)).squeeze(2))
            else:
                result.append(torch.bmm(y[piece].unsqueeze(1), g).squeeze(1))
        return torch.cat(result) if result else x.new_zeros(0, x.shape[n])

    def _densities(self, y: Tensor, phi: Tensor) -> Tensor:
        size = y.shape[1] * phi.shape[1]
        result = y.new_zeros(self.n_rows, size)
        for piece in pieces(y.shape[0], size, y.device):
            products = y[piece].unsqueeze(2) * phi[piece].unsqueeze(1)
            result.index_add_(0, self.row[piece], products.flatten(1))
        return result.view(-1, y.shape[1], phi.shape[1])
