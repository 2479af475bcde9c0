"""Small training runs in this process, and what is to be seen in them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
import ase.io
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

import graph_pes.cli.train
import graph_pes.cli.trainer
from graph_pes.cli.train import train_from_config
from graph_pes.training.config_files import merge, read_config

DATA = Path(__file__).parents[1] / "examples" / "ethanol" / "data"

N_TRAIN, N_VALID, N_TEST = 8, 5, 4


@pytest.fixture(scope="session")
def data_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a handful of ethanol molecules in train.xyz, valid.xyz and test.xyz."""
    folder = tmp_path_factory.mktemp("data")
    for source, name, n in [
        ("train", "train", N_TRAIN),
        ("valid", "valid", N_VALID),
        ("test_1000K", "test", N_TEST),
    ]:
        ase.io.write(folder / f"{name}.xyz", ase.io.read(DATA / f"{source}.xyz", index=f":{n}"))
    return folder


def config(data_files: Path, root: Path, *overrides: str) -> dict[str, Any]:
    """A configuration that is trained in a fraction of a second."""
    base = {
        "model": {
            "offset": "+LearnableOffset()",
            "many-body": {
                "+PaiNN": {"channels": 4, "layers": 1, "radial_features": 4, "cutoff": 3.0}
            },
        },
        "data": {
            "train": str(data_files / "train.xyz"),
            "valid": str(data_files / "valid.xyz"),
        },
        "loss": ["+PerAtomEnergyLoss()", "+ForceRMSE()"],
        "fitting": {
            "trainer_kwargs": {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1},
            "loader_kwargs": {"batch_size": 4, "num_workers": 0},
        },
        "general": {"root_dir": str(root), "run_id": "run", "progress": "logged"},
    }
    return merge(base, read_config(overrides)) if overrides else base


def train(
    config: Mapping[str, Any],
    folder: Path | None = None,
    checkpoint: Path | None = None,
    callbacks: Sequence[pl.Callback] = (),
    report: bool = False,
) -> Path:
    """The folder of a run; with more callbacks, and with or without figures and tables."""
    with pytest.MonkeyPatch.context() as patch:
        if not report:
            patch.setattr(graph_pes.cli.train, "report", lambda *_: [])
        make = graph_pes.cli.trainer.make_callbacks
        patch.setattr(
            graph_pes.cli.trainer, "make_callbacks", lambda *args: [*make(*args), *callbacks]
        )
        found = train_from_config(config, folder, checkpoint)
    assert found is not None
    return found


class Recorder(pl.Callback):
    """Keeps learning rates at each step, weights after each, and the loss of each validation."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.weights: list[dict[str, Tensor]] = []
        self.epoch_ends: list[int] = []
        self.losses: list[float] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[-1]["lr"])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.weights.append(weights(pl_module.model))
        if trainer.is_last_batch:
            self.epoch_ends.append(len(self.weights) - 1)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.validated.append(weights(pl_module.model))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["valid/loss/total"]))


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors are the same to the bit."""
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def logged(folder: Path) -> list[dict[str, float]]:
    """The rows of the CSV log, without empty cells."""
    with open(folder / "version_0" / "metrics.csv", newline="") as f:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(f)]


def column(folder: Path, name: str) -> list[float]:
    return [row[name] for row in logged(folder) if name in row]


def with_labels(
    structures: Sequence[ase.Atoms], change: Callable[[int, ase.Atoms], None], path: Path
) -> Path:
    """Write structures after changing each of them."""
    copies = []
    for n, structure in enumerate(structures):
        copy = structure.copy()
        copy.info["energy"] = structure.get_potential_energy()
        copy.arrays["forces"] = structure.get_forces()
        change(n, copy)
        copies.append(copy)
    ase.io.write(path, copies, format="extxyz")
    return path
