"""``graph-pes-resume``: go on with a training run that was stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from graph_pes.training.config_files import ConfigError

from .run_folder import LAST_CHECKPOINT, read_train_config
from .settings import run_command
from .train import train_from_config


def resume(folder: Path) -> None:
    """Continue the run in a folder from the end of its last complete epoch.

    Raises
    ------
    ConfigError
        If it is not the folder of a run, or no epoch was completed.
    ValueError
        If the checkpoint is damaged.
    """
    config = read_train_config(folder)
    checkpoint = folder / LAST_CHECKPOINT
    if not checkpoint.is_file():
        raise ConfigError(
            f"{folder} has no {LAST_CHECKPOINT}: the run stopped before the end of its first "
            "epoch. Start it again with graph-pes-train."
        )
    train_from_config(config, folder, checkpoint)


def main(argv: list[str] | None = None) -> None:
    """Run ``graph-pes-resume``."""
    parser = argparse.ArgumentParser(description="Go on with a training run.")
    parser.add_argument("folder", type=Path, help="the folder of the run")
    folder = parser.parse_args(argv).folder
    run_command(lambda: resume(folder))


if __name__ == "__main__":
    main()
