from __future__ import annotations

import copy
import pickle

import pytest
import torch

from graph_pes.nn.equivariant import EquivariantLinear, Gate, normalised_silu, normalised_tanh
from graph_pes.nn.irreps import from_e3nn_rows, o3, parse_irreps, to_e3nn_rows

torch.set_num_threads(1)


def rows(irreps: str, n: int = 5) -> torch.Tensor:
    return torch.randn(n, parse_irreps(irreps).dim, dtype=torch.float64)


def test_linear_is_that_of_e3nn() -> None:
    irreps_in, irreps_out = "8x0e+3x0o+5x1o+2x2e", "4x0e+6x1o+3x2e"
    ours = EquivariantLinear(irreps_in, irreps_out).double()
    theirs = o3().Linear(irreps_in, irreps_out).double()
    theirs.weight.data = torch.cat([w.detach().flatten() for w in ours.weights])
    x = rows(irreps_in)
    found = to_e3nn_rows(ours(from_e3nn_rows(x, parse_irreps(irreps_in))))
    torch.testing.assert_close(found, theirs(x), rtol=1e-12, atol=1e-12)


def test_linear_leaves_out_what_it_cannot_make() -> None:
    linear = EquivariantLinear("8x0e", "4x0e+6x1o")
    assert str(linear.irreps_out) == "4x0e"
    with pytest.raises(ValueError, match="every irrep once, got 8x0e\\+2x0e: use 10x0e"):
        EquivariantLinear("8x0e+2x0e", "4x0e")


@pytest.mark.parametrize(
    "irreps", ["4x0e", "4x0e+3x0o", "3x0o+4x0e+2x1o+5x1e+1x2e", "2x1o+1x2e", "3x0o+2x1o"]
)
def test_gate(irreps: str) -> None:
    """Against e3nn's, whose input is in sorted order."""
    from e3nn.nn import Gate as Theirs

    gate, out = Gate(irreps), parse_irreps(irreps)
    act = {1: torch.nn.functional.silu, -1: torch.tanh}
    scalars = o3().Irreps([x for x in out if x.ir.l == 0])
    gated = o3().Irreps([x for x in out if x.ir.l > 0])
    gates = o3().Irreps([(mul, "0e") for mul, _ in gated])
    theirs = Theirs(
        scalars, [act[ir.p] for _, ir in scalars], gates, [act[1]] * len(gates), gated
    ).double()
    x = [torch.randn(5, ir.dim, mul, dtype=torch.float64) for mul, ir in gate.irreps_in]
    order = sorted(range(len(x)), key=lambda n: gate.irreps_in[n].ir)
    expected = from_e3nn_rows(theirs(to_e3nn_rows([x[n] for n in order])), scalars + gated)
    expected = {str(ir): b for (_, ir), b in zip(scalars + gated, expected, strict=True)}
    found = gate(x)
    assert len(found) == len(out)
    for (_, ir), block in zip(out, found, strict=True):
        torch.testing.assert_close(block, expected[str(ir)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", [normalised_silu, normalised_tanh])
def test_activations_have_unit_variance(activation) -> None:
    x = torch.linspace(-12, 12, 100001, dtype=torch.float64)
    density = torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5
    assert float(torch.trapezoid(activation(x) ** 2 * density, x)) == pytest.approx(1, abs=4e-3)


def test_activations_are_those_of_e3nn() -> None:
    from e3nn.math import normalize2mom

    x = torch.randn(50, dtype=torch.float64)
    for ours, theirs in (
        (normalised_silu, torch.nn.functional.silu),
        (normalised_tanh, torch.tanh),
    ):
        torch.testing.assert_close(ours(x), normalize2mom(theirs)(x), rtol=1e-12, atol=0)


def test_copies() -> None:
    x = [torch.randn(2, 1, 8), torch.randn(2, 3, 4)]
    linear = EquivariantLinear("8x0e+4x1o", "4x0e+6x1o")
    for other in (copy.deepcopy(linear), pickle.loads(pickle.dumps(linear))):
        for a, b in zip(linear(x), other(x), strict=True):
            assert torch.equal(a, b)
