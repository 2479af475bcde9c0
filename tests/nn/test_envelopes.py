from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graph_pes.nn.envelopes import (
    CosineEnvelope,
    Envelope,
    PolynomialEnvelope,
    SmoothOnsetEnvelope,
)

CUTOFF = 4.3


def polynomial(r: np.ndarray, p: int) -> np.ndarray:
    x = r / CUTOFF
    return (
        1
        - (p + 1) * (p + 2) / 2 * x**p
        + p * (p + 2) * x ** (p + 1)
        - p * (p + 1) / 2 * x ** (p + 2)
    )


def onset(r: np.ndarray) -> np.ndarray:
    # a cubic Hermite interpolation from 1 to 0, with zero slopes
    t = np.clip((r - 2.0) / (CUTOFF - 2.0), 0, 1)
    return 1 - 3 * t**2 + 2 * t**3


ENVELOPES: dict[str, tuple[Envelope, Callable[[np.ndarray], np.ndarray]]] = {
    "polynomial": (PolynomialEnvelope(CUTOFF), lambda r: polynomial(r, 6)),
    "polynomial-3": (PolynomialEnvelope(CUTOFF, p=3), lambda r: polynomial(r, 3)),
    "cosine": (CosineEnvelope(CUTOFF), lambda r: 0.5 * (1 + np.cos(np.pi * r / CUTOFF))),
    "onset": (SmoothOnsetEnvelope(CUTOFF, onset=2.0), onset),
}
each = pytest.mark.parametrize(("envelope", "formula"), ENVELOPES.values(), ids=ENVELOPES)


@each
def test_formula(envelope: Envelope, formula: Callable) -> None:
    r = torch.linspace(0, CUTOFF - 1e-9, 100, dtype=torch.float64)
    np.testing.assert_allclose(envelope(r), formula(r.numpy()), rtol=0, atol=1e-13)


@each
def test_one_at_the_origin_and_smooth_at_the_cutoff(envelope: Envelope, formula: Callable) -> None:
    r = torch.tensor([0.0, CUTOFF * (1 - 1e-9)], dtype=torch.float64, requires_grad=True)
    value = envelope(r)
    (slope,) = torch.autograd.grad(value.sum(), r)
    assert value.tolist() == pytest.approx([1, 0], abs=1e-14)
    assert slope.tolist() == pytest.approx([0, 0], abs=1e-7)


@each
@given(beyond=st.floats(0, 10))
def test_exactly_zero_from_the_cutoff_on(
    envelope: Envelope, formula: Callable, beyond: float
) -> None:
    # Rounded to single precision, the cutoff may come out smaller.
    above = float(np.nextafter(np.float32(CUTOFF), np.float32(9)))
    for dtype, start in ((torch.float32, above), (torch.float64, CUTOFF)):
        r = torch.tensor([start + beyond], dtype=dtype, requires_grad=True)
        value = envelope(r)
        (slope,) = torch.autograd.grad(value.sum(), r, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum() + 0 * r.sum(), r)
        assert value.item() == slope.item() == curvature.item() == 0
        assert value.dtype == dtype


@each
def test_derivatives(envelope: Envelope, formula: Callable) -> None:
    r = torch.linspace(0.1, CUTOFF - 0.1, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(envelope, r)
    assert torch.autograd.gradgradcheck(envelope, r)


@each
@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (4, 1)])
def test_any_shape(envelope: Envelope, formula: Callable, shape: tuple[int, ...]) -> None:
    assert envelope(torch.rand(shape)).shape == shape


def test_polynomial_is_flat_at_both_ends() -> None:
    """p - 1 derivatives vanish at the origin, two at the cutoff."""
    r = torch.tensor([0.0, CUTOFF * (1 - 1e-7)], dtype=torch.float64, requires_grad=True)
    value = PolynomialEnvelope(CUTOFF, p=4)(r)
    derivatives = []
    for _ in range(4):
        (value,) = torch.autograd.grad(value.sum(), r, create_graph=True)
        derivatives.append(value.tolist())
    assert [d[0] for d in derivatives[:3]] == pytest.approx([0, 0, 0], abs=1e-15)
    assert derivatives[3][0] == pytest.approx(-math.factorial(4) * 15 / CUTOFF**4)
    assert [d[1] for d in derivatives[:2]] == pytest.approx([0, 0], abs=1e-5)


@pytest.mark.parametrize("p", [2, 4, 6])
def test_polynomial_has_all_its_digits_close_to_the_cutoff(p: int) -> None:
    """Also in single precision: (p + 2)(p + 1)p/6 times the cube of the distance from it."""
    gaps = torch.tensor([2.0**-n for n in range(8, 22)])  # exact, and so is 1 - gap
    value = PolynomialEnvelope(1.0, p)(1 - gaps)
    leading = p * (p + 1) * (p + 2) / 6 * gaps**3
    assert (value > 0).all()
    torch.testing.assert_close(value, leading, rtol=0.03, atol=0)
    torch.testing.assert_close(value[-3:], leading[-3:], rtol=1e-5, atol=0)


def test_onset_beyond_the_cutoff() -> None:
    with pytest.raises(ValueError, match=r"Onset must be less than cutoff, got 5\.0 >= 4\.3"):
        SmoothOnsetEnvelope(CUTOFF, onset=5.0)
