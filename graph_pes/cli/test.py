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
from graph_pes.training.callbacks import WandbLogger
from graph_pes.training.config import (
    TestingConfig,
    TorchConfig,
    instantiate,
    parse_data,
    parse_test_sets,
    resolve,
)
from graph_pes.training.config_files import read_config

from .run_folder import read_train_config, update_summary
from .settings import config_arguments, numerical_settings, run_command
from .train import named_datasets, test

_DEFAULTS: dict[str, Any] = {
    "loader_kwargs": {"batch_size": 2, "num_workers": 0},
    "torch": {"dtype": "float32", "float32_matmul_precision": "high"},
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
    with numerical_settings(TorchConfig(**resolved["torch"]), seed=0):
        settings = instantiate(resolved, TestingConfig)
        model = load_model(settings.model_path).to(_device(settings.accelerator))
        folder = Path(settings.model_path).parent
        datasets = _datasets(settings, model, folder)
        batch_size = settings.loader_kwargs.get("batch_size", 2)
        results = test(model, datasets, settings.prefix, batch_size)
    update_summary(folder, results)
    logger = _logger(settings, folder)
    logger.log_metrics(results)
    logger.save()
    return results


def _device(accelerator: str) -> str:
    gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    return "cuda" if gpu else "cpu"


def _datasets(
    settings: TestingConfig, model: GraphPropertyModel, folder: Path
) -> dict[str, GraphDataset]:
    if settings.data is None:
        config = instantiate({"data": read_train_config(folder)["data"]}, _Data)
        return named_datasets(parse_data(config.data, model.cutoff_value))
    sets = parse_test_sets(settings.data, model.cutoff_value, "data")
    return sets if isinstance(sets, dict) else {"test": sets}


def _logger(settings: TestingConfig, folder: Path) -> Logger:
    if isinstance(settings.logger, dict):
        return WandbLogger(folder, **settings.logger)
    return CSVLogger(save_dir=folder, name="")


def main(argv: list[str] | None = None) -> None:
    """Run ``graph-pes-test``."""
    arguments = config_arguments("Test a trained model.", argv)
    run_command(lambda: test_from_config(read_config(arguments)))


if __name__ == "__main__":
    main()
