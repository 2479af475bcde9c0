from __future__ import annotations

import pytest
import torch
from e3nn import o3
from torch.fx.experimental.proxy_tensor import make_fx

from graph_pes.nn import folded_polynomials, polynomials, symmetric_contraction
from graph_pes.nn.couplings import dense, symmetric_couplings
from graph_pes.nn.folded_polynomials import Kinds, sorted_kinds
from graph_pes.nn.irreps import Blocks, from_e3nn_rows, to_e3nn_rows
from graph_pes.nn.symmetric_contraction import SymmetricContraction

C, ATTRIBUTES, N = 3, 2, 7


def with_channels(irreps: str) -> o3.Irreps:
    return o3.Irreps([(C, ir) for _, ir in o3.Irreps(irreps)])


def contraction(irreps_in: str, irreps_out: str, correlation: int) -> SymmetricContraction:
    torch.manual_seed(0)
    ins, outs = with_channels(irreps_in), with_channels(irreps_out)
    return SymmetricContraction(ins, outs, correlation, ATTRIBUTES).double()


def features(module: SymmetricContraction) -> tuple[Blocks, torch.Tensor]:
    blocks = [torch.randn(N, ir.dim, C, dtype=torch.float64) for _, ir in module.irreps_in]
    return blocks, torch.randn(N, ATTRIBUTES, dtype=torch.float64)


def reference(module: SymmetricContraction, x: Blocks, attributes: torch.Tensor) -> Blocks:
    """The definition, with dense couplings."""
    irreps = o3.Irreps([(1, ir) for _, ir in module.irreps_in])
    A = torch.cat(x, dim=1)
    result = []
    for _, ir in module.irreps_out:
        total = torch.zeros(N, ir.dim, C, dtype=torch.float64)
        for order in range(1, module.correlation + 1):
            if f"{ir}_{order}" not in module.weights:
                continue
            U = dense(symmetric_couplings(irreps, ir, order), irreps)
            letters = "abcd"[:order]
            factors = ",".join(f"n{letter}x" for letter in letters)
            total = total + torch.einsum(
                f"pm{letters},zpx,nz,{factors}->nmx",
                U,
                module.weights[f"{ir}_{order}"],
                attributes,
                *[A] * order,
            )
        result.append(total)
    return result


CASES = [
    ("0e + 1o + 2e + 3o", "0e", 3),
    ("0e + 1o + 2e + 3o", "0e + 1o", 3),
    ("0e + 1o + 2e", "0e + 1o + 1e + 2e", 3),
    ("0e + 1o + 2e", "0e + 2e", 2),
    ("0e + 1o", "0e + 1o", 1),
    ("0e + 1o", "0e + 1o", 4),
    ("0e + 1o + 2e", "0e", 4),
    ("0o + 0e + 1e + 1o", "0o + 1e", 3),
]


@pytest.mark.parametrize("case", [CASES[0], CASES[3]])
def test_traced(case: tuple[str, str, int]) -> None:
    """Then it is written out, for any number of atoms: values and derivatives."""
    module = contraction(*case)

    def derivatives(attributes: torch.Tensor, *x: torch.Tensor) -> list[torch.Tensor]:
        leaves = [block.detach().requires_grad_() for block in x]
        found = module(leaves, attributes)
        return [*found, *torch.autograd.grad(sum(f.square().sum() for f in found), leaves)]

    x, attributes = features(module)
    make = make_fx(derivatives, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    traced = make(torch.cat([attributes] * 4), *(torch.cat([block] * 4) for block in x))
    found = traced(attributes, *x)
    torch.testing.assert_close(found, derivatives(attributes, *x))
    torch.testing.assert_close(found[: len(module.irreps_out)], reference(module, x, attributes))


@pytest.mark.parametrize(("irreps_in", "irreps_out", "correlation"), CASES)
def test_definition(irreps_in: str, irreps_out: str, correlation: int) -> None:
    module = contraction(irreps_in, irreps_out, correlation)
    x, attributes = features(module)
    expected = reference(module, x, attributes)
    for found, block in zip(module(x, attributes), expected, strict=True):
        torch.testing.assert_close(found, block, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("irreps_in", "irreps_out", "correlation"), CASES)
def test_equivariance(irreps_in: str, irreps_out: str, correlation: int, default_dtype) -> None:
    """Under a rotation and a reflection, in e3nn's representation of them."""
    default_dtype(torch.float64)  # to which e3nn's matrices are rounded
    module = contraction(irreps_in, irreps_out, correlation)
    x, attributes = features(module)
    R = -o3.rand_matrix(dtype=torch.float64)
    rotated = to_e3nn_rows(x) @ module.irreps_in.D_from_matrix(R).T
    found = module(from_e3nn_rows(rotated, module.irreps_in), attributes)
    expected = to_e3nn_rows(module(x, attributes)) @ module.irreps_out.D_from_matrix(R).T
    torch.testing.assert_close(to_e3nn_rows(found), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("correlation", [2, 3, 4])
def test_derivatives(correlation: int) -> None:
    """First and second ones, with respect to everything."""
    module = contraction("0e + 1o", "0e + 1o", correlation)
    x, attributes = features(module)
    inputs = [t[:2].clone().requires_grad_() for t in (attributes, *x)]

    def function(attributes: torch.Tensor, *x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(module(x, attributes))

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = contraction("0e + 1o + 2e", "0e + 1o", 3)
    x, attributes = features(module)
    x = [block.requires_grad_() for block in x]
    parameters = list(module.parameters())

    def everything() -> list[torch.Tensor]:
        result = module(x, attributes)
        total = sum((block**2).sum() for block in result)
        return [*result, *torch.autograd.grad(total, [*x, *parameters])]

    at_once = everything()
    monkeypatch.setattr(polynomials, "CHUNK", 2 * C)  # two atoms
    for found, expected in zip(everything(), at_once, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_no_atoms() -> None:
    module = contraction("0e + 1o", "0e", 3)
    x = [torch.zeros(0, ir.dim, C, dtype=torch.float64) for _, ir in module.irreps_in]
    (result,) = module(x, torch.zeros(0, ATTRIBUTES, dtype=torch.float64))
    assert result.shape == (0, 1, C)


def test_what_cannot_be_made_is_left_out() -> None:
    module = contraction("0e + 1o", "0e + 0o", 2)
    assert module.irreps_out == with_channels("0e")


def test_errors() -> None:
    with pytest.raises(ValueError, match="same number of channels"):
        SymmetricContraction("2x0e + 3x1o", "2x0e", 2, 1)
    with pytest.raises(ValueError, match="correlation of 1, 2, 3 or 4, got 5"):
        SymmetricContraction("2x0e", "2x0e", 5, 1)


@pytest.mark.parametrize(("irreps_in", "irreps_out", "correlation"), CASES)
def test_folded_coefficients(
    irreps_in: str, irreps_out: str, correlation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Atoms of the same kind may be treated together, with equal results."""
    monkeypatch.setattr(symmetric_contraction, "FOLD_FROM", 1)
    monkeypatch.setattr(folded_polynomials, "CHUNK", 40)  # a few channels
    module = contraction(irreps_in, irreps_out, correlation)
    x, table = features(module)
    x = [(0.5 * block).requires_grad_() for block in x]
    kinds = torch.tensor([14, 1, 14, 6, 1, 14, 1])
    attributes = table[torch.tensor([0, 1, 0, 2, 1, 0, 1])]
    inputs = [*x, *module.parameters()]

    def everything(kinds: Kinds | None) -> list[torch.Tensor]:
        result = module(x, attributes, kinds)
        total = sum((block**3).sum() for block in result)
        forces = torch.autograd.grad(total, x, retain_graph=True)
        gradients = torch.autograd.grad(total, inputs, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in gradients), inputs)
        return [*result, *forces, *gradients, *second]

    for found, value in zip(everything(sorted_kinds(kinds)), everything(None), strict=True):
        tolerance = 1e-9 * (1 + value.detach().abs().max().item())
        torch.testing.assert_close(found, value, rtol=1e-9, atol=tolerance)
