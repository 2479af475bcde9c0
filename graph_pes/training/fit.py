"""Training a model: from data and settings to a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.data import ConcatDataset, DatasetCollection, GraphDataLoader, GraphDataset
from graph_pes.models.base import GraphPESModel, GraphPropertyModel
from graph_pes.models.io import describe
from graph_pes.nn.per_element import count_used_parameters
from graph_pes.nn.tensor_product import use_cuequivariance

from .checkpoints import epochs_done
from .evaluation import predict_labels
from .loss import Loss, TotalLoss
from .messages import logger
from .opt import LRScheduler, Optimizer
from .pre_fit import with_auto_offset
from .task import TrainingTask


@dataclass(frozen=True)
class FitOptions:
    """How a model is fitted.

    Attributes
    ----------
    loader_kwargs
        Arguments of the data loaders.
    pre_fit_model
        Whether to fit what can be fitted directly first.
    max_n_pre_fit
        To how many structures at most; None for all.
    auto_fit_reference_energies
        Whether to add an offset between the model and the data.
    seed
        For shuffling and everything else that is random.
    compile
        Whether to predict in training steps by compiled code.
    cuequivariance
        Whether cuEquivariance evaluates the tensor products of the model, see
        `graph_pes.nn.tensor_product.use_cuequivariance`.
    """

    loader_kwargs: dict[str, Any] = field(default_factory=dict)
    pre_fit_model: bool = True
    max_n_pre_fit: int | None = 5000
    auto_fit_reference_energies: bool = False
    seed: int = 42
    compile: bool = False
    cuequivariance: bool = False


def fit(
    trainer: pl.Trainer,
    model: GraphPropertyModel,
    data: DatasetCollection,
    loss: TotalLoss,
    optimizer: Optimizer,
    scheduler: LRScheduler | None = None,
    options: FitOptions = FitOptions(),
    checkpoint: Path | None = None,
) -> GraphPropertyModel:
    """Fit a model to data.

    Parameters
    ----------
    trainer
        A Lightning trainer.
    model
        The model; it is changed, or becomes part of the returned one.
    data
        Training and validation sets.
    loss
        What is minimised.
    optimizer, scheduler
        How.
    options
        Further settings.
    checkpoint
        Continue from this Lightning checkpoint.

    Returns
    -------
    GraphPropertyModel
        The model with the weights of the last step.

    Raises
    ------
    ValueError
        If the data lack labels that the loss needs, or the model can't predict or save them, or
        has no tensor products that cuEquivariance could evaluate.
    """
    for name, dataset in (("training", data.train), ("validation", data.valid)):
        if trainer.global_rank == 0:
            dataset.prepare_data()
        dataset.setup()
        check_cutoff(model, dataset, f"the {name} data")
    _check_sizes(data, trainer)
    _check_labels(model, data, loss)
    # Foundation models come in evaluation mode, in which Lightning would leave them.
    model = prepare(model, data.train, options).train()
    for term in loss.losses:
        term.start_from(model)
    _pre_fit_losses(loss, data.train, options)
    for dataset in (data.train, data.valid):
        _check_model(model, to_batch([dataset[0]]), loss)
    _log_size(model, trainer)
    if options.cuequivariance and use_cuequivariance(model) == 0:
        raise ValueError(
            f"fitting.cuequivariance: {type(model).__name__} has no tensor products, as NequIP and "
            "MACE have, that cuEquivariance could evaluate: leave it out"
        )
    task = TrainingTask(model, loss, optimizer, scheduler, options.seed, options.compile)
    train_loader = _loader(model, data.train, options, trainer, shuffle=True)
    if checkpoint is not None:
        # Workers fetch batches of the first epoch before Lightning says which one it is.
        train_loader.sampler.set_epoch(epochs_done(checkpoint))  # type: ignore[attr-defined]
    if trainer.world_size > 1:
        logger.info("Training on %d processes", trainer.world_size)
    logger.info("Starting fit...")
    trainer.fit(
        task,
        train_loader,
        _loader(model, data.valid, options, trainer, shuffle=False),
        ckpt_path=checkpoint,
        weights_only=True,
    )
    return model


def prepare(
    model: GraphPropertyModel, train: GraphDataset, options: FitOptions
) -> GraphPropertyModel:
    """The model, fitted directly to a sample of the training data where possible."""
    graphs = _pre_fit_sample(train, options)
    model.register_elements(Z for n in range(len(train)) for Z in train[n].Z.unique().tolist())
    if options.pre_fit_model:
        logger.info("Pre-fitting the model on %s structures", f"{len(graphs):,}")
        model.pre_fit_all_components(graphs)
    if options.auto_fit_reference_energies:
        if not isinstance(model, GraphPESModel):
            raise ValueError(
                f"auto_fit_reference_energies needs a model of energies, got {type(model).__name__}"
            )
        model = with_auto_offset(model, graphs)
    return model


def _pre_fit_losses(loss: TotalLoss, train: GraphDataset, options: FitOptions) -> None:
    terms = [term for term in loss.losses if type(term).pre_fit is not Loss.pre_fit]
    if terms:
        batch = to_batch(_pre_fit_sample(train, options))
        for term in terms:
            term.pre_fit(batch)


def _pre_fit_sample(train: GraphDataset, options: FitOptions) -> Sequence[AtomicGraph]:
    n = len(train)
    if options.max_n_pre_fit is None or options.max_n_pre_fit >= n:
        indices = np.arange(n)
    else:
        rng = np.random.default_rng(options.seed)
        indices = rng.choice(n, options.max_n_pre_fit, replace=False)
    return [train[int(index)] for index in indices]


def _loader(
    model: GraphPropertyModel,
    dataset: GraphDataset,
    options: FitOptions,
    trainer: pl.Trainer,
    shuffle: bool,
) -> GraphDataLoader:
    kwargs = {**options.loader_kwargs, "shuffle": shuffle}
    if not shuffle:
        kwargs["drop_last"] = False
    return GraphDataLoader(
        dataset,
        **kwargs,
        three_body_cutoff=float(model.three_body_cutoff) or None,
        seed=options.seed,
        rank=trainer.global_rank,
        n_ranks=trainer.world_size,
        # Every structure counts once in the validation, however many processes there are.
        pad=shuffle,
    )


def check_cutoff(model: GraphPropertyModel, dataset: GraphDataset, what: str) -> None:
    """Refuse data whose lists of neighbours are too short for a model.

    Raises
    ------
    ValueError
        If they are, naming the part of concatenated data.
    """
    if isinstance(dataset, ConcatDataset):
        for name, part in dataset.datasets.items():
            check_cutoff(model, part, f"{what} ({name!r})")
        return
    listed, needed = float(dataset[0].cutoff), model.cutoff_value
    if listed < needed:
        raise ValueError(
            f"{what} list neighbours up to {listed:g} Å, but the model needs those up to "
            f"{needed:g} Å: give the data a larger cutoff, or none, to take that of the model"
        )


def _check_sizes(data: DatasetCollection, trainer: pl.Trainer) -> None:
    # A process without anything to validate would not meet the others when they add up.
    if len(data.valid) < trainer.world_size:
        raise ValueError(
            f"the validation set has {len(data.valid)} structures: expected at least one for each "
            f"of {trainer.world_size} processes"
        )


def _check_labels(model: GraphPropertyModel, data: DatasetCollection, loss: TotalLoss) -> None:
    for key in loss.required_properties:
        known = model.predictable_properties
        if key not in known:
            raise ValueError(
                f"the loss needs {key!r}, which {type(model).__name__} does not predict: it "
                f"predicts {sorted(known)}"
            )
        for name, dataset in (("training", data.train), ("validation", data.valid)):
            if key not in dataset.properties:
                raise ValueError(
                    f"the loss needs the label {key!r}, but the {name} data only have "
                    f"{dataset.properties}: name it in property_map, or remove the loss"
                )


def _check_model(model: GraphPropertyModel, sample: AtomicGraph, loss: TotalLoss) -> None:
    """Fail now rather than when the first model is saved, or silently."""
    describe(model)
    required = loss.required_properties
    for key, value in predict_labels(model, sample, required).items():
        label = sample.properties.get(key)
        if label is not None and value.shape != label.shape:
            raise ValueError(
                f"{type(model).__name__} predicts {key!r} with shape {tuple(value.shape)}, but "
                f"the label has {tuple(label.shape)}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{type(model).__name__} predicts a {key!r} that is not finite")


def _log_size(model: GraphPropertyModel, trainer: pl.Trainer) -> None:
    total, learnable = count_used_parameters(model)
    logger.info("Number of learnable parameters: %s", f"{learnable:,}")
    logger.debug("Model:\n%s", model)
    for lightning_logger in trainer.loggers:
        lightning_logger.log_metrics(
            {"n_parameters": float(total), "n_learnable_parameters": float(learnable)}, step=0
        )
