r"""Error metrics, as a mean over values of some function of the error.

Every metric is :math:`g\big(\frac{1}{n} \sum_k f(\hat{y}_k - y_k)\big)`. Keeping the sum and the
count apart makes it exact over a whole data set, whatever the batches, and over several
processes; labels that are missing (NaN) are left out of both. Where structures have weights w, the
sum is that of w f, but the count stays.

============= ===================== ==============
metric        f(e)                  g(m)
============= ===================== ==============
MAE           \|e\|                 m
MSE           e²                    m
RMSE          e²                    √m
Huber         Huber(e; δ)           m
ScaleFreeHuber Huber(e; δ) / δ      m
============= ===================== ==============
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.spelling import nearest

#: What is looked at to find the best model.
VALIDATION_LOSS = "valid/loss/total"


class Metric(nn.Module, ABC):
    """A mean error; called with predictions and targets of the same shape."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As it appears in logs, ``rmse`` in ``forces_rmse``."""

    @abstractmethod
    def pointwise(self, error: Tensor) -> Tensor:
        """The function f of errors, of any shape."""

    @abstractmethod
    def finish(self, mean: Tensor) -> Tensor:
        """The function g of the mean, shape ()."""

    def forward(self, input: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """The metric of one batch, shape (): over all processes, where there are several.

        Each f of a row (N, ...) is multiplied by its weight (N,), if there are any.
        """
        total, count = masked_sum(self, input, target, weights)
        total, count = summed_over_processes(total, count)
        return self.finish(total / count.clamp(min=1))


class MAE(Metric):
    """Mean absolute error."""

    name = "mae"

    def pointwise(self, error: Tensor) -> Tensor:  # noqa: D102
        return error.abs()

    def finish(self, mean: Tensor) -> Tensor:  # noqa: D102
        return mean


class MSE(Metric):
    """Mean squared error."""

    name = "mse"

    def pointwise(self, error: Tensor) -> Tensor:  # noqa: D102
        return error * error

    def finish(self, mean: Tensor) -> Tensor:  # noqa: D102
        return mean


class RMSE(Metric):
    """Root of the mean squared error."""

    name = "rmse"

    def pointwise(self, error: Tensor) -> Tensor:  # noqa: D102
        return error * error

    def finish(self, mean: Tensor) -> Tensor:  # noqa: D102
        # The root has no slope at 0; a batch that is fitted exactly has gradient 0.
        return torch.where(mean > 0, torch.where(mean > 0, mean, 1.0).sqrt(), 0.0 * mean)


class Huber(Metric):
    """Quadratic for errors up to delta, linear beyond.

    Parameters
    ----------
    delta
        In the unit of the property.
    """

    def __init__(self, delta: float = 0.5):
        super().__init__()
        self.delta = delta

    @property
    def name(self) -> str:  # noqa: D102
        return f"huber_{self.delta}"

    def pointwise(self, error: Tensor) -> Tensor:  # noqa: D102
        return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.delta)

    def finish(self, mean: Tensor) -> Tensor:  # noqa: D102
        return mean


class ScaleFreeHuber(Metric):
    """Huber loss over delta, so that its linear part is the absolute error.

    Parameters
    ----------
    delta
        In the unit of the property.
    """

    def __init__(self, delta: float = 0.5):
        super().__init__()
        self.huber = Huber(delta)

    @property
    def name(self) -> str:  # noqa: D102
        return f"scaled_huber_{self.huber.delta}"

    def pointwise(self, error: Tensor) -> Tensor:  # noqa: D102
        return self.huber.pointwise(error) / self.huber.delta

    def finish(self, mean: Tensor) -> Tensor:  # noqa: D102
        return mean


#: Any function of predictions and targets will do as a metric; ours are exact over batches.
AnyMetric = Metric | Callable[[Tensor, Tensor], Tensor]

_BY_NAME: dict[str, type[Metric]] = {
    cls.__name__: cls for cls in (MAE, MSE, RMSE, Huber, ScaleFreeHuber)
}


def parse_metric(metric: str | AnyMetric | None) -> AnyMetric:
    """A metric, which may be given by name; RMSE by default.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if metric is None:
        return RMSE()
    if not isinstance(metric, str):
        return metric
    if metric not in _BY_NAME:
        raise ValueError(
            f"unknown metric {metric!r}{nearest(metric, _BY_NAME)} Expected one of "
            f"{list(_BY_NAME)}, or a function"
        )
    return _BY_NAME[metric]()


def metric_name(metric: AnyMetric) -> str:
    """Name of a metric as it appears in logs."""
    name = getattr(metric, "name", None) or getattr(metric, "__name__", type(metric).__name__)
    return str(name).lower().removesuffix("loss").rstrip("_")


def masked_sum(
    metric: Metric, input: Tensor, target: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of f(error) over the labels that are present, and their number: shapes ().

    Weights of rows multiply f, but do not count: a set of data with the weight 0.1 contributes a
    tenth of what it would, however a batch is mixed.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if input.shape != target.shape:
        raise ValueError(
            f"predictions have shape {tuple(input.shape)}, but labels {tuple(target.shape)}"
        )
    present = ~torch.isnan(target)
    # Replacing the label, rather than masking the error, keeps NaN out of the gradient too.
    error = input - torch.where(present, target, input.detach().to(target.dtype))
    values = metric.pointwise(error)
    if weights is not None:
        values = values * weights.to(values).view(-1, *[1] * (values.dim() - 1))
    return values.sum(), present.sum()


def summed_over_processes(total: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over all processes, with gradients such that their mean is that of one process.

    Data-parallel training averages gradients over the W processes, so each contributes W
    times the gradient of its own part of the sum.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return total, count
    W = torch.distributed.get_world_size()
    # NCCL only sums tensors on GPUs; a process without any label has its zeros on the CPU.
    on_gpu = torch.distributed.get_backend() == "nccl"
    both = torch.stack([total.detach().double(), count.double()])
    both = both.to(torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu")
    torch.distributed.all_reduce(both)
    both = both.to(total.device)
    others = both[0].to(total.dtype) - total.detach()
    own = total + (W - 1) * (total - total.detach())
    return own + others, both[1]


#: From sum and count of one process to those of several.
Reduction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Accumulator:
    """Sum and count of a metric over the batches of a data set, in double precision.

    Parameters
    ----------
    metric
        The metric.

    Examples
    --------
    >>> rmse = Accumulator(RMSE())
    >>> rmse.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan]))
    >>> rmse.update(torch.tensor([3.0]), torch.tensor([1.0]))
    >>> round(rmse.compute().item(), 3)
    1.414
    """

    def __init__(self, metric: Metric):
        self.metric = metric
        self.reset()

    def reset(self) -> None:
        """Start again."""
        self.total: Tensor | float = 0.0
        self.count: Tensor | float = 0.0

    def update(self, input: Tensor, target: Tensor, weights: Tensor | None = None) -> None:
        """Add a batch; see `Metric.forward`."""
        total, count = masked_sum(self.metric, input.detach(), target, weights)
        self.total, self.count = self.total + total.double(), self.count + count

    def compute(self, reduce: Reduction | None = None) -> Tensor | None:
        """The metric over everything added; None if there was no label.

        Parameters
        ----------
        reduce
            What adds up total and count over processes, such as `summed_over_processes`; by
            default only what this process has added counts.
        """
        total, count = torch.as_tensor(self.total).double(), torch.as_tensor(self.count)
        if reduce is not None:
            total, count = reduce(total, count)
        return self.metric.finish(total / count) if count > 0 else None
