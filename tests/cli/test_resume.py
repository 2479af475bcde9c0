"""``graph-pes-resume``: to the bit the weights of the run that was not interrupted."""

# ruff: noqa: E501 (one line for each mistake, or way to train)

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

import graph_pes.cli.train
from graph_pes.cli import resume as command
from graph_pes.cli.resume import resume
from graph_pes.models import load_model, save_model
from graph_pes.models.io import load_metadata
from graph_pes.training.config_files import ConfigError
from tests.runs import config, same, train, weights

EPOCHS = 4


class Stop(pl.Callback):
    """Ends the process, as it were, in the middle of an epoch (counted from 0)."""

    def __init__(self, epoch: int, batch: int = 1):
        self.epoch, self.batch = epoch, batch

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) == (self.epoch, self.batch):
            raise SystemExit


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_pes.cli.train, "report", lambda *_: [])


def tensors(path: Path, key: str) -> dict[str, torch.Tensor]:
    contents = torch.load(path, weights_only=True)
    return {name: x for name, x in contents[key].items() if torch.is_tensor(x)}


def test_losses(folder: Path) -> dict[str, float]:
    summary = yaml.safe_load((folder / "summary.yaml").read_text())
    return {k: v for k, v in summary.items() if k.startswith(("test/", "valid/"))}


test_losses.__test__ = False  # type: ignore[attr-defined]


def interrupted(plain: dict[str, Any], run_id: str, epoch: int, batch: int = 1) -> Path:
    root = Path(plain["general"]["root_dir"])
    plain = {**plain, "general": {**plain["general"], "run_id": run_id}}
    with pytest.raises(SystemExit):
        train(plain, callbacks=[Stop(epoch, batch)])
    return root / run_id


# --- to the bit -------------------------------------------------------------------------------

WAYS: dict[str, list[str]] = {
    "plain": ["fitting/keep=last", "fitting/optimizer={name: SGD, lr: 1e-2, momentum: 0.9}"],
    "ema": ["fitting/ema/decay=0.8"],
    "swa": ["fitting/swa={lr: 1e-4, start: 1, anneal_epochs: 3}"],
    "swa later": ["fitting/swa={lr: 1e-4, start: 0.8}", "fitting/scheduler={name: StepLR, step_size: 3}"],
    "warm-up": ["fitting/lr_warmup_steps=7", "fitting/scheduler={name: StepLR, step_size: 2, gamma: 0.5}"],
    "short warm-up": ["fitting/lr_warmup_steps=3", "fitting/scheduler={name: CosineAnnealingLR, T_max: 10}"],
    "plateau": ["fitting/scheduler={name: ReduceLROnPlateau, patience: 0, factor: 0.5, threshold: 100, threshold_mode: abs}"],
    "early stopping": ["fitting/early_stopping={patience: 3, min_delta: 100}"],
    "rotations": ["data/train/transform=random_rotation", "fitting/loader_kwargs/num_workers=1"],
    "fine-tuning": [
        "model={+lora: {model: {+PaiNN: {channels: 4, layers: 1, cutoff: 3.0}}, rank: 2}}",
        "fitting/optimizer={name: Adam, lr: 1e-2, lr_factors: {.*interactions: 0.1}}",
        "loss=[+ForceRMSE(), {+L2ToStart: {weight: 0.1}}]",
    ],
    "everything": [
        "fitting/ema/decay=0.8",
        "fitting/lr_warmup_steps=3",
        "fitting/scheduler={name: ExponentialLR, gamma: 0.9}",
        "fitting/auto_fit_reference_energies=true",
        "fitting/trainer_kwargs/gradient_clip_val=1.0",
        "fitting/trainer_kwargs/accumulate_grad_batches=2",
        "general/torch/dtype=float64",
        "fitting/callbacks=[{+DumpModel: {every_n_val_checks: 2}}]",
    ],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_resumed_is_the_same_as_uninterrupted(way: str, data_files: Path, tmp_path: Path):
    plain = config(
        data_files,
        tmp_path,
        f"data/train={{path: {data_files}/train.xyz}}",
        f"fitting/trainer_kwargs/max_epochs={EPOCHS}",
        *WAYS[way],
    )
    full = train(plain)
    cut = interrupted(plain, "cut", epoch=2)
    assert torch.load(cut / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    resume(cut)
    for file, key in (
        ("checkpoints/last.ckpt", "state_dict"),
        ("checkpoints/best.ckpt", "state_dict"),
        ("model.pt", "state"),
    ):
        assert same(tensors(full / file, key), tensors(cut / file, key)), file
    states = [
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]
        for f in (full, cut)
    ]
    assert str(states[0]) == str(states[1])
    assert load_metadata(full / "model.pt") == load_metadata(cut / "model.pt")
    assert test_losses(full) == test_losses(cut)
    dumps = [sorted(p.name for p in (f / "dumps").glob("*")) for f in (full, cut)]
    assert dumps[0] == dumps[1]


def test_interrupted_twice(data_files: Path, tmp_path: Path):
    plain = config(
        data_files, tmp_path, f"fitting/trainer_kwargs/max_epochs={EPOCHS}", "fitting/ema={}"
    )
    full = train(plain)
    cut = interrupted(plain, "cut", epoch=1)
    checkpoint = cut / "checkpoints" / "last.ckpt"
    written = yaml.safe_load((cut / "train-config.yaml").read_text())
    with pytest.raises(SystemExit):
        train(written, cut, checkpoint, callbacks=[Stop(2, 0)])
    resume(cut)
    assert same(tensors(full / "model.pt", "state"), tensors(cut / "model.pt", "state"))
    assert test_losses(full) == test_losses(cut)


# --- what is kept -----------------------------------------------------------------------------


def test_a_better_model_is_never_replaced(data_files: Path, tmp_path: Path):
    plain = config(data_files, tmp_path, "fitting/trainer_kwargs/max_epochs=3")
    cut = interrupted(plain, "cut", epoch=1)
    better = load_model(cut / "model.pt")
    save_model(better, cut / "model.pt", {"valid/loss/total": 0.0, "epoch": 0})
    before = (cut / "model.pt").read_bytes()
    resume(cut)
    assert (cut / "model.pt").read_bytes() == before


def test_the_best_model_of_the_first_part_is_kept(data_files: Path, tmp_path: Path):
    # the rate rises until nothing gets better any more
    plain = config(
        data_files,
        tmp_path,
        "fitting/trainer_kwargs/max_epochs=4",
        "fitting/optimizer={name: SGD, lr: 1e-4}",
        "fitting/scheduler={name: StepLR, step_size: 4, gamma: 1e4}",
        "model=+LearnableOffset()",
        "loss=+PerAtomEnergyLoss()",
    )
    cut = interrupted(plain, "cut", epoch=2)
    before = weights(load_model(cut / "model.pt"))
    resume(cut)
    assert load_metadata(cut / "model.pt")["epoch"] <= 1
    assert same(before, weights(load_model(cut / "model.pt")))


def test_a_run_whose_folder_was_moved(data_files: Path, tmp_path: Path):
    plain = config(data_files, tmp_path, f"fitting/trainer_kwargs/max_epochs={EPOCHS}")
    full, cut = train(plain), interrupted(plain, "cut", epoch=3)
    moved = cut.rename(tmp_path / "moved")
    # nothing is better than this: the best checkpoint must stay
    state = torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)
    (best,) = (
        x for k, x in state["callbacks"].items() if "valid/loss" in k and "best_model" in str(x)
    )
    best["best_model_score"] = best["current_score"] = torch.tensor(0.0)
    best["best_k_models"] = {path: torch.tensor(0.0) for path in best["best_k_models"]}
    best["kth_value"] = torch.tensor(0.0)
    torch.save(state, moved / "checkpoints" / "last.ckpt")
    before = (moved / "checkpoints" / "best.ckpt").read_bytes()
    resume(moved)
    assert (moved / "checkpoints" / "best.ckpt").read_bytes() == before
    assert not cut.exists()
    names = ("checkpoints/last.ckpt", "state_dict")
    assert same(tensors(full / names[0], names[1]), tensors(moved / names[0], names[1]))


def test_a_finished_run_is_left_as_it_is(run: Path, tmp_path: Path):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    before = {
        name: (folder / name).read_bytes()
        for name in ("model.pt", "summary.yaml", "train-config.yaml", "version_0/metrics.csv")
    }
    resume(folder)
    for name, content in before.items():
        assert (folder / name).read_bytes() == content, name


def test_the_log_goes_on(data_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plain = config(data_files, tmp_path, "fitting/trainer_kwargs/max_epochs=3")
    cut = interrupted(plain, "cut", epoch=1)
    advice = f"[graph-pes WARNING]: Interrupted. To go on from the last complete epoch: graph-pes-resume {cut}"
    assert advice in capsys.readouterr().out.splitlines()
    before = (cut / "rank-0.log").read_text()
    command.main([str(cut)])
    after = (cut / "rank-0.log").read_text()
    assert after.startswith(before)
    assert after.count("Testing complete") == 1
    out = capsys.readouterr().out
    assert " 2/3 " in out
    assert " 1/3 " not in out


# --- what can't be resumed --------------------------------------------------------------------


def make_nothing(folder: Path) -> None:
    pass


def make_empty(folder: Path) -> None:
    folder.mkdir()


def make_unstarted(folder: Path) -> None:
    folder.mkdir()
    (folder / "train-config.yaml").write_text("model: null\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_nothing, "there is no folder .*/run"),
        (make_empty, "run is not the folder of a training run: it has no train-config.yaml"),
        (make_unstarted, "run has no checkpoints/last.ckpt: the run stopped before the end of"),
    ],
)
def test_folders_that_cannot_be_resumed(make: Callable[[Path], None], message: str, tmp_path: Path):
    make(tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        resume(tmp_path / "run")


def test_a_damaged_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    path = folder / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SystemExit) as caught:
        command.main([str(folder)])
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert "last.ckpt is not a checkpoint, or is damaged" in out
    assert "Traceback" not in out + err
    assert "Traceback" in (folder / "rank-0.log").read_text()
