"""A run that is killed goes on to the weights that it would have had."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

import graph_pes.cli.train
from graph_pes.cli.resume import resume
from graph_pes.models import load_model
from tests.runs import N_TRAIN, config, same, train, weights


class Wait(pl.Callback):
    """Says when it is in the middle of an epoch, and stays there."""

    def __init__(self, pipe: Connection):
        self.pipe = pipe

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) == (2, N_TRAIN // 2):
            self.pipe.send("in the middle")
            time.sleep(600)


def test_kill_minus_9(data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph_pes.cli.train, "report", lambda *_: [])
    plain = config(
        data_files,
        tmp_path,
        "fitting/trainer_kwargs/max_epochs=4",
        "fitting/loader_kwargs={batch_size: 1, num_workers: 1}",
        f"data/train={{path: {data_files}/train.xyz, transform: random_rotation}}",
    )
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
    killed = tmp_path / "run"
    assert torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    assert load_model(killed / "model.pt")

    resume(killed)
    full = train({**plain, "general": {**plain["general"], "run_id": "full"}})
    models = [weights(load_model(folder / "model.pt")) for folder in (full, killed)]
    assert same(*models)
    states = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (full, killed)
    ]
    assert all(torch.equal(states[0][k], v) for k, v in states[1].items() if torch.is_tensor(v))
