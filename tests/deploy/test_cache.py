"""Compiled calculators: the same numbers, compiled once, never again during dynamics."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

import graph_pes.deploy.cache
from graph_pes.deploy import ExportedModel, compiled
from graph_pes.deploy.cache import fingerprint
from graph_pes.models import (
    AdditionModel,
    FixedOffset,
    GraphPESModel,
    LennardJones,
    SmoothedPairPotential,
)


def argon(epsilon: float = 0.0104) -> GraphPESModel:
    pair = LennardJones(cutoff=6.0, epsilon=epsilon, sigma=3.4)
    return AdditionModel(pair=SmoothedPairPotential(pair), offset=FixedOffset(Ar=-1.0)).double()


def crystal() -> ase.Atoms:
    atoms = bulk("Ar", a=5.4, cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=0)
    return atoms


def test_compiled_dynamics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    atoms, reference, model = crystal(), crystal(), argon()
    atoms.calc = model.ase_calculator(compile=True)
    reference.calc = model.ase_calculator()
    assert isinstance(atoms.calc.model, ExportedModel)
    (file,) = tmp_path.rglob("*.pt2")
    before = file.stat().st_mtime_ns, {key: dict(value) for key, value in counters.items()}

    for system in (atoms, reference):
        system.set_momenta(np.random.default_rng(0).normal(0, 0.45, (len(system), 3)))  # 60 K
        VelocityVerlet(system, 2 * units.fs).run(200)  # neighbours come and go
    np.testing.assert_allclose(atoms.positions, reference.positions, rtol=0, atol=1e-9)
    np.testing.assert_allclose(atoms.get_stress(), reference.get_stress(), rtol=0, atol=1e-12)

    assert isinstance(compiled(argon()), ExportedModel)  # the same weights: the same file
    after = file.stat().st_mtime_ns, {key: dict(value) for key, value in counters.items()}
    assert list(tmp_path.rglob("*.pt2")) == [file]
    assert after == before


def test_other_weights_have_another_name() -> None:
    assert fingerprint(argon()) == fingerprint(argon())
    assert fingerprint(argon()) != fingerprint(argon(epsilon=0.02))
    assert fingerprint(argon()) != fingerprint(argon().float())


def test_without_a_compiler_the_model_itself_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("g++ was not found\nand more")

    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    monkeypatch.setattr(graph_pes.deploy.cache, "export_model", fails)
    model = argon()
    assert compiled(model) is model
    (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert warning.getMessage() == (
        "AdditionModel runs without compilation, which failed (RuntimeError: g++ was not found)"
    )
    assert not list(tmp_path.rglob("*.pt2"))
