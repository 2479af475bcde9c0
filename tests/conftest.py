"""Settings and fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import ase
import ase.io
import pytest
import torch
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).parents[1]

# Many small tensors: threads would only get in each other's way.
torch.set_num_threads(1)

settings.register_profile(
    "default",
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Same random numbers for every test; no test changes torch's default dtype for others."""
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    """Set torch's default dtype for the length of a test: ``default_dtype(torch.float64)``."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def ethanol_folder() -> Path:
    """Folder of the ethanol data set: train.xyz, valid.xyz, test_300K.xyz ..."""
    return REPOSITORY / "examples" / "ethanol" / "data"


@pytest.fixture(scope="session")
def _ethanol_frames(ethanol_folder: Path) -> list[ase.Atoms]:
    return list(ase.io.iread(ethanol_folder / "train.xyz", index=":40"))


@pytest.fixture
def ethanol(_ethanol_frames: list[ase.Atoms]) -> list[ase.Atoms]:
    """The first 40 ethanol molecules of the training set, with energies and forces."""
    frames = []
    for frame in _ethanol_frames:
        copy = frame.copy()
        copy.calc = frame.calc
        frames.append(copy)
    return frames
