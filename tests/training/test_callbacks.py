"""Callbacks: what they log, save and stop."""

from __future__ import annotations

import errno
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from graph_pes.cli.trainer import _progress_bar
from graph_pes.models import LearnableOffset, load_model, save_model
from graph_pes.models.io import load_metadata
from graph_pes.training.callbacks import (
    DumpModel,
    GraphPESCallback,
    LoggedProgressBar,
    RichProgress,
)
from graph_pes.training.checkpoints import AtomicCheckpointIO, epochs_done, read_checkpoint
from tests.runs import Recorder, column, config, logged, same, train, weights


def test_dumps(data_files: Path, tmp_path: Path):
    recorder = Recorder()
    folder = train(
        config(
            data_files,
            tmp_path,
            "fitting/trainer_kwargs/max_epochs=5",
            "fitting/callbacks=[{+graph_pes.training.callbacks.DumpModel: 2}]",
        ),
        callbacks=[recorder],
    )
    dumps = {path.name: path for path in (folder / "dumps").iterdir()}
    assert set(dumps) == {f"model_{epoch}.pt" for epoch in (0, 2, 4)}
    for epoch in (0, 2, 4):
        model = load_model(dumps[f"model_{epoch}.pt"])
        assert same(weights(model), recorder.validated[epoch])
    assert DumpModel().every_n_val_checks == 10


def test_offsets_and_scales_in_the_log(data_files: Path, tmp_path: Path):
    recorder = Recorder()
    folder = train(config(data_files, tmp_path), callbacks=[recorder])
    offsets, scales = "models.offset.offsets.values", "many-body.scaler.per_element_scaling.values"
    for symbol, Z in (("H", 1), ("C", 6), ("O", 8)):
        expected = [float(w[offsets][Z]) for w in recorder.validated]
        np.testing.assert_allclose(column(folder, f"offset/{symbol}"), expected, rtol=1e-6)
        expected = [float(w[f"models.{scales}"][Z]) for w in recorder.validated]
        np.testing.assert_allclose(column(folder, f"scale/many-body/{symbol}"), expected, rtol=1e-6)


def test_scales_of_a_model_that_is_no_sum(data_files: Path, tmp_path: Path):
    model = "model={+PaiNN: {channels: 4, layers: 1, cutoff: 3.0}}"
    folder = train(config(data_files, tmp_path, model))
    names = {name for row in logged(folder) for name in row}
    assert {"scale/H", "scale/C", "scale/O"} <= names
    assert not any(name.startswith("offset/") for name in names)


def test_early_stopping(data_files: Path, tmp_path: Path):
    recorder = Recorder()
    folder = train(
        config(
            data_files,
            tmp_path,
            "fitting/trainer_kwargs/max_epochs=20",
            "fitting/early_stopping={patience: 2, min_delta: 100}",
        ),
        callbacks=[recorder],
    )
    # nothing is an improvement on the first validation
    assert len(recorder.losses) == 3
    best = column(folder, "early_stopping/best")
    np.testing.assert_allclose(best, [recorder.losses[0]] * len(best), rtol=1e-6)
    assert column(folder, "early_stopping/checks_since_best") == [0, 1]


def test_early_stopping_by_another_number(data_files: Path, tmp_path: Path):
    recorder = Recorder()
    train(
        config(
            data_files,
            tmp_path,
            "fitting/trainer_kwargs/max_epochs=20",
            "fitting/early_stopping={patience: 1, min_delta: 100}",
            "fitting/early_stopping/monitor=valid/metrics/forces_mae",
        ),
        callbacks=[recorder],
    )
    assert len(recorder.losses) == 2
    message = "there is no metric 'valid/metrics/forces': did you mean 'valid/metrics/forces_"
    with pytest.raises(ValueError, match=message):
        train(
            config(
                data_files,
                tmp_path,
                "fitting/early_stopping={patience: 1, monitor: valid/metrics/forces}",
            )
        )


def test_the_deprecated_key_for_early_stopping(
    data_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = train(config(data_files, tmp_path, "fitting/early_stopping_patience=3"))
    warnings = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert warnings == [
        "[graph-pes WARNING]: fitting/early_stopping_patience is deprecated: "
        "use fitting/early_stopping/patience"
    ]
    assert column(folder, "early_stopping/best")


def test_a_callback_of_ones_own_in_place_of_ours(data_files: Path, tmp_path: Path):
    bar = "fitting/callbacks=[{+pytorch_lightning.callbacks.TQDMProgressBar: {refresh_rate: 0}}]"
    folder = train(config(data_files, tmp_path, bar))
    assert "loss so far" not in (folder / "rank-0.log").read_text()


class Keeper(GraphPESCallback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        assert self.root is not None
        (self.root / "seen").write_text(type(self.get_model(pl_module)).__name__)


def test_callbacks_know_the_folder_and_the_model(data_files: Path, tmp_path: Path):
    folder = train(
        config(data_files, tmp_path, "fitting/callbacks=[+tests.training.test_callbacks.Keeper()]")
    )
    assert (folder / "seen").read_text() == "AdditionModel"


def test_diverged_training_is_an_error(data_files: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"training diverged: .*gradient_clip_val"):
        train(config(data_files, tmp_path, "fitting/optimizer={name: SGD, lr: 1e30}"))


def test_the_bar_on_a_terminal(data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=200, color_system=None)
    monkeypatch.setattr("graph_pes.cli.trainer._progress_bar", lambda kind: RichProgress(console))
    folder = train(config(data_files, tmp_path, "fitting/trainer_kwargs/max_epochs=3"))
    seen = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for epoch in (1, 2, 3):
        assert f"epoch {epoch}/3 " in seen
    assert re.search(r"epoch 3/3 ━+ 0:00:\d\d left: 0:00:00", seen)
    losses = column(folder, "valid/loss/total")
    assert f"{losses[-1]:#.5g}" in seen


@pytest.mark.parametrize("overrides", [["fitting/trainer_kwargs/max_epochs=-1"], []])
def test_the_bar_of_a_run_whose_length_is_not_known(
    overrides: list[str], data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr("graph_pes.cli.trainer._progress_bar", lambda kind: RichProgress(console))
    train(config(data_files, tmp_path, "fitting/trainer_kwargs/max_steps=3", *overrides))


def test_bars_are_for_terminals():
    assert type(_progress_bar("rich")) is LoggedProgressBar
    assert type(_progress_bar("logged")) is LoggedProgressBar


# --- saving -----------------------------------------------------------------------------------


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_previous_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "model.pt"
    save_model(LearnableOffset(H=-1.0), path, {"epoch": 3})
    before = path.read_bytes()

    def half(contents: object, file: Path) -> None:
        Path(file).write_bytes(before[:100])
        full_disk()

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        save_model(LearnableOffset(H=-2.0), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    assert load_metadata(path) == {"epoch": 3}


def test_checkpoints_are_written_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "last.ckpt"
    files = AtomicCheckpointIO()
    files.save_checkpoint({"x": torch.ones(3)}, path)
    before = path.read_bytes()

    def killed(contents: object, file: Path) -> None:
        Path(file).write_bytes(before[:100])
        raise SystemExit

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(SystemExit):
        files.save_checkpoint({"x": torch.zeros(3)}, path)
    assert torch.equal(files.load_checkpoint(path)["x"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    files.remove_checkpoint(path)
    files.remove_checkpoint(path)
    assert not path.exists()


def test_damaged_checkpoints_are_named(tmp_path: Path):
    path = tmp_path / "last.ckpt"
    torch.save({"loops": {}}, path)
    path.write_bytes(path.read_bytes()[:-50])
    for read in (read_checkpoint, epochs_done):
        with pytest.raises(ValueError, match=r"last.ckpt is not a checkpoint, or is damaged"):
            read(path)
