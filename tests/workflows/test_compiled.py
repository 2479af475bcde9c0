"""Training by compiled code follows the same curve."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

import graph_pes.cli.train
import graph_pes.deploy.training_code
from graph_pes.cli.resume import resume
from graph_pes.cli.train import train_from_config
from graph_pes.models import load_model
from tests.recorded import without_machine_code as without_machine_code
from tests.runs import column, config, same, train, weights
from tests.workflows.test_data_parallel import in_two_processes, one_process, two_processes
from tests.workflows.test_kill import Wait

SCHNET = "{+SchNet: {channels: 4, layers: 1, expansion_features: 4, cutoff: 3.0}}"
FROZEN = f"{{+freeze_matching: {{model: {SCHNET}, pattern: .*interactions}}}}"


def settings(data_files: Path, root: Path, *overrides: str) -> dict[str, Any]:
    """50 steps with batches of 3, 3 and 2 structures."""
    return config(
        data_files,
        root,
        f"model/many-body={SCHNET}",
        "fitting/trainer_kwargs/max_epochs=17",
        "fitting/loader_kwargs/batch_size=3",
        *overrides,
    )


def assert_same_curves(data_files: Path, root: Path, *overrides: str) -> None:
    curves = {}
    for compiled in ("false", "true"):
        setting = f"fitting/compile={compiled}"
        folder = train(settings(data_files, root / compiled, *overrides, setting))
        names = ("train/loss/total", "valid/loss/total")
        curves[compiled] = [x for name in names for x in column(folder, name)]
        assert len(curves[compiled]) >= 51
    assert curves["true"] == pytest.approx(curves["false"], rel=1e-4)


@pytest.mark.usefixtures("without_machine_code")
@pytest.mark.parametrize(
    "overrides",
    [
        ["fitting/ema={decay: 0.9}", "fitting/trainer_kwargs/gradient_clip_val=0.1"],
        [
            f"model/many-body={FROZEN}",
            "loss=+PerAtomEnergyLoss()",
            "fitting/trainer_kwargs/accumulate_grad_batches=2",
            "general/torch/dtype=float64",
            "fitting/optimizer/lr=0.02",
        ],
    ],
    ids=["ema and clipping", "frozen parts and accumulated gradients"],
)
def test_losses_are_those_of_eager_training(
    overrides: list[str],
    data_files: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert_same_curves(data_files, tmp_path, *overrides)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.usefixtures("without_machine_code")
def test_two_processes(data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_pes.cli.train, "report", lambda *_: [])
    overrides = (f"model/many-body={SCHNET}", "fitting/compile=true")
    plain = one_process(data_files, tmp_path, *overrides, batch_size=4)
    one = train(plain)  # also makes the programs for both
    assert in_two_processes(lambda: train_from_config(two_processes(plain))) == [0, 0]
    for name in ("train/loss/total", "valid/loss/total"):
        assert len(column(one, name)) > 1
        assert column(tmp_path / "two", name) == pytest.approx(column(one, name), rel=1e-5)


@pytest.mark.usefixtures("without_machine_code")
def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_pes.cli.train, "report", lambda *_: [])
    overrides = ("fitting/compile=true", "fitting/ema/decay=0.9")
    batches = "fitting/loader_kwargs/batch_size=1"
    plain = settings(data_files, tmp_path, *overrides, batches)
    plain["fitting"]["trainer_kwargs"]["max_epochs"] = 4
    full = train({**plain, "general": {**plain["general"], "run_id": "full"}})
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=train, args=(plain,), kwargs={"callbacks": [Wait(sender)]})
    process.start()
    assert process.pid is not None
    try:
        assert receiver.poll(60)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    resume(tmp_path / "run")
    assert same(*(weights(load_model(f / "model.pt")) for f in (full, tmp_path / "run")))


PAIR = "{+Morse: {cutoff: 3.0}}"


def test_machine_code_is_made_once_for_all_batches_and_runs(
    data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path / "cache"))
    pair = f"model/many-body={PAIR}"
    assert_same_curves(data_files, tmp_path, pair)
    log = (tmp_path / "true" / "run" / "rank-0.log").read_text()
    assert "Compiling the training of AdditionModel, once on this machine: minutes" in log
    assert log.count("Compiled in") == 1
    assert "WARNING" not in log

    def compile_again(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(graph_pes.deploy.training_code, "machine_code", compile_again)
    before = {key: dict(value) for key, value in counters.items()}
    others = ("fitting/loader_kwargs/batch_size=1", "fitting/trainer_kwargs/max_epochs=2")
    again = settings(data_files, tmp_path / "again", pair, "fitting/compile=true", *others)
    folder = train(again)
    log = (folder / "rank-0.log").read_text()
    assert "Training of AdditionModel: took compiled code from the cache in" in log
    assert "WARNING" not in log
    misses = ("fxgraph_cache_miss", "autograd_cache_miss")
    for kind in ("inductor", "aot_autograd", "stats"):
        for key in misses:
            assert counters[kind].get(key) == before.get(kind, {}).get(key)
    assert torch.isfinite(torch.tensor(column(folder, "train/loss/total"))).all()
