from __future__ import annotations

import math

import ase
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graph_pes.models.zbl import ZBLCoreRepulsion, zbl

from ..strategies import structures
from .pair_reference import assert_equals_reference

#: As published, and as documented for LAMMPS's pair_style zbl; e²/4πε₀ from CODATA 2018.
COEFFICIENTS = (0.18175, 0.50986, 0.28022, 0.02817)
DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)
COULOMB = 14.3996454785


def published(r: float, Z_i: int, Z_j: int) -> tuple[float, float]:
    """Energy in eV and its derivative in eV/Å."""
    a = 0.46850 / (Z_i**0.23 + Z_j**0.23)
    phi = sum(c * math.exp(-d * r / a) for c, d in zip(COEFFICIENTS, DECAYS, strict=True))
    slope = sum(
        -c * d / a * math.exp(-d * r / a) for c, d in zip(COEFFICIENTS, DECAYS, strict=True)
    )
    bare = COULOMB * int(Z_i) * int(Z_j) / r
    return bare * phi, bare * (slope - phi / r)


def published_pairs(
    r: np.ndarray, Z_i: np.ndarray, Z_j: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    values = [published(*args) for args in zip(r.tolist(), Z_i.tolist(), Z_j.tolist(), strict=True)]
    return np.array(values).reshape(-1, 2).T


@given(r=st.floats(0.01, 6.0), Z_i=st.integers(1, 118), Z_j=st.integers(1, 118))
def test_equals_the_published_formula(r: float, Z_i: int, Z_j: int) -> None:
    model = ZBLCoreRepulsion()
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float64, 1e-6)):
        # Parameters of a float32 model are float32 numbers, also after it is cast.
        V = model.to(dtype).interaction(
            torch.tensor([r], dtype=dtype), torch.tensor([Z_i]), torch.tensor([Z_j])
        )
        assert V.dtype == dtype
        assert V.item() == pytest.approx(published(r, Z_i, Z_j)[0], rel=tolerance, abs=1e-30)


@given(atoms=structures(elements=("H", "C", "U")))
def test_energies_forces_and_virial_in_structures(atoms: ase.Atoms) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    model = ZBLCoreRepulsion(cutoff=4.5)
    torch.set_default_dtype(before)
    assert_equals_reference(model, atoms, published_pairs)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_of_charges_are_in_the_precision_of_distances(
    dtype: torch.dtype, default: torch.dtype, default_dtype
) -> None:
    default_dtype(default)
    r, Z = torch.tensor([0.7], dtype=dtype), torch.tensor([14])
    exponent = torch.tensor(0.23, dtype=torch.float64)
    assert zbl(r, Z, Z, torch.tensor(0.88534, dtype=torch.float64), exponent).dtype == dtype


def test_bare_nuclei_at_short_distances() -> None:
    model, Z = ZBLCoreRepulsion().double(), torch.tensor([79])
    r = torch.tensor([1e-6], dtype=torch.float64)
    V = model.interaction(r, Z, Z)
    assert V.item() == pytest.approx(COULOMB * 79**2 / 1e-6, rel=1e-4)


def test_trainable() -> None:
    assert not list(ZBLCoreRepulsion().parameters())
    names = dict(ZBLCoreRepulsion(trainable=True).named_parameters())
    assert {key: p.item() for key, p in names.items()} == pytest.approx(
        {"pre_factor": 0.88534, "exponent": 0.23}, rel=1e-5
    )
