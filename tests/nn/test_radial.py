from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from graph_pes.nn.radial import (
    Bessel,
    DistanceExpansion,
    ExpNormal,
    ExponentialRBF,
    GaussianSmearing,
    SinExpansion,
    SmoothBessel,
    get_distance_expansion,
)

B, CUTOFF = 7, 4.3
n = np.arange(1, B + 1)


def bessel(r: np.ndarray) -> np.ndarray:
    return np.sqrt(2 / CUTOFF) * np.sin(n * np.pi * r / CUTOFF) / r


def gaussians(r: np.ndarray) -> np.ndarray:
    width = CUTOFF / B
    return np.exp(-((r - np.linspace(0, CUTOFF, B)) ** 2) / (2 * width**2))


def sines(r: np.ndarray) -> np.ndarray:
    return np.sin(n * np.pi * r / CUTOFF)


def exponentials(r: np.ndarray) -> np.ndarray:
    # equations 7 and 8 of doi:10.1021/acs.jctc.9b00181
    start = np.exp(-CUTOFF)
    return np.exp(-((2 / B * (1 - start)) ** -2) * (np.exp(-r) - np.linspace(start, 1, B)) ** 2)


def enveloped_exponentials(r: np.ndarray) -> np.ndarray:
    start = np.exp(-CUTOFF)
    beta = (2 / B * (1 - start)) ** -2
    gaussians = np.exp(-beta * (np.exp(-5 * r / CUTOFF) - np.linspace(start, 1, B)) ** 2)
    return gaussians * (1 + np.cos(np.pi * r / CUTOFF)) / 2


def smooth_bessel(r: np.ndarray) -> np.ndarray:
    """Pairs of spherical Bessel functions without slope at the cutoff, made orthogonal in turn."""

    def pairs(r: np.ndarray) -> np.ndarray:
        x = np.pi * r / CUTOFF
        return (-1) ** (n - 1) * (np.sin(n * x) / (n * x) + np.sin((n + 1) * x) / ((n + 1) * x))

    nodes, weights = np.polynomial.legendre.leggauss(60)
    nodes, weights = CUTOFF * (nodes + 1) / 2, CUTOFF * weights / 2
    at_nodes = pairs(nodes[:, None])
    overlaps = at_nodes.T @ (at_nodes * (weights * nodes**2)[:, None])
    return np.linalg.solve(np.linalg.cholesky(overlaps), pairs(r).T).T


EXPANSIONS: dict[type[DistanceExpansion], Callable[[np.ndarray], np.ndarray]] = {
    Bessel: bessel,
    GaussianSmearing: gaussians,
    SinExpansion: sines,
    ExponentialRBF: exponentials,
    ExpNormal: enveloped_exponentials,
    SmoothBessel: smooth_bessel,
}
each = pytest.mark.parametrize("kind", EXPANSIONS, ids=lambda kind: kind.__name__)


@pytest.fixture(autouse=True)
def _double(default_dtype) -> None:
    default_dtype(torch.float64)


@each
def test_formula(kind: type[DistanceExpansion]) -> None:
    r = torch.linspace(0.01, CUTOFF, 50)
    expected = EXPANSIONS[kind](r.numpy()[:, None])
    np.testing.assert_allclose(kind(B, CUTOFF)(r).detach(), expected, rtol=0, atol=1e-12)


@each
def test_at_the_origin(kind: type[DistanceExpansion]) -> None:
    """The value is the limit, and two derivatives are finite."""
    expansion = kind(B, CUTOFF)
    r = torch.tensor([0.0, 1e-9], requires_grad=True)
    value = expansion(r)
    torch.testing.assert_close(value[0], value[1], rtol=0, atol=1e-7)
    (slope,) = torch.autograd.grad(value.square().sum(), r, create_graph=True)
    gradients = torch.autograd.grad(slope.square().sum(), [r, *expansion.parameters()])
    assert all(torch.isfinite(g).all() for g in (slope, *gradients))


@each
def test_derivatives(kind: type[DistanceExpansion]) -> None:
    r = torch.linspace(0.1, 0.99 * CUTOFF, 5, requires_grad=True)
    expansion = kind(3, CUTOFF)
    assert torch.autograd.gradcheck(expansion, r)
    assert torch.autograd.gradgradcheck(expansion, r)


@each
@pytest.mark.parametrize("shape", [(), (0,), (5,), (5, 1), (2, 3)])
def test_shapes(kind: type[DistanceExpansion], shape: tuple[int, ...]) -> None:
    leading = shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape
    assert kind(B, CUTOFF)(torch.rand(shape)).shape == (*leading, B)


@each
@pytest.mark.parametrize("trainable", [True, False])
def test_trainable(kind: type[DistanceExpansion], trainable: bool) -> None:
    expansion = kind(B, CUTOFF, trainable=trainable)
    assert list(expansion.parameters()) or kind is SmoothBessel
    assert all(p.requires_grad == trainable for p in expansion.parameters())


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype(kind: type[DistanceExpansion], dtype: torch.dtype) -> None:
    r = torch.linspace(0.1, CUTOFF, 5, dtype=dtype)
    expansion = kind(B, CUTOFF).to(dtype)
    assert expansion(r).dtype == dtype
    torch.testing.assert_close(
        expansion(r).double(), kind(B, CUTOFF)(r.double()), rtol=1e-4, atol=1e-5
    )


@each
def test_by_name(kind: type[DistanceExpansion]) -> None:
    assert get_distance_expansion(kind.__name__) is kind
    assert get_distance_expansion(kind) is kind


@pytest.mark.parametrize("wrong", ["bessle", int])
def test_unknown_name(wrong: object) -> None:
    with pytest.raises(
        ValueError, match=r"Unknown distance expansion .*expected one of \['Bessel'"
    ):
        get_distance_expansion(wrong)  # type: ignore[arg-type]
