"""``graph-pes-train``: train a model from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from graph_pes.analysis import report
from graph_pes.data import DatasetCollection, GraphDataLoader, GraphDataset
from graph_pes.models import load_model
from graph_pes.models.base import GraphPropertyModel
from graph_pes.models.io import load_metadata, save_model
from graph_pes.training.callbacks import VALIDATION_LOSS
from graph_pes.training.config import (
    GeneralConfig,
    TrainingConfig,
    default_config,
    instantiate,
    parse_data,
    parse_loss,
    parse_model,
    resolve,
    typed,
)
from graph_pes.training.config_files import ConfigError, read_config, write_yaml
from graph_pes.training.evaluation import evaluate
from graph_pes.training.fit import FitOptions, check_cutoff, fit
from graph_pes.training.loss import TotalLoss
from graph_pes.training.messages import logger, messages_in_file, messages_on_terminal
from graph_pes.training.opt import LRScheduler, Optimizer

from .run_folder import (
    CONFIG_FILE,
    LAST_CHECKPOINT,
    LOG_FILE,
    describe_contents,
    last_logged,
    new_run_folder,
    update_summary,
)
from .settings import config_arguments, numerical_settings, run_command, without_advice
from .trainer import make_trainer


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
    general = typed(resolved["general"], GeneralConfig, "general/")
    is_main = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    with (
        messages_on_terminal(general.log_level if is_main else "ERROR"),
        numerical_settings(general.torch, general.seed),
        without_advice(),
    ):
        run = _make_run(resolved)
        if not is_main:
            _train(run, None, checkpoint)
            return None
        if folder is None:
            folder = new_run_folder(general.root_dir, general.run_id)
            resolved["general"]["run_id"] = folder.name
            write_yaml(resolved, folder / CONFIG_FILE)
        with messages_in_file(folder / LOG_FILE):
            logger.info("ID of this training run: %s", folder.name)
            logger.info(describe_contents(folder))
            _check_test_sets(run)
            model = _train(run, folder, checkpoint)
            finish(model, run, folder)
    return folder


@dataclass(frozen=True)
class Run:
    """What a configuration describes, and the configuration itself as plain values."""

    config: dict[str, Any]
    settings: TrainingConfig
    model: GraphPropertyModel
    data: DatasetCollection
    loss: TotalLoss
    optimizer: Optimizer
    scheduler: LRScheduler | None


def _make_run(resolved: dict[str, Any]) -> Run:
    settings = instantiate(resolved, TrainingConfig)
    model = parse_model(settings.model)
    return Run(
        config=resolved,
        settings=settings,
        model=model,
        loss=parse_loss(settings.loss),
        optimizer=settings.fitting.make_optimizer(),
        scheduler=settings.fitting.make_scheduler(),
        data=parse_data(settings.data, model.cutoff_value),
    )


def _check_test_sets(run: Run) -> None:
    """Better now than after training."""
    for name, dataset in named_datasets(run.data).items():
        if name not in ("train", "valid"):
            dataset.prepare_data()
            dataset.setup()
            check_cutoff(run.model, dataset, f"the test data {name!r}")


def _train(run: Run, folder: Path | None, checkpoint: Path | None) -> GraphPropertyModel:
    """The model after the last step, on the device it was trained on."""
    fitting = run.settings.fitting
    trainer = make_trainer(run.settings, folder)
    for lightning_logger in trainer.loggers:
        lightning_logger.log_hyperparams(run.config)
    options = FitOptions(
        loader_kwargs=fitting.loader_kwargs,
        pre_fit_model=fitting.pre_fit_model,
        max_n_pre_fit=fitting.max_n_pre_fit,
        auto_fit_reference_energies=fitting.auto_fit_reference_energies,
        seed=run.settings.general.seed,
        compile=fitting.compile,
        cuequivariance=fitting.cuequivariance,
    )
    try:
        model = fit(
            trainer,
            run.model,
            run.data,
            run.loss,
            run.optimizer,
            run.scheduler,
            options,
            checkpoint,
        )
    except (KeyboardInterrupt, SystemExit):
        if folder is not None and (folder / LAST_CHECKPOINT).exists():
            logger.warning(
                "Interrupted. To go on from the last complete epoch: graph-pes-resume %s", folder
            )
        raise
    return model.to(trainer.strategy.root_device)


# --- after training -----------------------------------------------------------------------


def name_for_lammps(folder: Path) -> None:
    """``lammps_model.pt``, as input files of graph-pes 1 have it: another name of ``model.pt``."""
    link = folder / "lammps_model.pt"
    # A folder that was copied holds a copy here, which does not change with model.pt.
    link.unlink(missing_ok=True)
    link.symlink_to("model.pt")


def finish(model: GraphPropertyModel, run: Run, folder: Path) -> None:
    """Test a trained model; write the summary, the table of errors and the parity plot."""
    logger.info("Training complete.")
    if not (folder / "model.pt").exists():
        logger.warning("Nothing was validated: model.pt holds the last weights.")
        save_model(model, folder / "model.pt")
    name_for_lammps(folder)
    best = load_metadata(folder / "model.pt")
    if VALIDATION_LOSS in best:
        logger.info("Best: epoch %d, loss %.5g", best["epoch"] + 1, best[VALIDATION_LOSS])
    if run.settings.fitting.keep == "best":
        model = load_model(folder / "model.pt").to(model.device)
    update_summary(folder, last_logged(folder))
    logger.info("Testing the %s model...", run.settings.fitting.keep)
    datasets = named_datasets(run.data)
    loader_kwargs = run.settings.fitting.loader_kwargs
    update_summary(folder, test(model, datasets, "test", loader_kwargs))
    held_out = {name: d for name, d in datasets.items() if name != "train"}
    groups = {name: dataset.config_types() for name, dataset in held_out.items()}
    report(model, held_out, folder, loader_kwargs.get("batch_size", 1), groups)  # type: ignore[arg-type]
    logger.info("Testing complete: %s", folder)


def named_datasets(data: DatasetCollection) -> dict[str, GraphDataset]:
    """All data sets of a run under their names.

    Raises
    ------
    ConfigError
        If a test set has the name of another one.
    """
    datasets = {"train": data.train, "valid": data.valid}
    if isinstance(data.test, dict):
        if taken := sorted(set(data.test) & set(datasets)):
            raise ConfigError(f"data/test: {taken[0]!r} already is the name of another data set")
        datasets.update(data.test)
    elif data.test is not None:
        datasets["test"] = data.test
    return datasets


def test(
    model: GraphPropertyModel,
    datasets: Mapping[str, GraphDataset],
    prefix: str,
    loader_kwargs: Mapping[str, Any],
) -> dict[str, float]:
    """Errors of a model on each of several data sets, as ``prefix/dataset/metric``.

    A single data set called ``test`` has errors called ``prefix/metric``.
    """
    kwargs = {**loader_kwargs, "shuffle": False, "drop_last": False}
    three_body_cutoff = float(model.three_body_cutoff) or None
    results: dict[str, float] = {}
    for name, dataset in datasets.items():
        dataset.prepare_data()
        dataset.setup()
        check_cutoff(model, dataset, f"the data {name!r}")
        batches = GraphDataLoader(dataset, **kwargs, three_body_cutoff=three_body_cutoff)
        metrics = evaluate(model, batches)
        path = prefix if list(datasets) == ["test"] else f"{prefix}/{name}"
        results.update({f"{path}/{metric}": value for metric, value in metrics.items()})
        shown = ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
        logger.info("%s: %s (eV, Å)", name, shown)
    return results


def main(argv: list[str] | None = None) -> None:
    """Run ``graph-pes-train``."""
    arguments = config_arguments("Train a model.", argv)
    run_command(lambda: train_from_config(read_config(arguments)))


if __name__ == "__main__":
    main()
