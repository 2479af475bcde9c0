"""Components of matrices and what is done with them, against the matrices themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from graph_pes.nn import trilinear
from graph_pes.nn.cartesian import (
    MATRIX_BASIS,
    DensityExpansion,
    MatrixLinear,
    MatrixProduct,
    NeighbourSum,
    components_of_directions,
    linear_per_component,
    per_component,
    squared_norms,
    squared_norms_of_parts,
    vectors_of,
)

N, C, B = 4, 3, 5
I_J = torch.tensor([[0, 0, 1, 2, 2], [1, 2, 2, 2, 0]])


def field(n: int = N, channels: int = C) -> Tensor:
    return torch.randn(n, 9, channels, dtype=torch.float64)


def matrices(x: Tensor) -> Tensor:
    """From components (N, 9, C) to matrices (N, C, 3, 3)."""
    return torch.einsum("nkc,kab->ncab", x, MATRIX_BASIS)


def parts(X: Tensor) -> list[Tensor]:
    """I, A and S of matrices, as the paper defines them."""
    trace = X.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    identity = trace / 3 * torch.eye(3, dtype=X.dtype)
    antisymmetric = (X - X.mT) / 2
    return [identity, antisymmetric, (X + X.mT) / 2 - identity]


def assert_differentiable(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    leaves = tuple(x.detach().clone().requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces also of the few edges here."""
    monkeypatch.setattr(trilinear, "_FLOATS_PER_PIECE", 60)
    torch.manual_seed(0)


def test_basis_is_orthonormal() -> None:
    rows = MATRIX_BASIS.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(9, dtype=torch.float64))


def test_rows_hold_the_parts() -> None:
    x = field()
    for n, (rows, part) in enumerate(
        zip([slice(0, 1), slice(1, 4), slice(4, 9)], parts(matrices(x)), strict=True)
    ):
        alone = torch.zeros_like(x)
        alone[:, rows] = x[:, rows]
        torch.testing.assert_close(matrices(alone), part)
        norms = squared_norms_of_parts(x).unflatten(1, (3, C))[:, n]
        torch.testing.assert_close(norms, part.square().sum((-2, -1)))
    torch.testing.assert_close(squared_norms(x), matrices(x).square().sum((-2, -1)))


def test_directions() -> None:
    r = torch.nn.functional.normalize(torch.randn(6, 3, dtype=torch.float64), dim=1)
    identity, antisymmetric, symmetric = parts(matrices(components_of_directions(r)[..., None]))
    eye = torch.eye(3, dtype=r.dtype).expand(6, 1, 3, 3)
    torch.testing.assert_close(identity, eye)
    torch.testing.assert_close(symmetric[:, 0], r[:, :, None] * r[:, None, :] - eye[:, 0] / 3)
    v = torch.randn(6, 3, dtype=r.dtype)
    turned = torch.einsum("nab,nb->na", antisymmetric[:, 0], v)
    torch.testing.assert_close(turned, torch.linalg.cross(r, v))
    torch.testing.assert_close(vectors_of(components_of_directions(r)[..., None])[..., 0], r)
    lone = components_of_directions(torch.zeros(1, 3, dtype=r.dtype))
    torch.testing.assert_close(matrices(lone[..., None])[0, 0], eye[0, 0])


@pytest.mark.parametrize("symmetric", [True, False])
def test_products(symmetric: bool) -> None:
    product = MatrixProduct(symmetric).double()
    x, y = field(), field()
    X, Y = matrices(x), matrices(y)
    expected = X @ Y + Y @ X if symmetric else X @ Y
    torch.testing.assert_close(matrices(product(x, y)), expected)
    assert_differentiable(product, x, y)
    assert_differentiable(lambda x: product(x, x), x)


@pytest.mark.parametrize("symmetric", [True, False])
def test_traced_products(symmetric: bool) -> None:
    """Then they are written out, for any number of atoms: values and derivatives."""
    product = MatrixProduct(symmetric).double()

    def derivatives(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        result = product(x, y)
        return (result, *torch.autograd.grad(result.square().sum(), (x, y)))

    make = make_fx(derivatives, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    traced = make(field(), field())
    x, y = field(7), field(7)
    torch.testing.assert_close(traced(x, y), derivatives(x, y))


def test_products_in_the_precision_of_the_fields() -> None:
    product = MatrixProduct(symmetric=True).float().double()
    x, y = field(), field()
    X, Y = matrices(x), matrices(y)
    torch.testing.assert_close(matrices(product(x, y)), X @ Y + Y @ X, rtol=0, atol=1e-13)
    assert product.float()(x.float(), y.float()).dtype == torch.float32


def test_linear() -> None:
    x, linear = field(), MatrixLinear(C).double()
    mixed = [
        torch.einsum("dc,ncab->ndab", W, part)
        for W, part in zip(linear.weight, parts(matrices(x)), strict=True)
    ]
    torch.testing.assert_close(matrices(linear(x)), sum(mixed))
    assert linear(x).is_contiguous()
    wide = torch.randn(3, B, C, dtype=torch.float64)
    assert linear_per_component(x, wide).shape == (N, 9, B)
    assert_differentiable(linear_per_component, x, wide)


def filtered(filters: Tensor, h: Tensor) -> Tensor:
    """Filters (P, 3, C) times the fields of atoms, (P, 9, C)."""
    return per_component(filters, dim=1) * h


def messages(filters: Tensor, h: Tensor, symmetric: bool) -> Tensor:
    """Edge by edge."""
    result = torch.zeros_like(h)
    for f, i, j in zip(filters, *I_J.tolist(), strict=True):
        result[i] += filtered(f[None], h[j][None])[0]
        if symmetric:
            result[j] += filtered(f[None], h[i][None])[0]
    return result


@pytest.mark.parametrize("symmetric", [True, False])
def test_sums_over_neighbours(symmetric: bool) -> None:
    filters, h = torch.randn(5, 3, C, dtype=torch.float64), field()
    form = NeighbourSum(*I_J, symmetric, (N, N))
    torch.testing.assert_close(form(0, filters, h), messages(filters, h, symmetric))
    assert_differentiable(lambda f, h: form(0, f, h), filters, h)


def test_more_neighbours_than_atoms() -> None:
    """As with the ghosts of other processes."""
    filters, h = torch.randn(5, 3, C, dtype=torch.float64), field(N + 2)
    i, j = torch.tensor([[0, 0, 1, 3, 3], [4, 2, 5, 5, 0]])
    form = NeighbourSum(i, j, False, (N, N + 2))
    expected = torch.zeros(N, 9, C, dtype=torch.float64).index_add(0, i, filtered(filters, h[j]))
    torch.testing.assert_close(form(0, filters, h), expected)
    assert_differentiable(lambda f, h: form(0, f, h), filters, h)


def test_no_edges() -> None:
    none = torch.zeros(0, dtype=torch.long)
    filters = torch.zeros(0, 3, C, dtype=torch.float64, requires_grad=True)
    h = field().requires_grad_()
    form = NeighbourSum(none, none, True, (N, N))
    result = form(0, filters, h)
    assert not result.any()
    of_filters, of_h = torch.autograd.grad(result.sum(), (filters, h))
    assert of_filters.shape == filters.shape
    assert not of_h.any()

    y = torch.zeros(0, 9, dtype=torch.float64, requires_grad=True)
    phi = torch.zeros(0, B, dtype=torch.float64, requires_grad=True)
    densities = DensityExpansion(none, 0)(0, y, phi)
    assert densities.shape == (0, 9, B)
    of_y, of_phi = torch.autograd.grad(densities.sum(), (y, phi))
    assert of_y.shape == y.shape
    assert of_phi.shape == phi.shape


def test_densities() -> None:
    row = torch.tensor([1, 1, 0, 3, 1])
    y = torch.randn(5, 9, dtype=torch.float64)
    phi = torch.randn(5, B, dtype=torch.float64)
    expected = torch.zeros(4, 9, B, dtype=torch.float64)
    for e, r in enumerate(row):
        expected[r] += torch.outer(y[e], phi[e])
    form = DensityExpansion(row, 4)
    torch.testing.assert_close(form(0, y, phi), expected)
    assert_differentiable(lambda y, phi: form(0, y, phi), y, phi)
