"""A run that is killed goes on to the weights that it would have had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import graph_pes.cli.train
from graph_pes.cli.resume import resume
from graph_pes.models import load_model
from tests.runs import config, same, train, weights

REPOSITORY = Path(__file__).parents[2]


def test_kill_minus_9(data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph_pes.cli.train, "report", lambda *_: [])
    plain = config(
        data_files,
        tmp_path,
        "fitting/trainer_kwargs/max_epochs=40",
        "fitting/loader_kwargs={batch_size: 1, num_workers: 1}",
        f"data/train={{path: {data_files}/train.xyz, transform: random_rotation}}",
    )
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(plain))
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with subprocess.Popen(
        [sys.executable, "-m", "graph_pes.cli.train", str(tmp_path / "run.yaml")],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            # the line of the third epoch is written when that ends: now the fourth one begins
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("    3/40"):
                    break
            else:
                pytest.fail("".join(lines))
            time.sleep(0.05)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    done = torch.load(checkpoint, weights_only=True)["epoch"] + 1
    assert 2 <= done < 40
    assert load_model(tmp_path / "run" / "model.pt")

    # as it would have gone on, for a few epochs more
    epochs = done + 3
    plain["fitting"]["trainer_kwargs"]["max_epochs"] = epochs
    written = yaml.safe_load((tmp_path / "run" / "train-config.yaml").read_text())
    written["fitting"]["trainer_kwargs"]["max_epochs"] = epochs
    (tmp_path / "run" / "train-config.yaml").write_text(yaml.safe_dump(written))
    resume(tmp_path / "run")
    full = train({**plain, "general": {**plain["general"], "run_id": "full"}})
    models = [weights(load_model(folder / "model.pt")) for folder in (full, tmp_path / "run")]
    assert same(*models)
    states = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (full, tmp_path / "run")
    ]
    assert all(torch.equal(states[0][k], v) for k, v in states[1].items() if torch.is_tensor(v))
