"""Mobilities of spheres, and of a model that learns them."""

from __future__ import annotations

import math

import ase
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models.mobility import Mobility, oseen, rotne_prager

torch.set_num_threads(1)

#: With which a sphere of radius 1 has a mobility of 1.
VISCOSITY = 1 / (6 * math.pi)

CUTOFF = 8.0


def divergence(mobility, R: Tensor) -> Tensor:
    """The sum over l of dM_kl / dx_l."""
    J = torch.autograd.functional.jacobian(mobility, R).reshape(R.numel(), R.numel(), -1)
    return torch.einsum("kll->k", J)


@pytest.mark.parametrize("distance", [3.0, 5.0, 10.0])
def test_rotne_prager_is_a_quadrature_of_oseen(distance: float) -> None:
    """The field of a sphere, averaged over the other one."""
    z, weights = np.polynomial.legendre.leggauss(12)
    angles = 2 * np.pi * np.arange(24) / 24
    ring = np.sqrt(1 - z**2)[:, None]
    points = np.stack(
        [ring * np.cos(angles), ring * np.sin(angles), np.broadcast_to(z[:, None], (12, 24))], -1
    ).reshape(-1, 3)
    weights = np.repeat(weights / 2 / 24, 24)
    r = distance * np.array([0.6, 0, 0.8]) + points[:, None] - points[None]
    d = np.linalg.norm(r, axis=-1)[..., None, None]
    field = 0.75 * (np.eye(3) / d + r[..., None] * r[..., None, :] / d**3)
    expected = np.einsum("p,q,pqkl->kl", weights, weights, field)
    R = torch.tensor([[0, 0, 0], [0.6 * distance, 0, 0.8 * distance]], dtype=torch.float64)
    M = rotne_prager(R, 1.0, VISCOSITY)
    np.testing.assert_allclose(M[:3, 3:], expected, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 5.0), st.integers(2, 8))
def test_rotne_prager_is_positive_definite(seed: int, size: float, N: int) -> None:
    """At any separation, also where spheres overlap, or are at the same place."""
    R = torch.tensor(np.random.default_rng(seed).uniform(-size, size, (N, 3)))
    M = rotne_prager(R, 1.0, VISCOSITY)
    torch.testing.assert_close(M, M.T)
    assert torch.linalg.eigvalsh(M).min() > (-1e-12 if size < 0.1 else 0)


def test_continuous_where_spheres_touch() -> None:
    pair = [torch.tensor([[0, 0, 0], [2 + x, 0, 0]], dtype=torch.float64) for x in (-1e-9, 1e-9)]
    a, b = (rotne_prager(R, 1.0, 1.0) for R in pair)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("tensor", [oseen, rotne_prager])
def test_no_divergence(tensor) -> None:
    R = torch.tensor([[0, 0, 0], [1.2, 0.3, 0], [3, -2, 1.0]], dtype=torch.float64)
    drift = divergence(lambda x: tensor(x, 1.0, 1.0), R)
    torch.testing.assert_close(drift, torch.zeros_like(drift), rtol=0, atol=1e-12)


def test_oseen_is_what_remains_far_away() -> None:
    R = torch.tensor([[0, 0, 0], [300.0, 400, 0]], dtype=torch.float64)
    difference = oseen(R, 1.0, VISCOSITY) - rotne_prager(R, 1.0, VISCOSITY)
    assert 1e-10 < difference.abs().max() < 1e-8
    close = torch.tensor([[0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)
    assert torch.linalg.eigvalsh(oseen(close, 1.0, VISCOSITY)).min() < 0


# --- the model ----------------------------------------------------------------------------


def clusters(seed: int, n: int) -> list[ase.Atoms]:
    """Of two or three spheres, many of which overlap."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 4, n)
    return [ase.Atoms(f"Ar{size}", rng.uniform(-2.5, 2.5, (size, 3))) for size in sizes]


def random_model() -> Mobility:
    torch.manual_seed(0)
    model = Mobility(CUTOFF, self_mobility=2.0, channels=8).double()
    with torch.no_grad():
        model.log_scale["He"] = 0.7
        for parameter in model.functions.parameters():
            parameter.mul_(2)
    return model.eval()


def graph_of(atoms: ase.Atoms) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, CUTOFF, dtype=torch.float64)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_laws(seed: int) -> None:
    """Symmetric, never negative, rotates with the particles, and local."""
    model, (atoms,) = random_model(), clusters(seed, 1)
    atoms += ase.Atoms("He", [(1.0, 1.0, 1.0)])
    M = model.matrix(graph_of(atoms)).detach()
    torch.testing.assert_close(M, M.T)
    assert torch.linalg.eigvalsh(M).min() > -1e-12
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    turned = atoms.copy()
    turned.positions = atoms.positions @ Q.T
    N = len(atoms)
    rotation = torch.block_diag(*[torch.tensor(Q)] * N)
    found = model.matrix(graph_of(turned)).detach()
    torch.testing.assert_close(found, rotation @ M @ rotation.T)
    far = atoms + ase.Atoms("Ar", [(100.0, 0, 0)])
    longer = model.matrix(graph_of(far)).detach()
    torch.testing.assert_close(longer[: 3 * N, : 3 * N], M)
    torch.testing.assert_close(longer[3 * N :, 3 * N :], 2 * torch.eye(3, dtype=M.dtype))


def test_smooth_at_the_cutoff() -> None:
    model = random_model()
    inside, outside = (
        model.matrix(graph_of(ase.Atoms("Ar2", [(0, 0, 0), (CUTOFF + x, 0, 0)])))
        for x in (-1e-4, 1e-4)
    )
    torch.testing.assert_close(inside, outside, rtol=0, atol=1e-10)


def test_wrong_self_mobility() -> None:
    with pytest.raises(ValueError, match="self_mobility: expected a value above 0, got -1"):
        Mobility(CUTOFF, self_mobility=-1)


def test_learns_rotne_prager() -> None:
    """From clusters, for others of the same kind."""
    torch.manual_seed(0)
    model = Mobility(12.0, channels=16).double()

    def data(seed: int) -> tuple[AtomicGraph, Tensor]:
        structures = clusters(seed, 30)
        batch = to_batch([AtomicGraph.from_ase(x, 12.0, dtype=torch.float64) for x in structures])
        blocks = [rotne_prager(torch.tensor(x.positions), 1.0, VISCOSITY) for x in structures]
        return batch, torch.block_diag(*blocks)

    (batch, target), (others, expected) = data(1), data(2)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(80):
        optimiser.zero_grad()
        loss = ((model.matrix(batch) - target) ** 2).mean()
        loss.backward()
        optimiser.step()
    found = model.matrix(others).detach()
    assert (found - expected).norm() < 0.05 * expected.norm()
