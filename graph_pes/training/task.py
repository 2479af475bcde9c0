"""The training loop, as a Lightning module."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    number_of_atoms,
    number_of_structures,
)
from graph_pes.deploy.compiled_training import CompiledTraining
from graph_pes.models.base import GraphPropertyModel

from .callbacks import VALIDATION_LOSS
from .evaluation import MetricSet, predict_labels, standard_metrics
from .loss import Loss, PerAtomEnergyLoss, PropertyLoss, TotalLoss, TotalLossResult
from .messages import logger
from .metrics import Metric, summed_over_processes
from .opt import LRScheduler, Optimizer


def seed_of_epoch(seed: int, epoch: int, rank: int) -> int:
    """Seed of the random numbers of one epoch in one process."""
    return (seed * 1_000_003 + epoch * 1_009 + rank) % 2**63


class TrainingTask(pl.LightningModule):
    """Trains a model on a loss, and validates it.

    The validation loss and metrics are those of the whole validation set, whatever the size
    of its batches.

    Parameters
    ----------
    model
        The model.
    loss
        What is minimised.
    optimizer, scheduler
        How; a scheduler steps once per batch, or per validation for ``ReduceLROnPlateau``.
    seed
        Random numbers drawn in an epoch depend on this and on the epoch alone, so that a
        resumed run draws the same ones.
    compile
        Predict in training steps by compiled code.
    """

    def __init__(
        self,
        model: GraphPropertyModel,
        loss: TotalLoss,
        optimizer: Optimizer,
        scheduler: LRScheduler | None = None,
        seed: int = 0,
        compile: bool = False,
    ):
        super().__init__()
        self.model: GraphPropertyModel
        self.total_loss: TotalLoss
        self.model, self.total_loss = model, loss
        self._optimizer, self._scheduler, self._seed = optimizer, scheduler, seed
        self._predictor = CompiledTraining(model) if compile else model
        self._metrics = MetricSet(standard_metrics(sorted(model.predictable_properties)))
        kinds = (PropertyLoss, PerAtomEnergyLoss)
        known = [x for x in loss.losses if isinstance(x, kinds)]
        exact = [x for x in known if isinstance(x.metric, Metric)]
        self._exact_losses = MetricSet(exact, weighted=True)
        self._other_losses: dict[str, list[Tensor]] = {}

    # --- steps ---

    def training_step(self, graph: AtomicGraph, _: int) -> Tensor:
        """The loss of a batch."""
        required = self.total_loss.required_properties
        predictions = predict_labels(self._predictor, graph, required)
        result: TotalLossResult = self.total_loss(self.model, graph, predictions)
        self._log("train/loss/total", result.loss_value, number_of_structures(graph))
        for name, term in result.components.items():
            n = number_of_atoms(graph) if term.is_per_atom else number_of_structures(graph)
            self._log(f"train/metrics/{name}", term.loss_value, n)
            self._log(f"train/loss/{name}_weighted", term.weighted_loss_value, n)
        return result.loss_value

    def _log(self, name: str, value: Tensor, n: int) -> None:
        self.log(name, value.detach().float(), on_step=True, on_epoch=False, batch_size=n)

    def validation_step(self, graph: AtomicGraph, _: int) -> None:
        """Add a batch to the validation metrics."""
        labels = self.model.predictable_properties & set(graph.properties)
        required = self.total_loss.required_properties
        predictions = predict_labels(self.model, graph, labels.union(required))
        self._metrics.update(graph, predictions)
        self._exact_losses.update(graph, predictions)
        for loss in self.total_loss.losses:
            if loss.name not in self._exact_losses.losses:
                self._add_other_loss(loss, graph, predictions)

    def _add_other_loss(
        self, loss: Loss, graph: AtomicGraph, predictions: dict[PropertyKey, Tensor]
    ) -> None:
        n = number_of_atoms(graph) if loss.is_per_atom else number_of_structures(graph)
        value = loss(self.model, graph, predictions).detach().double()
        self._other_losses.setdefault(loss.name, []).append(
            torch.stack([value * n, value.new_tensor(n)])
        )

    def on_validation_epoch_start(self) -> None:
        """Start the validation metrics again."""
        self._metrics.reset()
        self._exact_losses.reset()
        self._other_losses = {}

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole validation set."""
        losses = self._exact_losses.compute(summed_over_processes)
        for name, values in self._other_losses.items():
            total, count = summed_over_processes(*torch.stack(values).sum(0))
            losses[name] = float(total / count)
        weights = {loss.name: loss.weight for loss in self.total_loss.losses}
        missing = sorted(set(weights) - set(losses))
        if missing:
            raise ValueError(
                f"the validation data have no labels for the losses {missing}: add labels, or "
                "remove these terms from the loss"
            )
        weighted = {name: weights[name] * value for name, value in losses.items()}
        if not math.isfinite(sum(weighted.values())):
            raise ValueError(
                f"training diverged: the validation loss is not finite in epoch "
                f"{self.current_epoch + 1} ({losses}). Try a lower learning rate, gradient "
                "clipping (fitting/trainer_kwargs/gradient_clip_val), or a higher precision "
                "(general/torch/dtype)."
            )
        logged = {f"valid/loss/{name}_weighted": value for name, value in weighted.items()}
        self.log_dict({**logged, VALIDATION_LOSS: sum(weighted.values())})
        metrics = {**self._metrics.compute(summed_over_processes), **losses}
        self.log_dict({f"valid/metrics/{name}": v for name, v in metrics.items()}, prog_bar=True)

    def on_validation_end(self) -> None:
        """Tell schedulers that look at the validation loss."""
        if self.trainer.sanity_checking:
            return
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                loss = self.trainer.callback_metrics[VALIDATION_LOSS]
                config.scheduler.step(float(loss))  # type: ignore[arg-type]

    # --- hooks ---

    def on_train_epoch_start(self) -> None:
        """Seed the random numbers of this epoch."""
        torch.manual_seed(seed_of_epoch(self._seed, self.current_epoch, self.global_rank))

    def on_validation_model_eval(self, *args: Any, **kwargs: Any) -> None:
        """Evaluation mode; Lightning also switches gradients off, which predict switches on."""
        self.model.eval()

    def on_validation_model_train(self, *args: Any, **kwargs: Any) -> None:
        """Training mode."""
        self.model.train()

    def configure_optimizers(self) -> Any:
        """The optimizer, and the scheduler with when to step it."""
        optimizer = self._optimizer(self.model)
        if self._scheduler is None:
            return optimizer
        scheduler = self._scheduler(optimizer)
        config: dict[str, Any] = {"scheduler": scheduler, "interval": "step", "frequency": 1}
        if isinstance(scheduler, ReduceLROnPlateau):
            # Lightning only steps it at certain batches of an epoch: see on_validation_end.
            config.update(frequency=sys.maxsize, monitor=VALIDATION_LOSS, strict=False)
        logger.debug("Learning-rate schedule: %s", config)
        return {"optimizer": optimizer, "lr_scheduler": config}
