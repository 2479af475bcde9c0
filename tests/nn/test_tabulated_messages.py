"""Sums over neighbours with filters from a table, and their derivatives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_pes.nn.radial_table import RadialTable
from graph_pes.nn.tabulated_messages import tabulated_messages

CUTOFF, C = 4.0, 3


def table_of(n_filters: int) -> RadialTable:
    """Of filters that differ, and end smoothly at the cutoff."""
    n = torch.arange(n_filters * C, dtype=torch.float64)

    def filters(r: torch.Tensor) -> torch.Tensor:
        return (1 - r / CUTOFF).clamp(min=0).unsqueeze(1) ** 3 * torch.cos(n * r.unsqueeze(1))

    return RadialTable(filters, intervals=16, cutoff=CUTOFF)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 3), st.integers(0, 3), st.integers(1, 4), st.integers(0, 2), st.integers(0, 99)
)
def test_sums_and_derivatives(n_filters: int, N: int, D: int, ghosts: int, seed: int) -> None:
    torch.manual_seed(seed)
    table, M = table_of(n_filters), N + ghosts
    neighbours = torch.randint(max(M, 1), (N, D))
    r = (5 * torch.rand(N * D, 1, dtype=torch.float64)).requires_grad_()  # some beyond the cutoff
    u = torch.randn(N * D, 3, dtype=torch.float64, requires_grad=True)
    x = [torch.randn(M, C, dtype=torch.float64, requires_grad=True) for _ in range(n_filters)]
    v = torch.randn(M, 3, C, dtype=torch.float64, requires_grad=True)
    directions, vectors = (u if n_filters > 1 else None), (v if n_filters > 2 else None)
    found = tabulated_messages(table, r, neighbours, x, directions, vectors)

    W = table(r).view(N, D, n_filters, C)
    expected = [(W[:, :, 0] * x[0][neighbours]).sum(1)]
    if n_filters > 1:
        along = (W[:, :, 1] * x[1][neighbours]).unsqueeze(2) * u.view(N, D, 3, 1)
        if n_filters > 2:
            along = along + (W[:, :, 2] * x[2][neighbours]).unsqueeze(2) * v[neighbours]
        expected.append(along.sum(1))
    inputs = [r, *x, *([u] if n_filters > 1 else []), *([v] if n_filters > 2 else [])]
    weights = [torch.randn_like(value) for value in expected]
    gradients = [
        torch.autograd.grad([(a * b).sum() for a, b in zip(sums, weights, strict=True)], inputs)
        for sums in (found, expected)
    ]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-11)


def test_derivatives_that_do_not_exist_are_an_error() -> None:
    r = torch.full((1, 1), 2.0, dtype=torch.float64, requires_grad=True)
    x = torch.ones(1, C, dtype=torch.float64)
    (sums,) = tabulated_messages(table_of(1), r, torch.zeros(1, 1, dtype=torch.long), [x])
    (slope,) = torch.autograd.grad((sums**2).sum(), r, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
