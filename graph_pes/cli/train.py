"""``graph-pes-train``: train a model from a configuration."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dacite
import pytorch_lightning as pl
from pytorch_lightning.callbacks import (
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    RichProgressBar,
)
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from graph_pes.analysis import report
from graph_pes.data import DatasetCollection, GraphDataLoader, GraphDataset
from graph_pes.models.base import GraphPropertyModel
from graph_pes.training.callbacks import (
    EMA,
    EarlyStoppingWithLogging,
    GraphPESCallback,
    LoggedProgressBar,
    LRWarmup,
    ModelTimer,
    OffsetLogger,
    SaveBestModel,
    ScalesLogger,
    VerboseSWACallback,
    WandbLogger,
)
from graph_pes.training.config import (
    FittingConfig,
    GeneralConfig,
    TrainingConfig,
    default_config,
    instantiate,
    parse_data,
    parse_loss,
    parse_model,
    resolve,
)
from graph_pes.training.config_files import ConfigError, read_config, write_yaml
from graph_pes.training.evaluation import evaluate
from graph_pes.training.fit import FitOptions, fit, load_best
from graph_pes.training.messages import log_to_file, log_to_terminal, logger

from .run_folder import (
    CONFIG_FILE,
    describe_contents,
    last_logged,
    new_run_folder,
    update_summary,
)
from .settings import config_arguments, numerical_settings, run_command, without_advice


def train_from_config(
    config: Mapping[str, Any], folder: Path | None = None, checkpoint: Path | None = None
) -> Path | None:
    """Train a model, test it, and write everything to the folder of the run.

    Parameters
    ----------
    config
        The configuration as plain values.
    folder, checkpoint
        Of the run to continue; a new one is made by default.

    Returns
    -------
    Path | None
        The folder of the run; None in the other processes of data-parallel training.

    Raises
    ------
    ConfigError
        If the configuration can't be used.
    """
    resolved = resolve(config, TrainingConfig, default_config())
    general = _general(resolved["general"])
    is_main = rank_zero_only.rank == 0
    log_to_terminal(general.log_level if is_main else "ERROR")
    with numerical_settings(general.torch, general.seed), without_advice():
        settings = instantiate(resolved, TrainingConfig)
        model = parse_model(settings.model)
        data = parse_data(settings.data, model.cutoff_value)
        loss = parse_loss(settings.loss)
        if is_main and folder is None:
            folder = new_run_folder(general.root_dir, general.run_id)
            resolved["general"]["run_id"] = folder.name
            write_yaml(resolved, folder / CONFIG_FILE)
        if is_main and folder is not None:
            log_to_file(folder / "rank-0.log")
            logger.info("ID of this training run: %s", folder.name)
            logger.info(describe_contents(folder))
        folder = folder if is_main else None
        trainer = make_trainer(settings, folder)
        for lightning_logger in trainer.loggers:
            lightning_logger.log_hyperparams(resolved)
        options = FitOptions(
            loader_kwargs=settings.fitting.loader_kwargs,
            pre_fit_model=settings.fitting.pre_fit_model,
            max_n_pre_fit=settings.fitting.max_n_pre_fit,
            auto_fit_reference_energies=settings.fitting.auto_fit_reference_energies,
            seed=general.seed,
        )
        optimizer, scheduler = settings.fitting.make_optimizer(), settings.fitting.make_scheduler()
        model = fit(trainer, model, data, loss, optimizer, scheduler, options, checkpoint)
        if folder is not None:
            if settings.fitting.keep == "best":
                model = load_best(model, folder)
            model = model.to(trainer.strategy.root_device)
            finish(model, data, folder, settings.fitting.loader_kwargs.get("batch_size", 4))
    return folder


def _general(values: Mapping[str, Any]) -> GeneralConfig:
    try:
        return dacite.from_dict(GeneralConfig, values, dacite.Config(strict=True))
    except dacite.DaciteError as error:
        raise ConfigError(f"general: {error}") from error


# --- the trainer --------------------------------------------------------------------------


def make_trainer(settings: TrainingConfig, folder: Path | None) -> pl.Trainer:
    """The Lightning trainer of a configuration."""
    kwargs = dict(settings.fitting.trainer_kwargs)
    user_callbacks = [*(kwargs.pop("callbacks", None) or []), *settings.fitting.callbacks]
    loggers = kwargs.pop("logger", None)
    if loggers is None:
        loggers = make_loggers(settings, folder) if folder is not None else True
    if kwargs.get("devices", 1) not in (1, "1") and kwargs.get("strategy", "auto") in (
        "auto",
        "ddp",
    ):
        # A loss on forces alone leaves the energies of atoms without a gradient.
        kwargs["strategy"] = DDPStrategy(find_unused_parameters=True)
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
        callbacks=make_callbacks(settings, user_callbacks, folder),
    )


def make_loggers(settings: TrainingConfig, folder: Path) -> list[Logger]:
    """A CSV log, TensorBoard's where it is installed, W&B's where it is asked for."""
    loggers: list[Logger] = [CSVLogger(save_dir=folder, name="")]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    if settings.wandb is not None:
        loggers += _wandb_logger(settings.wandb, folder)
    return loggers


def _wandb_logger(kwargs: Mapping[str, Any], folder: Path) -> list[Logger]:
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
    callbacks = list(user_callbacks)

    def add(callback: pl.Callback, unless: type | tuple[type, ...]) -> None:
        if not any(isinstance(c, unless) for c in callbacks):
            callbacks.append(callback)

    if fitting.lr_warmup_steps:
        callbacks.append(LRWarmup(fitting.lr_warmup_steps))
    for callback in (OffsetLogger(), ScalesLogger(), ModelTimer(), SaveBestModel()):
        add(callback, type(callback))
    add(_progress_bar(settings.general.progress), ProgressBar)
    add(LearningRateMonitor(logging_interval="epoch"), LearningRateMonitor)
    callbacks += _early_stopping(fitting)
    add(best_checkpoint(folder), ModelCheckpoint)
    if not any(isinstance(c, ModelCheckpoint) and c.filename == "last" for c in callbacks):
        callbacks.append(last_checkpoint(folder))
    # These put averages in place of the weights for validation: after those that save.
    if fitting.swa is not None:
        swa = fitting.swa
        callbacks.append(VerboseSWACallback(swa.lr, swa.start, swa.anneal_epochs, swa.strategy))
    if fitting.ema is not None:
        callbacks.append(EMA(fitting.ema.decay))
    for callback in callbacks:
        if isinstance(callback, GraphPESCallback):
            callback.root = folder
    return callbacks


def _progress_bar(kind: str) -> ProgressBar:
    rich = kind == "rich" and sys.stdout.isatty()
    return RichProgressBar() if rich else LoggedProgressBar()


def _early_stopping(fitting: FittingConfig) -> list[pl.Callback]:
    if fitting.early_stopping is not None:
        c = fitting.early_stopping
        return [EarlyStoppingWithLogging(c.monitor, c.patience, c.min_delta, mode="min")]
    if fitting.early_stopping_patience is not None:
        logger.warning(
            "fitting/early_stopping_patience is deprecated: use fitting/early_stopping/patience"
        )
        return [EarlyStoppingWithLogging("valid/loss/total", fitting.early_stopping_patience)]
    return []


def best_checkpoint(folder: Path | None) -> ModelCheckpoint:
    """Keeps the weights with the lowest validation loss."""
    return ModelCheckpoint(
        dirpath=folder and folder / "checkpoints",
        monitor="valid/loss/total",
        filename="best",
        mode="min",
        save_top_k=1,
        save_weights_only=True,
        enable_version_counter=False,
    )


def last_checkpoint(folder: Path | None) -> ModelCheckpoint:
    """Keeps everything needed to go on, at the end of each epoch."""
    return ModelCheckpoint(
        dirpath=folder and folder / "checkpoints",
        filename="last",
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


# --- after training -----------------------------------------------------------------------


def finish(
    model: GraphPropertyModel, data: DatasetCollection, folder: Path, batch_size: int
) -> None:
    """Test a trained model; write the summary, the table of errors and the parity plot."""
    logger.info("Training complete.")
    update_summary(folder, last_logged(folder))
    logger.info("Testing the model...")
    datasets = named_datasets(data)
    update_summary(folder, test(model, datasets, "test", batch_size))
    held_out = {name: d for name, d in datasets.items() if name != "train"}
    groups = {name: dataset.config_types() for name, dataset in held_out.items()}
    report(model, held_out, folder, batch_size, groups)
    logger.info("Testing complete: %s", folder)


def named_datasets(data: DatasetCollection) -> dict[str, GraphDataset]:
    """All data sets of a run under their names."""
    datasets = {"train": data.train, "valid": data.valid}
    if isinstance(data.test, dict):
        datasets.update(data.test)
    elif data.test is not None:
        datasets["test"] = data.test
    return datasets


def test(
    model: GraphPropertyModel, datasets: Mapping[str, GraphDataset], prefix: str, batch_size: int
) -> dict[str, float]:
    """Errors of a model on each of several data sets, as ``prefix/dataset/metric``."""
    results: dict[str, float] = {}
    for name, dataset in datasets.items():
        dataset.setup()
        metrics = evaluate(model, GraphDataLoader(dataset, batch_size=batch_size))
        alone = list(datasets) == ["test"]
        results.update(
            {
                f"{prefix}/{metric}" if alone else f"{prefix}/{name}/{metric}": value
                for metric, value in metrics.items()
            }
        )
        shown = ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
        logger.info("%s: %s (eV, Å)", name, shown)
    return results


def main(argv: list[str] | None = None) -> None:
    """Run ``graph-pes-train``."""
    arguments = config_arguments("Train a model.", argv)
    run_command(lambda: train_from_config(read_config(arguments)))


if __name__ == "__main__":
    main()
