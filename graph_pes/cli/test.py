"""``graph-pes-test``: errors of a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import CSVLogger, Logger

from graph_pes.data import GraphDataset
from graph_pes.models import load_model
from graph_pes.models.base import GraphPropertyModel
from graph_pes.spelling import nearest
from graph_pes.training.config import (
    TestingConfig,
    TorchConfig,
    instantiate,
    parse_data,
    parse_test_sets,
    resolve,
    typed,
)
from graph_pes.training.config_files import ConfigError, read_config
from graph_pes.training.messages import logger, messages_on_terminal

from .run_folder import CONFIG_FILE, SUMMARY_FILE, read_train_config, update_summary
from .settings import config_arguments, numerical_settings, run_command, without_advice
from .train import named_datasets, test
from .trainer import wandb_loggers

_DEFAULTS: dict[str, Any] = {
    "loader_kwargs": {"batch_size": 2, "num_workers": 0},
    "torch": {"float32_matmul_precision": "high"},
}


@dataclass(frozen=True)
class _Data:
    """The part of a training configuration that testing needs."""

    data: Any


def test_from_config(config: Mapping[str, Any]) -> dict[str, float]:
    """Test a model, and add the errors to the ``summary.yaml`` beside it.

    Returns
    -------
    dict[str, float]
        Errors under ``prefix/dataset/metric``.

    Raises
    ------
    ConfigError
        If the configuration can't be used.
    """
    resolved = resolve(config, TestingConfig, _DEFAULTS)
    if not isinstance(resolved["model_path"], str):
        raise ConfigError(f"model_path: expected the path of a file, got {resolved['model_path']}")
    model = load_model(resolved["model_path"])
    torch_config = _torch_config(resolved["torch"], model)
    with messages_on_terminal("INFO"), numerical_settings(torch_config, seed=0), without_advice():
        settings = instantiate(resolved, TestingConfig)
        model = model.to(_device(settings.accelerator))
        folder = Path(settings.model_path).parent
        datasets = _datasets(settings, model, folder)
        results = test(model, datasets, settings.prefix, settings.loader_kwargs)
        update_summary(folder, results)
        logger.info("Added to %s", folder / SUMMARY_FILE)
        for lightning_logger in _loggers(settings, folder):
            lightning_logger.log_metrics(results)
            lightning_logger.save()
    return results


def _torch_config(given: Mapping[str, Any], model: GraphPropertyModel) -> TorchConfig:
    """Settings in which the data have the precision of the model, unless another is given."""
    own = {} if model.dtype is None else {"dtype": str(model.dtype).removeprefix("torch.")}
    return typed({**own, **given}, TorchConfig, "torch/")


def _device(accelerator: str) -> str:
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    devices = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}
    if accelerator not in devices:
        raise ConfigError(
            f"accelerator: expected one of {['auto', *devices]}, got {accelerator!r}"
            f"{nearest(accelerator, devices)}"
        )
    if devices[accelerator] == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"accelerator: there is no GPU on this machine for {accelerator!r}")
    return devices[accelerator]


def _datasets(
    settings: TestingConfig, model: GraphPropertyModel, folder: Path
) -> dict[str, GraphDataset]:
    if settings.data is None:
        config = instantiate({"data": read_train_config(folder)["data"]}, _Data)
        return named_datasets(parse_data(config.data, model.cutoff_value))
    sets = parse_test_sets(settings.data, model.cutoff_value, "data")
    return sets if isinstance(sets, dict) else {"test": sets}


def _loggers(settings: TestingConfig, folder: Path) -> list[Logger]:
    """A CSV log, and W&B's where it is asked for, here or (``auto``) for the training run."""
    kwargs = settings.logger if isinstance(settings.logger, dict) else None
    if settings.logger == "auto" and (folder / CONFIG_FILE).is_file():
        kwargs = read_train_config(folder).get("wandb")
    wandb = [] if kwargs is None else wandb_loggers(kwargs, folder)
    return [CSVLogger(save_dir=folder, name=""), *wandb]


def main(argv: list[str] | None = None) -> None:
    """Run ``graph-pes-test``."""
    arguments = config_arguments("Test a trained model.", argv)
    run_command(lambda: test_from_config(read_config(arguments)))


if __name__ == "__main__":
    main()
