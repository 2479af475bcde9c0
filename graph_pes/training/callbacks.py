"""Callbacks of the training loop."""

from __future__ import annotations

import time
from abc import ABC
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks.early_stopping import EarlyStopping
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch import nn

from graph_pes.models.addition import AdditionModel
from graph_pes.models.base import GraphPropertyModel
from graph_pes.models.io import load_metadata, save_model
from graph_pes.models.offsets import LearnableOffset
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.periodic_table import SYMBOLS
from graph_pes.spelling import nearest

from .averaging import EMA, VerboseSWACallback, WeightAveraging
from .messages import logger
from .metrics import VALIDATION_LOSS
from .progress import LoggedProgressBar, RichProgress

__all__ = [
    "EMA",
    "DumpModel",
    "EarlyStoppingWithLogging",
    "GraphPESCallback",
    "LRWarmup",
    "LoggedProgressBar",
    "ModelTimer",
    "OffsetLogger",
    "RichProgress",
    "SaveBestModel",
    "ScalesLogger",
    "VerboseSWACallback",
    "WandbLogger",
    "WeightAveraging",
]


class GraphPESCallback(pl.Callback, ABC):
    """A callback that knows the model and the folder of the run.

    Attributes
    ----------
    root
        The folder of the run; None in processes that write nothing.
    """

    root: Path | None = None

    def get_model(self, pl_module: pl.LightningModule) -> GraphPropertyModel:
        """The model that is being trained."""
        assert isinstance(pl_module.model, GraphPropertyModel)
        return pl_module.model


class DumpModel(GraphPESCallback):
    """Keeps a copy of the model every so often, as ``dumps/model_<epoch>.pt``.

    Parameters
    ----------
    every_n_val_checks
        How many validations apart.
    """

    def __init__(self, every_n_val_checks: int = 10):
        self.every_n_val_checks = every_n_val_checks
        self._checks = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        due = self._checks % self.every_n_val_checks == 0
        self._checks += 1
        if due and self.root is not None:
            path = self.root / "dumps" / f"model_{trainer.current_epoch}.pt"
            save_model(self.get_model(pl_module), path)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"checks": self._checks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self._checks = state_dict["checks"]


class SaveBestModel(GraphPESCallback):
    """Saves the model as ``model.pt`` whenever its validation loss is the lowest so far.

    The loss is kept in the file, and a better model is never replaced by a worse one, also
    when training is resumed.
    """

    def __init__(self) -> None:
        self.best_val_loss = float("inf")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if self.root is not None and (self.root / "model.pt").exists():
            saved = load_metadata(self.root / "model.pt").get(VALIDATION_LOSS, float("inf"))
            self.best_val_loss = min(self.best_val_loss, saved)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        loss = trainer.callback_metrics.get(VALIDATION_LOSS)
        if trainer.sanity_checking or loss is None or not float(loss) < self.best_val_loss:
            return
        self.best_val_loss = float(loss)
        if self.root is not None:
            metadata = {VALIDATION_LOSS: self.best_val_loss, "epoch": trainer.current_epoch}
            save_model(self.get_model(pl_module), self.root / "model.pt", metadata)
            logger.debug("New best model at epoch %(epoch)s: %(valid/loss/total)s", metadata)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"best_val_loss": self.best_val_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self.best_val_loss = min(self.best_val_loss, state_dict["best_val_loss"])


def _per_element(prefix: str, values: Any) -> dict[str, float]:
    return {f"{prefix}/{SYMBOLS[Z]}": values[Z].item() for Z in values.registered_elements}


class OffsetLogger(GraphPESCallback):
    """Logs the energies of atoms that are being trained, as ``offset/<El>``."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        for module in self.get_model(pl_module).modules():
            if isinstance(module, LearnableOffset):
                pl_module.log_dict(_per_element("offset", module.offsets), rank_zero_only=True)
                return


class ScalesLogger(GraphPESCallback):
    """Logs the scales of local energies, as ``scale/[part/]<El>``."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        model = self.get_model(pl_module)
        parts: dict[str, nn.Module] = {"scale": model}
        if isinstance(model, AdditionModel):
            parts = {f"scale/{name}": part for name, part in model.models.items()}
        for prefix, part in parts.items():
            for module in part.modules():
                if isinstance(module, LocalEnergiesScaler):
                    scales = _per_element(prefix, module.per_element_scaling)
                    pl_module.log_dict(scales, rank_zero_only=True)
                    break


class EarlyStoppingWithLogging(EarlyStopping):
    """Stops when a metric has not improved for some validations, and logs how far that is.

    Parameters
    ----------
    monitor
        Name of the metric.
    patience
        Number of validations without improvement.
    min_delta
        The smallest change that is an improvement.
    **kwargs
        Further arguments of Lightning's ``EarlyStopping``.
    """

    def __init__(self, monitor: str, patience: int, min_delta: float = 0.0, **kwargs: Any):
        super().__init__(monitor, min_delta, patience, **kwargs)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look whether there is such a metric, and then at its value.

        Raises
        ------
        ValueError
            If there is none.
        """
        known = trainer.callback_metrics
        if not trainer.sanity_checking and self.monitor not in known:
            raise ValueError(
                f"early_stopping/monitor: there is no metric {self.monitor!r}"
                f"{nearest(self.monitor, known)} Expected one of "
                f"{sorted(key for key in known if key.startswith('valid/'))}"
            )
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the state after the last validation."""
        if trainer.logger is not None and torch.isfinite(self.best_score):
            metrics = {
                "early_stopping/checks_since_best": float(self.wait_count),
                "early_stopping/best": float(self.best_score),
            }
            trainer.logger.log_metrics(metrics, step=trainer.global_step)


class ModelTimer(pl.Callback):
    """Logs the time a step takes, as ``timer/{step_duration_ms,its_per_s}/{train,valid}``."""

    def __init__(self) -> None:
        self._start = 0.0

    def _stop(self, pl_module: pl.LightningModule, stage: Literal["train", "valid"]) -> None:
        seconds = max(time.perf_counter() - self._start, 1e-6)
        values = {"step_duration_ms": 1000 * seconds, "its_per_s": 1 / seconds}
        for name, value in values.items():
            pl_module.log(
                f"timer/{name}/{stage}",
                value,
                batch_size=1,
                on_step=stage == "train",
                on_epoch=stage == "valid",
                prog_bar=name == "its_per_s",
                rank_zero_only=True,
            )

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: D102
        self._start = time.perf_counter()

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        self._stop(pl_module, "train")

    def on_validation_batch_start(self, *_: Any) -> None:  # noqa: D102
        self._start = time.perf_counter()

    def on_validation_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        self._stop(pl_module, "valid")


class WandbLogger(LightningWandbLogger):
    """Logs to Weights & Biases, into the folder of the run.

    Parameters
    ----------
    output_dir
        The folder of the run.
    **kwargs
        Arguments of Lightning's ``WandbLogger``.
    """

    def __init__(self, output_dir: Path, **kwargs: Any):
        kwargs = {"id": output_dir.name, "save_dir": str(output_dir.parent), **kwargs}
        super().__init__(**kwargs)


class LRWarmup(pl.Callback):
    """Raises the learning rate linearly over the first steps, before any schedule starts.

    Parameters
    ----------
    warmup_steps
        Number of steps.
    """

    def __init__(self, warmup_steps: int = 250):
        self.warmup_steps = warmup_steps
        self._held: list[LRSchedulerConfig] = []
        self._rates: list[float] = []

    def _is_warming_up(self, trainer: pl.Trainer) -> bool:
        return trainer.global_step < self.warmup_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if not self._is_warming_up(trainer):
            return
        groups = trainer.optimizers[0].param_groups
        # On resuming, the optimizer holds a rate of the warm-up: the saved ones are the aim.
        self._rates = self._rates or [group["lr"] for group in groups]
        self._held = list(trainer.lr_scheduler_configs)
        trainer.lr_scheduler_configs.clear()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:  # noqa: D102
        if not self._rates:
            return
        done = min(1.0, (trainer.global_step + 1) / self.warmup_steps)
        for group, rate in zip(trainer.optimizers[0].param_groups, self._rates, strict=True):
            group["lr"] = rate * done
        if trainer.global_step + 1 >= self.warmup_steps:
            trainer.lr_scheduler_configs.extend(self._held)
            self._held, self._rates = [], []

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"rates": self._rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self._rates = state_dict["rates"]
