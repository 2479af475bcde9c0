"""Energies, forces and stress that LAMMPS gave: see ``tests/references/make_lammps.py``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list

from graph_pes.models import (
    GraphPESModel,
    LennardJones,
    Morse,
    StillingerWeber,
    ZBLCoreRepulsion,
)
from graph_pes.units import COULOMB_CONSTANT

from .transplant import REFERENCES, Frozen, assert_agrees, frozen_structures

ALL = {"energy", "forces", "stress", "virial"}

each_precision = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def frozen_predictions(name: str) -> Frozen:
    return dict(np.load(REFERENCES / f"lammps_{name}.npz"))


def arguments(frozen: Frozen, *names: str) -> dict[str, float]:
    return {name: frozen[name].item() for name in names}


def in_precision(model: type[GraphPESModel], dtype: torch.dtype, **kwargs: object) -> GraphPESModel:
    """The model with its arguments in full precision, and then cast."""
    torch.set_default_dtype(torch.float64)
    return model(**kwargs).to(dtype).eval()


@each_precision
@pytest.mark.parametrize("shift", [False, True])
def test_lennard_jones(shift: bool, dtype: torch.dtype) -> None:
    frozen = frozen_predictions("lj_cut_shifted" if shift else "lj_cut")
    given = arguments(frozen, "cutoff", "epsilon", "sigma")
    assert_agrees(in_precision(LennardJones, dtype, shift=shift, **given), frozen, ALL)


@each_precision
def test_morse(dtype: torch.dtype) -> None:
    frozen = frozen_predictions("morse")
    given = arguments(frozen, "cutoff", "D", "a", "r0")
    # Energies are counted from infinity in LAMMPS, and from the bottom of the well here.
    for n, (atoms, expected) in enumerate(frozen_structures(frozen)):
        pairs = len(neighbor_list("i", atoms, given["cutoff"])) / 2
        frozen[f"structure.{n}.energy"] = expected["energy"] + pairs * given["D"]
    assert_agrees(in_precision(Morse, dtype, **given), frozen, ALL)


@each_precision
def test_stillinger_weber(dtype: torch.dtype) -> None:
    frozen = frozen_predictions("sw")
    given = {
        **arguments(frozen, "epsilon", "sigma", "lambda_"),
        **{name: (frozen[name].item(), False) for name in ("A", "B", "a", "gamma")},
    }
    assert_agrees(in_precision(StillingerWeber, dtype, **given), frozen, ALL)


@each_precision
def test_zbl(dtype: torch.dtype) -> None:
    frozen = frozen_predictions("zbl")
    ratio = COULOMB_CONSTANT / frozen["coulomb_constant"]
    assert abs(ratio - 1) < 1e-7
    in_our_units = {
        key: value * ratio if key.endswith(("energy", "forces", "virial")) else value
        for key, value in frozen.items()
    }
    model = in_precision(ZBLCoreRepulsion, dtype, **arguments(frozen, "cutoff"))
    assert_agrees(model, in_our_units, ALL - {"stress"})
