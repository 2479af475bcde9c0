"""Checkpoints of Lightning, from which training goes on after an interruption."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import CheckpointIO

from graph_pes.files import atomic_write


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint completely or not at all.

    Lightning's own writes to the system's temporary folder and moves the file from there,
    which is a copy, that may be interrupted, where this is another file system.
    """

    def save_checkpoint(  # noqa: D102
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        with atomic_write(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(  # noqa: D102
        self,
        path: str | os.PathLike[str],
        map_location: Any = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        return read_checkpoint(path, map_location)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:  # noqa: D102
        Path(path).unlink(missing_ok=True)


class FolderCheckpoint(ModelCheckpoint):
    """Keeps checkpoints in a folder, which may be moved before training goes on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        before, now = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, str) and value.startswith(before):
                return now + value.removeprefix(before)
            if isinstance(value, dict):
                return {moved(key): inner for key, inner in value.items()}
            return value

        super().load_state_dict({key: moved(value) for key, value in state_dict.items()})


def read_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """The contents of a checkpoint, which may hold tensors and plain values only.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{os.fspath(path)} is not a checkpoint, or is damaged: {error}"
        ) from error


def epochs_done(checkpoint: Path) -> int:
    """Number of complete epochs at the time of a checkpoint.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    progress = read_checkpoint(checkpoint)["loops"]["fit_loop"]["epoch_progress"]
    return progress["current"]["processed"]
