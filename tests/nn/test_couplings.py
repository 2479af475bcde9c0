from __future__ import annotations

import itertools
import math

import pytest
import torch
from e3nn import o3

from graph_pes.nn.couplings import dense, symmetric_couplings

IRREPS = [o3.Irreps("0e + 1o + 2e + 3o"), o3.Irreps("0e + 0o + 1o + 1e + 2e")]


def couplings(irreps: o3.Irreps, target: str, order: int) -> torch.Tensor:
    return dense(symmetric_couplings(irreps, o3.Irrep(target), order), irreps)


#: Irreps, orders and targets for which there are couplings.
CASES = [
    (irreps, order, target)
    for irreps, order, target in itertools.product(
        IRREPS, (1, 2, 3), ("0e", "0o", "1o", "1e", "2e")
    )
    if symmetric_couplings(irreps, o3.Irrep(target), order)
]


def test_only_five_cases_have_no_coupling() -> None:
    assert len(CASES) == 2 * 3 * 5 - 5


@pytest.mark.parametrize(("irreps", "order", "target"), CASES, ids=str)
def test_they_are_symmetric_equivariant_and_orthonormal(
    irreps: o3.Irreps, target: str, order: int, default_dtype
) -> None:
    default_dtype(torch.float64)  # to which e3nn's matrices are rounded
    U = couplings(irreps, target, order)
    for permutation in itertools.permutations(range(order)):
        torch.testing.assert_close(U.permute(0, 1, *(2 + n for n in permutation)), U)
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(irreps.dim, dtype=torch.float64, generator=generator)
    R = -o3.rand_matrix(dtype=torch.float64)
    letters = "abc"[:order]

    def contract(A: torch.Tensor) -> torch.Tensor:
        return torch.einsum(f"pm{letters},{','.join(letters)}->pm", U, *[A] * order)

    D_in, D_out = (x.D_from_matrix(R) for x in (irreps, o3.Irreps(target)))
    torch.testing.assert_close(contract(D_in @ A), contract(A) @ D_out.T, rtol=1e-9, atol=1e-9)
    products = U.flatten(1) @ U.flatten(1).T
    expected = o3.Irrep(target).dim * torch.eye(len(U), dtype=torch.float64)
    torch.testing.assert_close(products, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("l_max", "target", "order"),
    [(3, "0e", 2), (3, "0e", 3), (3, "1o", 3), (2, "2e", 3), (2, "0e", 4), (1, "1o", 4)],
)
def test_there_are_as_many_as_there_can_be(l_max: int, target: str, order: int) -> None:
    """The character formula: how often an irrep occurs in a symmetric power."""
    nodes = torch.linspace(0, math.pi, 4001, dtype=torch.float64)

    def character(l: int, angle: torch.Tensor) -> torch.Tensor:
        return sum((torch.cos(m * angle) for m in range(-l, l + 1)), torch.zeros_like(angle))

    # Traces of powers of rotations, with and without inversion.
    total = 0.0
    ir = o3.Irrep(target)
    for sign in (1, -1):
        traces = [
            sum((sign**k) ** l * character(l, k * nodes) for l in range(l_max + 1))
            for k in range(1, order + 1)
        ]
        power = [torch.ones_like(nodes)]
        for n in range(1, order + 1):  # Newton's identities
            power.append(sum(traces[k - 1] * power[n - k] for k in range(1, n + 1)) / n)
        parity = 1 if sign == 1 else ir.p
        density = power[order] * character(ir.l, nodes) * parity * (1 - torch.cos(nodes)) / math.pi
        total += torch.trapezoid(density, nodes).item() / 2
    irreps = o3.Irreps.spherical_harmonics(l_max)
    assert len(couplings(irreps, target, order)) == round(total)
    assert total == pytest.approx(round(total), abs=1e-3)


def test_first_order_is_the_feature_itself() -> None:
    U = couplings(o3.Irreps("0e + 1o"), "1o", 1)
    torch.testing.assert_close(U, torch.eye(4, dtype=torch.float64)[None, 1:])
