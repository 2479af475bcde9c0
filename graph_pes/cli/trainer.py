"""The Lightning trainer of a configuration, with its loggers and callbacks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy

from graph_pes.training.callbacks import (
    EMA,
    VALIDATION_LOSS,
    EarlyStoppingWithLogging,
    GraphPESCallback,
    LoggedProgressBar,
    LRWarmup,
    ModelTimer,
    OffsetLogger,
    RichProgress,
    SaveBestModel,
    ScalesLogger,
    VerboseSWACallback,
    WandbLogger,
    WeightAveraging,
)
from graph_pes.training.checkpoints import AtomicCheckpointIO, FolderCheckpoint
from graph_pes.training.config import FittingConfig, TrainingConfig
from graph_pes.training.messages import logger


def make_trainer(settings: TrainingConfig, folder: Path | None) -> pl.Trainer:
    """The Lightning trainer of a configuration."""
    kwargs = dict(settings.fitting.trainer_kwargs)
    user_callbacks = [*(kwargs.pop("callbacks", None) or []), *settings.fitting.callbacks]
    loggers = kwargs.pop("logger", None)
    if loggers is None:
        loggers = make_loggers(settings, folder) if folder is not None else True
    if n_processes(kwargs) > 1 and kwargs.get("strategy", "auto") in ("auto", "ddp"):
        # A loss on forces alone leaves the energies of atoms without a gradient.
        kwargs["strategy"] = DDPStrategy(find_unused_parameters=True)
    plugins = kwargs.pop("plugins", None) or []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, AtomicCheckpointIO()]
    return pl.Trainer(
        **{
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 10,
            "default_root_dir": folder,
            **kwargs,
            # Ours deals out data to processes itself, and predicts by differentiation.
            "use_distributed_sampler": False,
            "inference_mode": False,
        },
        logger=loggers,
        plugins=plugins,
        callbacks=make_callbacks(settings, user_callbacks, folder),
    )


def n_processes(trainer_kwargs: Mapping[str, Any]) -> int:
    """How many processes Lightning will start for these arguments of its trainer.

    Examples
    --------
    >>> n_processes({"devices": [0, 1], "accelerator": "cpu", "num_nodes": 2})
    4
    """
    devices = trainer_kwargs.get("devices", "auto")
    if isinstance(devices, str) and "," in devices:
        devices = [index for index in devices.split(",") if index.strip()]
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        n = len(devices)
    elif str(devices) in ("auto", "-1"):
        on_gpu = trainer_kwargs.get("accelerator", "auto") in ("auto", "gpu", "cuda")
        n = max(1, torch.cuda.device_count()) if on_gpu else 1
    else:
        n = int(devices)
    return n * int(trainer_kwargs.get("num_nodes", 1))


def make_loggers(settings: TrainingConfig, folder: Path) -> list[Logger]:
    """A CSV log, TensorBoard's where it is installed, W&B's where it is asked for."""
    loggers: list[Logger] = [CSVLogger(save_dir=folder, name="")]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    if settings.wandb is not None:
        loggers += wandb_loggers(settings.wandb, folder)
    return loggers


def wandb_loggers(kwargs: Mapping[str, Any], folder: Path) -> list[Logger]:
    """The W&B logger, or none where it is missing or refuses: losing a run would be worse."""
    try:
        wandb = WandbLogger(folder, **kwargs)
        _ = wandb.experiment
    except ModuleNotFoundError:
        logger.warning("No W&B log: pip install 'graph-pes[wandb]'. The CSV log has everything.")
    except Exception as error:
        logger.warning("No W&B log: %s. The CSV log has everything.", str(error).splitlines()[0])
    else:
        return [wandb]
    return []


def make_callbacks(
    settings: TrainingConfig, user_callbacks: list[pl.Callback], folder: Path | None
) -> list[pl.Callback]:
    """The callbacks of a configuration, those that a user gives among them."""
    fitting = settings.fitting
    wanted = fitting.trainer_kwargs
    callbacks = list(user_callbacks)

    def add(callback: pl.Callback, unless: type | tuple[type, ...]) -> None:
        if not any(isinstance(c, unless) for c in callbacks):
            callbacks.append(callback)

    if fitting.lr_warmup_steps:
        callbacks.append(LRWarmup(fitting.lr_warmup_steps))
    for cls in (OffsetLogger, ScalesLogger, ModelTimer, SaveBestModel):
        add(cls(), cls)
    if wanted.get("enable_progress_bar", True):
        add(_progress_bar(settings.general.progress), ProgressBar)
    if wanted.get("logger", True) is not False:
        add(LearningRateMonitor(logging_interval="epoch"), LearningRateMonitor)
    callbacks += _early_stopping(fitting)
    if wanted.get("enable_checkpointing", True):
        given = [c.filename for c in callbacks if isinstance(c, ModelCheckpoint)]
        callbacks += [
            c for c in (best_checkpoint(folder), last_checkpoint(folder)) if c.filename not in given
        ]
    if fitting.swa is not None:
        swa = fitting.swa
        callbacks.append(VerboseSWACallback(swa.lr, swa.start, swa.anneal_epochs, swa.strategy))
    if fitting.ema is not None:
        callbacks.append(EMA(fitting.ema.decay))
    # These put averages in place of the weights for validation: after those that save.
    callbacks.sort(key=lambda callback: isinstance(callback, WeightAveraging))
    for callback in callbacks:
        if isinstance(callback, GraphPESCallback):
            callback.root = folder
    return callbacks


def _progress_bar(kind: str) -> ProgressBar:
    rich = kind == "rich" and sys.stdout.isatty()
    return RichProgress() if rich else LoggedProgressBar()


def _early_stopping(fitting: FittingConfig) -> list[pl.Callback]:
    if fitting.early_stopping is not None:
        c = fitting.early_stopping
        return [EarlyStoppingWithLogging(c.monitor, c.patience, c.min_delta, mode="min")]
    if fitting.early_stopping_patience is not None:
        logger.warning(
            "fitting/early_stopping_patience is deprecated: use fitting/early_stopping/patience"
        )
        return [EarlyStoppingWithLogging(VALIDATION_LOSS, fitting.early_stopping_patience)]
    return []


def best_checkpoint(folder: Path | None) -> ModelCheckpoint:
    """Keeps the weights with the lowest validation loss."""
    return FolderCheckpoint(
        dirpath=folder and folder / "checkpoints",
        monitor=VALIDATION_LOSS,
        filename="best",
        mode="min",
        save_top_k=1,
        save_weights_only=True,
        # Then, because averages are in place of the weights.
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )


def last_checkpoint(folder: Path | None) -> ModelCheckpoint:
    """Keeps everything needed to go on, at the end of each epoch."""
    return FolderCheckpoint(
        dirpath=folder and folder / "checkpoints",
        filename="last",
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
