from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from graph_pes.nn.irreps import o3
from graph_pes.nn.spherical_harmonics import SphericalHarmonics
from tests.strategies import seeds

L_MAX = 6


def random_vectors(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(20, 3, dtype=torch.float64, generator=generator)


@given(seeds)
def test_against_e3nn(seed: int) -> None:
    vectors, degrees = random_vectors(seed), list(range(L_MAX + 1))
    expected = o3().spherical_harmonics(degrees, vectors, True, normalization="component")
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 5e-6)):
        # made in one precision, used in another: the constants are not rounded
        Y = SphericalHarmonics(degrees).to(dtype)(vectors.to(dtype))
        assert Y.dtype == dtype
        torch.testing.assert_close(Y.double(), expected, rtol=0, atol=tolerance)


def test_first_degrees() -> None:
    """Polynomials written out: degree 1 is x, y, z; m = 0 of degree 2 is along y."""
    x, y, z = v = torch.tensor([0.48, 0.6, 0.64], dtype=torch.float64)
    Y = SphericalHarmonics([0, 1, 2])(v)
    expected = [
        1.0,
        *(3**0.5 * v).tolist(),
        *(15**0.5 * x * z, 15**0.5 * x * y, 5**0.5 * (y * y - (x * x + z * z) / 2)),
        *(15**0.5 * y * z, 15**0.5 / 2 * (z * z - x * x)),
    ]
    np.testing.assert_allclose(Y, expected, rtol=0, atol=1e-14)


def test_some_degrees_only() -> None:
    vectors = random_vectors(0)
    some = SphericalHarmonics([3, 1])(vectors)
    every = SphericalHarmonics(range(4))(vectors)
    torch.testing.assert_close(some, torch.cat([every[:, 9:], every[:, 1:4]], dim=1))


@pytest.mark.parametrize("direction", [[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0], [1e-3, 0, 0]])
def test_gradients(direction: list[float]) -> None:
    """Also along the axes, where polar angles would have none."""
    v = torch.tensor(direction, dtype=torch.float64, requires_grad=True)
    harmonics = SphericalHarmonics(range(5))
    assert torch.autograd.gradcheck(harmonics, [v], eps=1e-8, atol=1e-4)
    assert torch.autograd.gradgradcheck(harmonics, [v.detach().sign().requires_grad_()])
