"""Averages of the weights over training, which are validated and saved in their place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_swa_avg_fn

from .messages import logger


class WeightAveraging(Checkpoint, ABC):
    """Keeps an average of the weights, and puts it in their place for validation.

    When training ends normally, the model is left with the average. It is a checkpoint
    callback because Lightning runs these after all others: list it as the last, so that the
    others save the average when validation ends.

    Parameters
    ----------
    average
        How a new value enters the average: ``(average, value, number so far) -> average``.
    """

    def __init__(self, average: Callable[[Tensor, Tensor, Tensor | int], Tensor]):
        self._function = average
        self._average: AveragedModel | None = None
        self._last_step = 0
        self._swapped = False

    @abstractmethod
    def is_due(self, trainer: pl.Trainer) -> bool:
        """Whether the weights enter the average after the present batch."""

    @property
    def started(self) -> bool:
        """Whether anything has been averaged."""
        return self._average is not None and bool(self._average.n_averaged > 0)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: D102
        if stage == "fit" and self._average is None:
            self._average = AveragedModel(
                _model(pl_module), device=pl_module.device, avg_fn=self._function
            )

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        assert self._average is not None
        # With accumulated gradients, not every batch takes a step.
        if trainer.global_step > self._last_step and self.is_due(trainer):
            self._average.to(pl_module.device).update_parameters(_model(pl_module))
        self._last_step = trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if self.started:
            self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if self._swapped:
            self._swap(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if self.started:
            self._swap(pl_module)

    @torch.no_grad()
    def _swap(self, pl_module: pl.LightningModule) -> None:
        assert self._average is not None
        averages = self._average.to(pl_module.device).module.parameters()
        for current, average in zip(_model(pl_module).parameters(), averages, strict=True):
            current.data, average.data = average.data, current.data
        self._swapped = not self._swapped

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        assert self._average is not None
        return {"average": self._average.state_dict(), "last_step": self._last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        assert self._average is not None
        self._average.load_state_dict(state_dict["average"])
        self._last_step = state_dict["last_step"]


def _model(pl_module: pl.LightningModule) -> nn.Module:
    assert isinstance(pl_module.model, nn.Module)
    return pl_module.model


class EMA(WeightAveraging):
    r"""Exponential moving average, :math:`\bar\theta \leftarrow d \bar\theta + (1 - d) \theta`.

    Parameters
    ----------
    decay
        d, between 0 and 1.

    Raises
    ------
    ValueError
        If it is not.
    """

    def __init__(self, decay: float = 0.99):
        if not 0 <= decay < 1:
            raise ValueError(f"EMA: expected a decay of at least 0 and less than 1, got {decay}")
        super().__init__(get_ema_avg_fn(decay))

    def is_due(self, trainer: pl.Trainer) -> bool:  # noqa: D102
        return True


class VerboseSWACallback(WeightAveraging):
    """Stochastic weight averaging: the mean over the last epochs, at a rate of its own.

    Izmailov et al., doi:10.48550/arXiv.1803.05407. From the first averaged epoch on, the
    learning rate goes from where it is to ``swa_lrs``, and schedulers rest.

    Parameters
    ----------
    swa_lrs
        The final learning rate, times the ``lr_factors`` of the optimizer.
    swa_epoch_start
        How many epochs there are before the first averaged one, or which fraction of
        ``max_epochs``.
    annealing_epochs
        Number of epochs in which the rate gets there.
    annealing_strategy
        How it gets there: ``"linear"`` or ``"cos"``.
    """

    def __init__(
        self,
        swa_lrs: float,
        swa_epoch_start: int | float = 0.8,
        annealing_epochs: int = 10,
        annealing_strategy: Literal["linear", "cos"] = "linear",
    ):
        super().__init__(get_swa_avg_fn())
        self.swa_lr, self.start = swa_lrs, swa_epoch_start
        self.annealing_epochs, self.strategy = annealing_epochs, annealing_strategy
        self._rates: list[float] | None = None

    def first_epoch(self, trainer: pl.Trainer) -> int:
        """The first averaged epoch, counted from 0."""
        if isinstance(self.start, int):
            return self.start
        if not trainer.max_epochs or trainer.max_epochs < 0:
            raise ValueError(
                "swa.start is a fraction of max_epochs, which is not set: give max_epochs, or "
                "start as a number of epochs"
            )
        return int(self.start * trainer.max_epochs)

    def is_due(self, trainer: pl.Trainer) -> bool:  # noqa: D102
        # Before the validation at the end of the epoch, which so sees the average.
        return trainer.is_last_batch and trainer.current_epoch >= self.first_epoch(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        epochs = trainer.current_epoch - self.first_epoch(trainer)
        if epochs < 0:
            return
        groups = trainer.optimizers[0].param_groups
        if self._rates is None:
            logger.info("SWA: averaging weights from epoch %d on", trainer.current_epoch + 1)
            self._rates = [group["lr"] for group in groups]
        trainer.lr_scheduler_configs.clear()
        x = min(1.0, epochs / self.annealing_epochs) if self.annealing_epochs > 0 else 1.0
        if self.strategy == "cos":
            x = (1 - float(torch.cos(torch.tensor(torch.pi * x)))) / 2
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate + x * (self.swa_lr * group.get("lr_factor", 1.0) - rate)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {**super().state_dict(), "rates": self._rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        super().load_state_dict(state_dict)
        self._rates = state_dict["rates"]
