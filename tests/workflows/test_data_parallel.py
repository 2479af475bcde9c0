"""Several processes give what one process with batches as many times as large gives."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities.rank_zero import rank_zero_only

import graph_pes.cli.train
import graph_pes.cli.trainer
from graph_pes.cli.resume import resume
from graph_pes.cli.train import train_from_config
from graph_pes.models import load_model
from tests.runs import N_TRAIN, column, config, same, train, weights

REPOSITORY = Path(__file__).parents[2]

LOSSES = [
    {"+PerAtomEnergyLoss": {"metric": "RMSE", "weight": 2.0}},
    {"+PropertyLoss": {"property": "energy", "metric": "MAE"}},
    {"+PropertyLoss": {"property": "forces", "metric": "RMSE"}},
    {"+PropertyLoss": {"property": "forces", "metric": "MAE"}},
]
CURVES = ("train/loss/total", "valid/loss/total", "valid/metrics/forces_rmse")


def one_process(data_files: Path, root: Path, *overrides: str, batch_size: int) -> dict[str, Any]:
    plain = config(
        data_files,
        root,
        "general/run_id=one",
        f"data/train={{path: {data_files}/train.xyz}}",
        f"fitting/loader_kwargs/batch_size={batch_size}",
        *overrides,
    )
    return {**plain, "loss": LOSSES}


def two_processes(plain: dict[str, Any]) -> dict[str, Any]:
    """The same with half the batch in each of two."""
    fitting = plain["fitting"]
    return {
        **plain,
        "general": {**plain["general"], "run_id": "two"},
        "fitting": {
            **fitting,
            "trainer_kwargs": {**fitting["trainer_kwargs"], "devices": 2, "strategy": "ddp"},
            "loader_kwargs": {
                **fitting["loader_kwargs"],
                "batch_size": fitting["loader_kwargs"]["batch_size"] // 2,
            },
        },
    }


def test_the_command_with_two_processes(data_files: Path, tmp_path: Path):
    plain = one_process(data_files, tmp_path, batch_size=4)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two_processes(plain)))
    process = subprocess.run(
        [sys.executable, "-m", "graph_pes.cli.train", str(tmp_path / "two.yaml")],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    # one process speaks
    assert process.stdout.count("Testing complete") == 1
    assert process.stdout.count("Training on 2 processes") == 1
    assert "Traceback" not in process.stderr
    assert "recommended" not in process.stderr
    one, two = train(plain), tmp_path / "two"
    assert sorted(p.name for p in two.iterdir()) == sorted(
        [p.name for p in one.iterdir()] + ["errors.csv", "parity.png"]
    )
    for name in CURVES:
        curve = column(one, name)
        assert len(curve) == (2 * N_TRAIN / 4 if name.startswith("train") else 2)
        np.testing.assert_allclose(column(two, name), curve, rtol=1e-5)
    summaries = [yaml.safe_load((f / "summary.yaml").read_text()) for f in (one, two)]
    for key, value in summaries[0].items():
        if key.startswith("test/"):
            assert summaries[1][key] == pytest.approx(value, rel=1e-4)


# --- two processes that are forked from this one, which is quicker ------------------------------


def _one_of_two(rank: int, port: int, command: Callable[[], object]) -> None:
    os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    command()


def in_two_processes(command: Callable[[], object]) -> list[int | None]:
    """Exit codes of two processes that do the same."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_one_of_two, args=(n, port, command)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_pes.cli.train, "report", lambda *_: [])


def test_a_training_set_that_does_not_divide(data_files: Path, tmp_path: Path):
    """Of 7 structures, the first is drawn again in the last batch of the epoch."""
    overrides = ["data/train/n=7", "fitting/optimizer/lr=0.0"]
    loss = {"loss": [{"+PropertyLoss": {"property": "energy", "metric": "MSE"}}]}
    plain = one_process(data_files, tmp_path, *overrides, batch_size=4) | loss
    assert in_two_processes(lambda: train_from_config(two_processes(plain))) == [0, 0]
    one, two = train(plain), tmp_path / "two"
    each = one_process(data_files, tmp_path, *overrides, batch_size=1) | loss
    each["fitting"]["trainer_kwargs"]["max_epochs"] = 1
    errors = column(train(each), "train/loss/total")
    assert len(errors) == 7
    expected = [np.mean(errors[:4]), np.mean([*errors[4:], errors[0]])]
    np.testing.assert_allclose(column(two, "train/loss/total")[:2], expected, rtol=1e-5)
    # each of the 5 structures to validate counts once
    for name in CURVES[1:]:
        np.testing.assert_allclose(column(two, name), column(one, name), rtol=1e-5)


class Stop(pl.Callback):
    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) == (1, 1):
            raise SystemExit(3)


def test_resuming_in_two_processes(data_files: Path, tmp_path: Path):
    overrides = ["fitting/trainer_kwargs/max_epochs=3", "fitting/ema/decay=0.5"]
    plain = two_processes(one_process(data_files, tmp_path, *overrides, batch_size=4))
    cut = {**plain, "general": {**plain["general"], "run_id": "cut"}}
    with pytest.MonkeyPatch.context() as patch:
        make = graph_pes.cli.trainer.make_callbacks
        patch.setattr(graph_pes.cli.trainer, "make_callbacks", lambda *a: [Stop(), *make(*a)])
        assert in_two_processes(lambda: train_from_config(cut)) == [3, 3]
    assert in_two_processes(lambda: resume(tmp_path / "cut")) == [0, 0]
    assert in_two_processes(lambda: train_from_config(plain)) == [0, 0]
    models = [weights(load_model(tmp_path / name / "model.pt")) for name in ("two", "cut")]
    assert same(*models)
