"""Products of tensors written out number by number, for compilers.

These make few loops of it, whose vectors are the channels, and which store little between them:
several times as fast as the same operations as batched matrix products. Operation by operation
it would be slow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graph_pes.tensors import sum_of_products

from .irreps import Blocks
from .paths import Paths
from .polynomials import Term

#: Products of more terms than this are not written out, since compiling them would take too long.
MAX_TERMS = 256

#: Mixtures of at most this many functions of the distance are computed where they multiply
#: features, rather than stored for every edge and channel.
MAX_FACTORS = 16

#: Indices m2, m1 and m3 of coupling coefficients that are not zero, and their values.
Terms = list[tuple[int, int, int, float]]


def written_terms(coefficients: Sequence[Tensor]) -> list[list[tuple]] | None:
    """Indices and values of what is not zero in each of several tensors; None if that is too much.

    Of couplings of shape (2 l2 + 1, 2 l1 + 1, 2 l3 + 1) these are `Terms`, and of those of
    polynomials, see `Term`, `PolynomialTerms`.
    """
    places = [C.nonzero() for C in coefficients]
    if sum(map(len, places)) > MAX_TERMS:
        return None
    return [
        [(*m, value) for m, value in zip(at.tolist(), C[at.unbind(1)].tolist(), strict=True)]
        for C, at in zip(coefficients, places, strict=True)
    ]


def written_out(
    paths: Paths,
    terms: Sequence[Terms],
    x: Sequence[Tensor],
    Y: Tensor,
    phi: Tensor,
    V: Tensor,
    neighbours: Tensor,
) -> Blocks:
    """The same as `NeighbourTensorProduct` of its arguments, with the terms of each path."""
    N, D = neighbours.shape
    # By component, so that backward passes add up rows of (M, C), without copies of slices.
    h = [[component[neighbours] for component in block.unbind(1)] for block in x]
    y = [part.unbind(2) for part in Y.view(N, D, -1).split(paths.harmonics, dim=2)]
    weights = _mixtures(phi.view(N, D, -1), V, paths.widths)
    blocks: list[list[Tensor]] = [[] for _ in paths.targets]
    for p, w, of_path in zip(paths.paths, weights, terms, strict=True):
        messages = [component * w for component in h[p.source]]
        sums = _coupled(messages, y[p.harmonic], of_path)
        blocks[p.target].append(torch.stack(sums, dim=1))
    return [torch.cat(block, dim=2) for block in blocks]


def _mixtures(phi: Tensor, V: Tensor, widths: Sequence[int]) -> Sequence[Tensor]:
    """The weights of each path (N, D, C), of functions phi (N, D, Q) and their mixtures V."""
    if V.shape[0] > MAX_FACTORS:
        return (phi @ V).split(widths, dim=2)
    functions, V = phi.unsqueeze(3).unbind(2), V.contiguous()  # channels side by side
    return [sum_of_products(functions, V_p.unbind(0)) for V_p in V.split(widths, dim=1)]


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


#: Indices of a path, of components of the result, of the other factors and of both of the pair,
#: where a coupling coefficient is not zero, and its value.
PolynomialTerms = list[tuple[int, int, int, int, int, float]]


def written_polynomials(
    terms: Sequence[Term],
    written: Sequence[PolynomialTerms],
    sizes: Sequence[int],
    w: Tensor,
    x: Sequence[Tensor],
) -> Blocks:
    """The same as `Polynomials` of its arguments, with the couplings of each term."""
    features, weights = [block.unbind(1) for block in x], w.unbind(1)
    pairs: dict[tuple[int, int, int, int], Tensor] = {}
    results: list[dict[int, Tensor]] = [{} for _ in sizes]
    for term, couplings in zip(terms, written, strict=True):
        others = [features[factor] for factor in term.others]
        sums: dict[tuple[int, int, int], Tensor] = {}
        for path, m, row, m_a, m_b, value in couplings:
            (a, b), key = term.pair, (*term.pair, m_a, m_b)
            if key not in pairs:
                pairs[key] = features[a][m_a] * features[b][m_b]
            _add(sums, (path, m, row), value * pairs[key])
        of_paths: dict[tuple[int, int], Tensor] = {}
        for (path, m, row), total in sums.items():
            for factor in reversed(others):
                row, k = divmod(row, len(factor))
                total = total * factor[k]
            _add(of_paths, (path, m), total)
        for (path, m), total in of_paths.items():
            _add(results[term.target], m, weights[term.first_path + path] * total)
    zero = torch.zeros_like(w[:, 0])
    return [
        torch.stack([components.get(m, zero) for m in range(size)], dim=1)
        for components, size in zip(results, sizes, strict=True)
    ]


def _add(totals: dict, key: object, more: Tensor) -> None:
    totals[key] = totals[key] + more if key in totals else more
