from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from hypothesis import given
from hypothesis import strategies as st

from graph_pes.tensors import (
    determinant_3x3,
    full_3x3_to_voigt_6,
    index_sum,
    left_aligned_div,
    left_aligned_mul,
    safe_norm,
    voigt_6_to_full_3x3,
)

leading = st.sampled_from([(), (1,), (4,), (2, 3), (0,)])


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@given(leading)
def test_voigt_order_is_that_of_ase(shape: tuple[int, ...]) -> None:
    voigt = random(*shape, 6)
    full = voigt_6_to_full_3x3(voigt)
    assert full.shape == (*shape, 3, 3)
    for matrix, components in zip(full.view(-1, 3, 3), voigt.view(-1, 6), strict=True):
        np.testing.assert_array_equal(matrix, voigt_6_to_full_3x3_stress(components.numpy()))
        np.testing.assert_array_equal(
            full_3x3_to_voigt_6(matrix), full_3x3_to_voigt_6_stress(matrix.numpy())
        )
    assert torch.equal(full_3x3_to_voigt_6(full), voigt)


def test_voigt_of_a_matrix_that_is_not_symmetric() -> None:
    matrix = random(3, 3)
    expected = full_3x3_to_voigt_6((matrix + matrix.T) / 2)
    torch.testing.assert_close(full_3x3_to_voigt_6(matrix), expected)


@given(leading)
def test_determinant(shape: tuple[int, ...]) -> None:
    matrix = random(*shape, 3, 3)
    torch.testing.assert_close(determinant_3x3(matrix), torch.linalg.det(matrix))


def test_determinant_gradient() -> None:
    assert torch.autograd.gradcheck(determinant_3x3, random(2, 3, 3).requires_grad_())


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_safe_norm(dim: int, epsilon: float) -> None:
    x = random(4, 3)
    expected = np.sqrt((x.numpy() ** 2).sum(dim) + epsilon)
    np.testing.assert_allclose(safe_norm(x, dim, epsilon), expected, rtol=1e-15)


@pytest.mark.parametrize("epsilon", [0.0, 1e-8])
def test_safe_norm_at_the_origin(epsilon: float) -> None:
    """Value, gradient and second derivatives are finite, and exact next to the origin."""
    x = torch.zeros(2, 3, dtype=torch.float64)
    x[1, 0] = 2.0
    x.requires_grad_()
    norm = safe_norm(x, epsilon=epsilon)
    assert norm.tolist() == pytest.approx([epsilon**0.5, 2.0])
    (gradient,) = torch.autograd.grad(norm.sum(), x, create_graph=True)
    assert gradient.tolist() == [[0, 0, 0], [pytest.approx(1), 0, 0]]
    (second,) = torch.autograd.grad(gradient.square().sum() + norm.sum(), x)
    assert torch.isfinite(second).all()


def test_safe_norm_gradient() -> None:
    x = random(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(safe_norm, x)
    assert torch.autograd.gradgradcheck(safe_norm, x)


@given(
    rows=st.integers(0, 8),
    shape=st.sampled_from([(), (2,), (2, 3), (3, 2, 2)]),
    size=st.integers(1, 5),
)
def test_index_sum(rows: int, shape: tuple[int, ...], size: int) -> None:
    values, index = random(rows, *shape), torch.randint(0, size, (rows,))
    expected = torch.zeros(size, *shape, dtype=torch.float64)
    for row, target in enumerate(index):
        expected[target] += values[row]
    found = index_sum(values, index, size)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_index_sum_of_nothing(shape: tuple[int, ...]) -> None:
    none, index = torch.zeros(0, *shape), torch.zeros(0, dtype=torch.long)
    assert torch.equal(index_sum(none, index, 3), torch.zeros(3, *shape))
    assert index_sum(none, index, 0).shape == (0, *shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_index_sum_keeps_the_dtype(dtype: torch.dtype) -> None:
    ones = torch.ones(4, 2, dtype=dtype)
    assert index_sum(ones, torch.tensor([0, 0, 2, 2]), 3).dtype == dtype


def test_index_sum_gradients() -> None:
    index = torch.tensor([0, 2, 2, 1])
    values = random(4, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: index_sum(v, index, 3), values)
    assert torch.autograd.gradgradcheck(lambda v: index_sum(v, index, 3) ** 2, values)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_left_aligned(shape: tuple[int, ...]) -> None:
    x, y = random(5, *shape), random(5)
    expected = np.stack([a * b for a, b in zip(x.numpy(), y.numpy(), strict=True)])
    np.testing.assert_array_equal(left_aligned_mul(x, y), expected)
    torch.testing.assert_close(left_aligned_div(left_aligned_mul(x, y), y), x)


def test_left_aligned_with_more_than_one_common_axis() -> None:
    x, y = random(5, 2, 3), random(5, 2)
    torch.testing.assert_close(left_aligned_mul(x, y), x * y[:, :, None])


def test_left_aligned_scalars() -> None:
    assert left_aligned_div(torch.tensor(6.0), torch.tensor(3)) == 2
