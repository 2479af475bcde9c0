"""Pure functions on tensors: no graphs, no modules, no state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Row and column of each component in Voigt order (ASE's): xx, yy, zz, yz, xz, xy.
_VOIGT_ROWS = (0, 1, 2, 1, 0, 0)
_VOIGT_COLUMNS = (0, 1, 2, 2, 2, 1)


def voigt_6_to_full_3x3(voigt: Tensor) -> Tensor:
    """Symmetric matrix from its six components in ASE's order, xx, yy, zz, yz, xz, xy.

    Parameters
    ----------
    voigt
        Shape (..., 6).

    Returns
    -------
    Tensor
        Shape (..., 3, 3).

    Examples
    --------
    >>> voigt_6_to_full_3x3(torch.tensor([1, 2, 3, 4, 5, 6]))
    tensor([[1, 6, 5],
            [6, 2, 4],
            [5, 4, 3]])
    """
    xx, yy, zz, yz, xz, xy = voigt.unbind(-1)
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], dim=-1).unflatten(-1, (3, 3))


def full_3x3_to_voigt_6(matrix: Tensor) -> Tensor:
    """Six components, in ASE's order xx, yy, zz, yz, xz, xy, of a symmetric matrix.

    The off-diagonal pairs are averaged.

    Parameters
    ----------
    matrix
        Shape (..., 3, 3).

    Returns
    -------
    Tensor
        Shape (..., 6).
    """
    symmetric = (matrix + matrix.transpose(-1, -2)) / 2
    return symmetric[..., _VOIGT_ROWS, _VOIGT_COLUMNS]


def determinant_3x3(matrix: Tensor) -> Tensor:
    """Determinant of (..., 3, 3) matrices, written out: exact shapes, no LAPACK call."""
    a, b, c = matrix.unbind(-2)
    return (a * torch.linalg.cross(b, c)).sum(-1)


def safe_norm(x: Tensor, dim: int = -1, epsilon: float = 0.0) -> Tensor:
    r"""Euclidean norm :math:`\sqrt{\sum_k x_k^2 + \epsilon}` whose derivatives are finite.

    With ``epsilon = 0`` the gradient at :math:`x = 0` is zero rather than NaN.

    Parameters
    ----------
    x
        Shape (..., D).
    dim
        The dimension that is summed over.
    epsilon
        Added under the root: 0 for exact norms, positive for norms smooth at the origin.
    """
    squared = (x * x).sum(dim)
    if epsilon > 0:
        return (squared + epsilon).sqrt()
    is_zero = squared == 0
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squared).sqrt())


def index_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum rows that share an index: ``out[n] = Σ_{k: index[k] = n} values[k]``.

    Parameters
    ----------
    values
        Shape (K, ...).
    index
        Shape (K,), integers in [0, size).
    size
        Number of rows of the result.

    Returns
    -------
    Tensor
        Shape (size, ...), in the dtype of ``values``.

    Examples
    --------
    >>> index_sum(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2, 2]), 3)
    tensor([1., 0., 5.])
    """
    # Whole rows are added: two-dimensional operands take the vectorised CPU path. Compilers make
    # faster loops of all dimensions.
    rows = values.flatten(1) if values.dim() > 2 and not is_traced(size) else values
    zeros = rows.new_zeros((size, *rows.shape[1:]))
    return zeros.index_add(0, index, rows).view((size, *values.shape[1:]))


def left_aligned_mul(x: Tensor, y: Tensor) -> Tensor:
    """Multiply with broadcasting from the left: x (N, a, b, ...) times y (N,) or (N, a, ...)."""
    return x * y.reshape(y.shape + (1,) * (x.dim() - y.dim()))


def left_aligned_div(x: Tensor, y: Tensor) -> Tensor:
    """Divide with broadcasting from the left: x (N, a, b, ...) over y (N,) or (N, a, ...)."""
    return x / y.reshape(y.shape + (1,) * (x.dim() - y.dim()))


def gradient_is_wanted(tensor: Tensor) -> bool:
    """Whether the backward pass that is running needs the gradient with respect to a tensor.

    Forces need none with respect to weights, which ``ctx.needs_input_grad`` does not tell.
    """
    if not tensor.requires_grad or torch.compiler.is_compiling():
        return tensor.requires_grad
    try:
        node = torch.autograd.graph.get_gradient_edge(tensor).node
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf whose gradient was asked for
        return True


def sum_of_products(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """The sum of the products of tensors, each with the other of the same place.

    Examples
    --------
    >>> sum_of_products([torch.ones(2), torch.ones(2)], [torch.ones(2), torch.full((2,), 3.0)])
    tensor([4., 4.])
    """
    first, *others = [a * b for a, b in zip(x, y, strict=True)]
    return sum(others, first)


def is_traced(size: int) -> bool:
    """Whether a computation with this number of rows is being traced, for a compiler."""
    return isinstance(size, torch.SymInt) or torch.compiler.is_compiling()
