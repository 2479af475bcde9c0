"""Models whose weights were converted to our own implementation, in drivers.

Small ones of each package, and published ones where these need no package. All others, and
LAMMPS: ``python -m benchmarks.drivers``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.drivers import DRIVERS, TOLERANCES, Case, by_ase, errors_of
from graph_pes.interfaces import matgl_model
from graph_pes.models import GraphPESModel
from tests.models.test_chgnet import from_frozen as from_chgnet
from tests.models.test_mace import from_mace_torch, with_later_parts
from tests.models.test_tensornet import from_matgl
from tests.models.transplant import REFERENCES

from .original import data_file
from .test_matgl import NAME
from .test_sevennet import frozen_model


def frozen(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(REFERENCES / f"{name}.npz"))


MODELS: dict[str, Callable[[], GraphPESModel]] = {
    "chgnet": lambda: from_chgnet(frozen("chgnet")),
    "mace": lambda: from_mace_torch(frozen("mace"), "L1_mixed"),
    "mace-0b3": lambda: with_later_parts(frozen("mace_later"), "0b3"),
    "sevennet": lambda: frozen_model(frozen("sevennet"), "xplor")[0],
    "tensornet": lambda: from_matgl(frozen("matgl_tensornet"), "O(3)", torch.float64),
    "TensorNet-MatPES": lambda: matgl_model(data_file(NAME), native=True, precision="float64"),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_drivers_agree_with_ase(name: str, dtype: str, tmp_path: Path) -> None:
    case = Case(MODELS[name]().to(getattr(torch, dtype)), tmp_path)
    expected = by_ase(case)
    assert abs(expected["forces"]).max() > 0.01
    for driver in ("torch-sim", "i-PI"):
        errors = errors_of(DRIVERS[driver][0](case), expected)
        assert max(errors.values()) < TOLERANCES[dtype], (driver, errors)
