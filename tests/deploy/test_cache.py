"""Compiled calculators: the same numbers, compiled once, never again during dynamics."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

import graph_pes.deploy.cache
from graph_pes import AtomicGraph
from graph_pes.deploy import ExportedModel, compiled
from graph_pes.deploy.cache import (
    cached_training_code,
    compiled_file,
    fingerprint,
    training_fingerprint,
)
from graph_pes.deploy.engine import EngineInputs
from graph_pes.deploy.training_code import LAYOUT, PROGRAMS, Layout, TrainingCode
from graph_pes.deploy.training_function import TrainingFunction
from graph_pes.drivers.kept_matrix import KeptMatrix
from graph_pes.files import atomic_write
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

    shapes: set[torch.Size] = set()
    found = KeptMatrix.inputs

    def inputs(self: KeptMatrix, graph: AtomicGraph) -> EngineInputs:
        made = found(self, graph)
        shapes.add(made.vectors.shape)
        return made

    monkeypatch.setattr(KeptMatrix, "inputs", inputs)
    for system in (atoms, reference):
        system.set_momenta(np.random.default_rng(0).normal(0, 0.45, (len(system), 3)))  # 60 K
        VelocityVerlet(system, 2 * units.fs).run(200)  # neighbours come and go
    assert len(shapes) > 1  # numbers of columns
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
        raise RuntimeError("No working C++ compiler found in (None, 'g++')\nand more")

    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    monkeypatch.setattr(graph_pes.deploy.cache, "export_model", fails)
    model = argon()
    assert compiled(model) is model
    (warning,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert warning == (
        "AdditionModel runs without compilation, which failed: RuntimeError: No working C++ "
        "compiler found in (None, 'g++'); and more. Install g++, or name another compiler in the "
        "environment variable CXX"
    )
    assert not list(tmp_path.rglob("*.pt2"))


# --- several processes ------------------------------------------------------------------------


def in_processes(n: int, command: Callable[[], object]) -> None:
    """Carry out a command in several processes at the same time."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=command) for _ in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * n


def test_of_several_processes_one_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path / "cache"))

    def slowly(model: GraphPESModel, path: Path) -> None:
        (tmp_path / f"compiled by {os.getpid()}").touch()
        time.sleep(0.5)
        with atomic_write(path) as file:
            file.write_text("compiled")

    monkeypatch.setattr(graph_pes.deploy.cache, "export_model", slowly)

    def command() -> None:
        assert compiled_file(argon()).read_text() == "compiled"

    in_processes(4, command)
    assert len(list(tmp_path.glob("compiled by *"))) == 1


def test_of_several_processes_one_compiles_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path / "cache"))
    code = TrainingCode(lambda *_: [], lambda *_: [], Layout(0, ()))

    def slowly(function: TrainingFunction, folder: Path) -> TrainingCode:
        (tmp_path / f"compiled by {os.getpid()}").touch()
        time.sleep(0.5)
        (folder / LAYOUT).touch()
        return code

    def load(folder: Path) -> TrainingCode | None:
        return code if (folder / LAYOUT).exists() else None

    monkeypatch.setattr(graph_pes.deploy.cache, "compile_programs", slowly)
    monkeypatch.setattr(graph_pes.deploy.cache, "load_programs", load)

    def command() -> None:
        assert cached_training_code(TrainingFunction(argon(), True), "") is code

    in_processes(4, command)
    assert len(list(tmp_path.glob("compiled by *"))) == 1


def test_a_process_that_was_killed_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is gone with it, and what it had written is not taken for complete."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    function = TrainingFunction(argon(), True)

    def die(function: TrainingFunction, folder: Path) -> None:
        (folder / PROGRAMS[0]).write_text("the first half")
        library = Path(cache_dir()) / "half.so"
        library.parent.mkdir(exist_ok=True)
        library.write_text("torch would load it")
        os.kill(os.getpid(), signal.SIGKILL)

    def command() -> None:
        monkeypatch.setattr(graph_pes.deploy.cache, "compile_programs", die)
        cached_training_code(function, "")

    process = multiprocessing.get_context("fork").Process(target=command)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    assert len(list(tmp_path.rglob("half.so"))) == 1

    def refuse(*_: object) -> None:
        assert not list(tmp_path.rglob("half.so"))
        raise InterruptedError("compiles again")

    monkeypatch.setattr(graph_pes.deploy.cache, "compile_programs", refuse)
    with pytest.raises(InterruptedError, match="compiles again"):
        cached_training_code(function, "")


def test_weights_do_not_matter_for_training_but_sizes_do() -> None:
    found = training_fingerprint(argon(), "")
    other = argon()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    assert training_fingerprint(other, "") == found
    assert training_fingerprint(other, "frozen") != found
    assert training_fingerprint(other.float(), "") != found
    assert training_fingerprint(argon(epsilon=0.02), "") != found
