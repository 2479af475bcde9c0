"""What is seen while a model is trained."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .metrics import VALIDATION_LOSS


class ValidationTable:
    """One line of numbers for each validation; a star marks the lowest loss so far."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._widths: dict[str, int] = {}

    def show(self, trainer: pl.Trainer) -> None:
        """Print the line of the validation that has just ended."""
        row = self._row(trainer)
        if not self._widths:
            print("Validation, in eV and Å; * is the lowest loss so far:")
            self._widths = {key: max(len(key), len(value)) + 2 for key, value in row.items()}
            self._print({key: key for key in row})
        self._print(row)

    def _row(self, trainer: pl.Trainer) -> dict[str, str]:
        row = {
            "epoch": epoch_of(trainer),
            "time/s": f"{time.perf_counter() - self._start:.1f}",
        }
        metrics = trainer.callback_metrics
        if VALIDATION_LOSS in metrics:
            loss = float(metrics[VALIDATION_LOSS])
            # That of the callback that saves the best model.
            best = [getattr(c, "best_val_loss", None) for c in trainer.callbacks]  # type: ignore[attr-defined]
            row["loss"] = f"{loss:#.5g}{'*' if loss in best else ' '}"
        for key in trainer.progress_bar_metrics:
            if key.startswith("valid/metrics/") and key in metrics:
                row[key.removeprefix("valid/metrics/")] = f"{float(metrics[key]):#.5g}"
        return row

    def _print(self, cells: Mapping[str, str]) -> None:
        line = "".join(f"{cells.get(key, '-'):>{width}}" for key, width in self._widths.items())
        print(line, flush=True)


def epoch_of(trainer: pl.Trainer) -> str:
    """The present epoch of how many, counted from 1."""
    epoch = str(trainer.current_epoch + 1)
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        return epoch
    return f"{epoch:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}"


class LoggedProgressBar(ProgressBar):
    """One line of numbers for each validation: progress for log files."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True

    def disable(self) -> None:  # noqa: D102
        self._enabled = False

    def enable(self) -> None:  # noqa: D102
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._table = ValidationTable()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if self._enabled and not trainer.sanity_checking:
            self._table.show(trainer)


class RichProgress(LoggedProgressBar):
    """The same lines, with a bar for the whole of training and the time left below them.

    Parameters
    ----------
    console
        Where the bar is drawn; the terminal by default.
    """

    def __init__(self, console: Console | None = None):
        super().__init__()
        self._bar = Progress(
            TextColumn("epoch {task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, start=False)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        epochs, batches = trainer.max_epochs, trainer.num_training_batches
        endless = epochs is None or epochs < 0 or batches == float("inf")
        total = None if endless or epochs is None else epochs * batches
        if not self._enabled or self._bar.live.is_started:
            self._bar.update(self._task, description=epoch_of(trainer), total=total, refresh=True)
            return
        self._bar.start()
        done = 0 if endless else trainer.current_epoch * int(batches)
        self._bar.reset(self._task, total=total, completed=done, description=epoch_of(trainer))

    def on_train_batch_end(  # noqa: D102
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._bar.advance(self._task)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: D102
        self._bar.stop()
