from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from graph_pes.nn import tensor_product
from graph_pes.nn.irreps import Blocks, clebsch_gordan, from_e3nn_rows, o3, to_e3nn_rows
from graph_pes.nn.paths import Path
from graph_pes.nn.tensor_product import NeighbourTensorProduct

torch.set_num_threads(1)
N, D, Q = 5, 4, 3
CASES = [
    ("4x0e", "0e+1o+2e", "0e+1o+2e"),
    ("4x0e+3x1o", "0e+1o", "0e+1o"),
    ("2x0o+4x0e+3x1o+2x1e+2x2e", "0e+1o+2e", "0o+0e+1o+1e+2o+2e"),
    ("2x0e+3x1o+2x2e", "0e+1o+2e+3o", "0e"),
    ("2x0e+3x1e", "0e+1e", "0e+1e"),
    ("2x3o+3x2e", "0e+1o+2e+3o", "1o+3o+4e"),
]


def inputs(product: NeighbourTensorProduct, dtype=torch.float64) -> tuple[Blocks, list]:
    """Features, then harmonics (the first is 1), radial functions, their mixture, neighbours."""
    x = [torch.randn(N, ir.dim, mul, dtype=dtype) for mul, ir in product.irreps_in]
    Y = torch.randn(N * D, product.harmonics.dim, dtype=dtype)
    Y[:, 0] = 1
    phi, V = torch.randn(N * D, Q, dtype=dtype), torch.randn(Q, product.n_weights, dtype=dtype)
    return x, [Y, phi, V, torch.randint(0, N, (N, D))]


def by_e3nn(
    default_dtype, product: NeighbourTensorProduct, x: Blocks, Y, phi, V, neighbours
) -> torch.Tensor:
    """The same sum by e3nn, in its order."""
    paths = product.paths.paths
    each = [(p.channels, product.irreps_out[p.target].ir) for p in paths]
    instructions = [(p.source, p.harmonic, k, "uvu", True) for k, p in enumerate(paths)]
    default_dtype(torch.float64)  # to which their constants are rounded
    theirs = o3().TensorProduct(
        product.irreps_in,
        product.harmonics,
        each,
        instructions,
        shared_weights=False,
        internal_weights=False,
    )
    # Versions of e3nn differ in signs.
    signs = [torch.full((p.channels,), sign_in_e3nn(p, product)) for p in paths]
    messages = theirs(to_e3nn_rows(x)[neighbours.flatten()], Y, phi @ V * torch.cat(signs))
    return messages.view(N, D, -1).sum(1)


def sign_in_e3nn(path: Path, product: NeighbourTensorProduct) -> float:
    """Whether e3nn has our coupling coefficients, or minus those."""
    l1, l2 = product.irreps_in[path.source].ir.l, product.harmonics[path.harmonic].ir.l
    degrees = (l1, l2, product.irreps_out[path.target].ir.l)
    overlap = (clebsch_gordan(*degrees) * o3().wigner_3j(*degrees)).sum()
    assert abs(overlap) == pytest.approx(1)
    return float(overlap.sign())


@pytest.mark.parametrize("case", CASES)
def test_against_e3nn(case: tuple[str, str, str], default_dtype) -> None:
    product = NeighbourTensorProduct(*case)  # made in single precision
    x, others = inputs(product)
    found = product(x, *others)
    assert [tuple(b.shape) for b in found] == [(N, ir.dim, mul) for mul, ir in product.irreps_out]
    expected = by_e3nn(default_dtype, product, x, *others)
    torch.testing.assert_close(to_e3nn_rows(found), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("chunk", [1, 1 << 18])
@pytest.mark.parametrize("case", CASES[2:4])
def test_gradients(case: tuple[str, str, str], chunk: int) -> None:
    """First and second derivatives, also if every atom is a chunk of its own."""
    product = NeighbourTensorProduct(*case)
    x, (Y, phi, V, neighbours) = inputs(product)
    leaves = [t.requires_grad_() for t in (Y, phi, V, *x)]
    constant = torch.zeros_like(Y)
    constant[:, 0] = 1  # that of degree 0

    def function(Y, phi, V, *x):
        return tuple(product(x, Y * (1 - constant) + constant, phi, V, neighbours))

    with mock.patch.object(tensor_product, "CHUNK", chunk):
        assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("case", [CASES[1], CASES[3]])
def test_traced(case: tuple[str, str, str]) -> None:
    """Then it is written out, for any number of atoms and neighbours: values and derivatives."""
    product = NeighbourTensorProduct(*case)

    def arguments(everyone: int, atoms: int, columns: int) -> list[torch.Tensor]:
        x = [torch.randn(everyone, ir.dim, mul).double() for mul, ir in product.irreps_in]
        Y = torch.randn(atoms * columns, product.harmonics.dim).double()
        Y[:, 0] = 1
        phi = torch.randn(atoms * columns, Q).double()
        V = torch.randn(Q, product.n_weights).double()
        return [torch.randint(everyone, (atoms, columns)), Y, phi, V, *x]

    def derivatives(neighbours, Y, phi, V, *x):
        leaves = [t.detach().requires_grad_() for t in (Y, phi, V, *x)]
        sums = product(leaves[3:], leaves[0], leaves[1], leaves[2], neighbours)
        gradients = torch.autograd.grad(sum(block.square().sum() for block in sums), leaves)
        return [*sums, gradients[0][:, 1:], *gradients[1:]]

    make = make_fx(derivatives, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    traced = make(*arguments(everyone=37, atoms=23, columns=19))  # sizes that occur nowhere else
    others = arguments(everyone=9, atoms=7, columns=5)
    torch.testing.assert_close(traced(*others), derivatives(*others))


@pytest.mark.parametrize("inversion", [False, True])
def test_equivariance(inversion: bool, default_dtype) -> None:
    default_dtype(torch.float64)  # to which e3nn's matrices are rounded
    product = NeighbourTensorProduct(*CASES[2])
    x, (Y, phi, V, neighbours) = inputs(product)
    R = o3().rand_matrix(dtype=torch.float64) * (-1 if inversion else 1)

    def rotated(rows: torch.Tensor, irreps) -> torch.Tensor:
        return rows @ irreps.D_from_matrix(R).T

    expected = rotated(to_e3nn_rows(product(x, Y, phi, V, neighbours)), product.irreps_out)
    x = from_e3nn_rows(rotated(to_e3nn_rows(x), product.irreps_in), product.irreps_in)
    found = to_e3nn_rows(product(x, rotated(Y, product.harmonics), phi, V, neighbours))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_paths_are_grouped_by_result() -> None:
    product = NeighbourTensorProduct("4x0e+3x1o", "0e+1o", "0e+1o+2e")
    assert str(product.irreps_out) == "7x0e+7x1o+3x2e"
    assert product.n_weights == 17
    assert [p.first_weight for p in product.paths.paths] == [0, 4, 7, 11, 14]
