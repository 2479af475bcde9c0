r"""Sums over neighbours of features times filters from a table, and their derivatives.

What compilers make of them are loops over neighbours and channels that look filters up where these
multiply a feature, and store nothing of the size of edges times channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graph_pes.tensors import sum_of_products

from .radial_table import RadialTable


def tabulated_messages(
    table: RadialTable,
    r: Tensor,
    neighbours: Tensor,
    x: Sequence[Tensor],
    directions: Tensor | None = None,
    v: Tensor | None = None,
) -> list[Tensor]:
    r"""Sums over neighbours of as many features as there are filters :math:`W_n` in a table.

    .. math::

        s_i = \sum_j W_0(r_{ij}) \, x_{0j}, \qquad
        \mathbf{v}_i = \sum_j W_1(r_{ij}) \, x_{1j} \, \hat{\mathbf{r}}_{ij}
        + W_2(r_{ij}) \, x_{2j} \, \mathbf{v}_j

    The derivatives can't be differentiated again.

    Parameters
    ----------
    table
        Of the filters, one after the other, each of C channels.
    r
        Distances, shape (N D, 1).
    neighbours
        Shape (N, D), of M atoms.
    x
        One to three features, each of shape (M, C).
    directions
        Unit vectors, shape (N D, 3), if there is :math:`x_1`.
    v
        Shape (M, 3, C), if there is :math:`x_2`.

    Returns
    -------
    list[Tensor]
        s (N, C), and v (N, 3, C) if there are directions.
    """
    N, D = neighbours.shape
    r = r.view(N, D)
    k, s = table.places(r.detach())
    # Side by side, so that the rows that compilers make loops' vectors of are those of channels.
    places = _stored(torch.stack([k.to(s.dtype), s], dim=-1))
    u = None if directions is None else directions.view(N, D, 3)
    components = () if v is None else v.unbind(1)
    scalars, *vectors = _Messages.apply(r, u, places, neighbours, table, len(x), *x, *components)
    return [scalars, torch.stack(vectors, dim=1)] if vectors else [scalars]


def _stored(x: Tensor) -> Tensor:
    """The same, which compilers don't compute again for every channel."""
    x = x.contiguous()
    return x.as_strided(x.shape, x.stride())


class _Messages(torch.autograd.Function):
    """See `tabulated_messages`: sums by component."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        r: Tensor,
        u: Tensor | None,
        places: Tensor,
        neighbours: Tensor,
        table: RadialTable,
        n_filters: int,
        *features: Tensor,
    ) -> tuple[Tensor, ...]:
        """Sums over neighbours, (N, C) each."""
        x, v = features[:n_filters], features[n_filters:]
        u = None if u is None else _stored(u)
        ctx.table, ctx.n_filters, ctx.has_directions = table, n_filters, u is not None
        ctx.save_for_backward(places, neighbours, *([] if u is None else [u]), *features)
        W = [_values(c, places) for c in table.coefficients.chunk(n_filters, -1)]
        messages = [filters * row[neighbours] for filters, row in zip(W, x, strict=True)]
        if u is None:
            return (messages[0].sum(1),)
        vectors = [component.unsqueeze(2) * messages[1] for component in u.unbind(2)]
        if v:
            of_v = [component[neighbours] * messages[2] for component in v]
            vectors = [a + b for a, b in zip(vectors, of_v, strict=True)]
        return messages[0].sum(1), *(component.sum(1) for component in vectors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of all inputs; of the filters, with respect to the distance."""
        places, neighbours, *saved = ctx.saved_tensors
        u = saved.pop(0).unbind(2) if ctx.has_directions else ()
        x, v = saved[: ctx.n_filters], saved[ctx.n_filters :]
        M = x[0].shape[0]
        tables = ctx.table.coefficients.chunk(ctx.n_filters, -1)
        W = [_values(c, places) for c in tables]
        x_j = [row[neighbours] for row in x]
        g, *G = [gradient.unsqueeze(1) for gradient in gradients]
        # of the product of each filter with its feature
        of_products = [g]
        if u:
            of_products.append(sum_of_products(G, [component.unsqueeze(2) for component in u]))
        if v:
            of_products.append(sum_of_products(G, [component[neighbours] for component in v]))
        slopes = [_slopes(c, places) for c in tables]
        terms = [a * b * c for a, b, c in zip(slopes, x_j, of_products, strict=True)]
        of_r = sum(terms[1:], terms[0]).sum(2) * (ctx.table.intervals / ctx.table.cutoff)
        of_u = torch.stack([(a * W[1] * x_j[1]).sum(2) for a in G], dim=2) if u else None
        of_x = [_to_neighbours(a * b, neighbours, M) for a, b in zip(W, of_products, strict=True)]
        of_v = [_to_neighbours(W[2] * x_j[2] * a, neighbours, M) for a in G] if v else []
        return of_r, of_u, None, None, None, None, *of_x, *of_v


def _coefficients(table: Tensor, places: Tensor) -> tuple[list[Tensor], Tensor]:
    """Of the cubics of each place, (N, D, C) each, and the positions in their intervals."""
    k = places[..., 0].long()
    return [table[:, power][k] for power in range(4)], places[..., 1:]


def _values(table: Tensor, places: Tensor) -> Tensor:
    (c0, c1, c2, c3), s = _coefficients(table, places)
    return ((c3 * s + c2) * s + c1) * s + c0


def _slopes(table: Tensor, places: Tensor) -> Tensor:
    (_, c1, c2, c3), s = _coefficients(table, places)
    return (c3 * (3 * s) + 2 * c2) * s + c1


def _to_neighbours(x: Tensor, neighbours: Tensor, size: int) -> Tensor:
    """Sum x (N, D, C) over the edges that lead to each atom: shape (size, C)."""
    return x.new_zeros(size, x.shape[-1]).index_put((neighbours,), x, accumulate=True)
