r"""Trilinear forms, whose derivatives of any order cost no more memory than their arguments.

A form :math:`T(a, b, c)` is linear in each of three tensors, such as
:math:`\sum_e f_e \, h_{j(e)} \, g_{i(e)}`. What networks compute is one of its three partial
derivatives, here the messages :math:`\partial T / \partial g_i = \sum_{e \to i} f_e h_{j(e)}`;
and the derivative of a partial derivative is another one of them. A form that can compute all
three (in pieces that stay in the cache, say) can thus be differentiated again and again, while
nothing but the arguments is kept for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from graph_pes.tensors import is_traced

#: Numbers that are worked on at once on a CPU: a megabyte in single precision.
_FLOATS_PER_PIECE = 2**18


class TrilinearForm(ABC):
    """A number that is linear in each of three tensors, its arguments 0, 1 and 2.

    Examples
    --------
    >>> class Dot(TrilinearForm):
    ...     def partial(self, n, x, y):
    ...         return x * y
    >>> x = torch.tensor([2.0], requires_grad=True)
    >>> y = torch.tensor([3.0])
    >>> torch.autograd.grad(Dot()(0, x, y), x)
    (tensor([3.]),)
    """

    @abstractmethod
    def partial(self, n: int, x: Tensor, y: Tensor) -> Tensor:
        """Derivative of the form with respect to argument ``n``, at the other two, in order."""

    def __call__(self, n: int, x: Tensor, y: Tensor) -> Tensor:
        """As `partial`, and differentiable."""
        return _Partial.apply(self, n, x, y)


class _Partial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, form: TrilinearForm, n: int, x: Tensor, y: Tensor) -> Tensor:
        ctx.form, ctx.n = form, n
        ctx.save_for_backward(x, y)
        return form.partial(n, x, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), n = gradients, ctx.n
        x, y = ctx.saved_tensors
        of_x, of_y = (k for k in range(3) if k != n)
        # The gradient takes the place of argument n.
        dx = (
            ctx.form(of_x, *_ordered((n, gradient), (of_y, y))) if ctx.needs_input_grad[2] else None
        )
        dy = (
            ctx.form(of_y, *_ordered((n, gradient), (of_x, x))) if ctx.needs_input_grad[3] else None
        )
        return None, None, dx, dy


def _ordered(a: tuple[int, Tensor], b: tuple[int, Tensor]) -> tuple[Tensor, Tensor]:
    return (a[1], b[1]) if a[0] < b[0] else (b[1], a[1])


def pieces(rows: int, floats_per_row: int, device: torch.device) -> Iterator[slice]:
    """Slices that together cover a number of rows: small enough for the cache of a CPU.

    Everything is one piece on other devices, and when the computation is traced, since the
    number of rows is not known then.
    """
    if is_traced(rows) or device.type != "cpu":
        yield slice(None)
        return
    step = max(1, _FLOATS_PER_PIECE // floats_per_row)
    for start in range(0, rows, step):
        yield slice(start, start + step)
