"""The folder of a run, and what is written to it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graph_pes.training.config_files import ConfigError, read_yaml, write_yaml
from graph_pes.training.messages import logger

from .run_id import random_run_id

CONFIG_FILE = "train-config.yaml"
LOG_FILE = "rank-0.log"
SUMMARY_FILE = "summary.yaml"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"

_COUNTS = {"step", "epoch"}

_CONTENTS = """Output of this run is in
    {folder}
        rank-0.log           messages, debugging ones too
        train-config.yaml    the complete configuration
        model.pt             the model with the lowest validation loss
        checkpoints/         to resume from, and the best weights
        version_0/           metrics.csv: losses and metrics while training
        summary.yaml         final metrics
        errors.csv           errors per data set, element and config_type
        parity.png           predictions against labels"""


def new_run_folder(root: str, run_id: str | None) -> Path:
    """Make the folder ``root/run_id``; a taken name becomes ``run_id-1``, ``run_id-2``, ..."""
    name = run_id or random_run_id()
    for n in range(10_000):
        folder = Path(root) / (name if n == 0 else f"{name}-{n}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        if n > 0:
            logger.info("The run %r already exists: this one is %r", name, folder.name)
        return folder
    raise ConfigError(f"there are too many runs called {name!r} in {root}")


def describe_contents(folder: Path) -> str:
    """What a run writes where, for people."""
    return _CONTENTS.format(folder=folder)


def read_train_config(folder: Path) -> dict[str, Any]:
    """The configuration of the run in a folder.

    Raises
    ------
    ConfigError
        If there is none.
    """
    path = folder / CONFIG_FILE
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    if not path.is_file():
        raise ConfigError(f"{folder} is not the folder of a training run: it has no {CONFIG_FILE}")
    return read_yaml(path.read_text(encoding="utf-8"), str(path))


def last_logged(folder: Path) -> dict[str, float]:
    """The last value of every metric in the ``metrics.csv`` files of a run."""
    values: dict[str, float] = {}
    files = folder.glob("version_*/metrics.csv")
    for path in sorted(files, key=lambda p: int(p.parent.name.rpartition("_")[2])):
        with open(path, newline="", encoding="utf-8") as f:
            for row in csv.DictReader(f):
                last = {key: float(value) for key, value in row.items() if value}
                # The number of parameters is logged at step 0, also when a run is resumed.
                counts = {key: max(last[key], values.get(key, 0.0)) for key in _COUNTS & set(last)}
                values.update({**last, **counts})
    return values


def update_summary(folder: Path, values: Mapping[str, Any]) -> None:
    """Add values to ``summary.yaml``, over those of the same name."""
    path = folder / SUMMARY_FILE
    existing = read_yaml(path.read_text(encoding="utf-8"), str(path)) if path.exists() else {}
    write_yaml({**(existing or {}), **values}, path)
