"""Losses: what training minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    LOSS_WEIGHT,
    PROPERTIES,
    AtomicGraph,
    PropertyKey,
    divide_per_atom,
)
from graph_pes.models.base import GraphPropertyModel
from graph_pes.spelling import nearest

from .metrics import (
    MAE,
    MSE,
    RMSE,
    AnyMetric,
    Huber,
    Metric,
    ScaleFreeHuber,
    metric_name,
    parse_metric,
)

__all__ = [
    "MAE",
    "MSE",
    "RMSE",
    "ForceRMSE",
    "Huber",
    "L2ToStart",
    "Loss",
    "Metric",
    "PerAtomEnergyLoss",
    "PropertyLoss",
    "ScaleFreeHuber",
    "TotalLoss",
    "TotalLossResult",
]


class Loss(nn.Module, ABC):
    """One term of the loss.

    Parameters
    ----------
    weight
        What it is multiplied by in the total.
    is_per_atom
        Whether it is a mean over atoms rather than structures.
    """

    def __init__(self, weight: float, is_per_atom: bool = False):
        super().__init__()
        self.weight, self.is_per_atom = weight, is_per_atom

    @property
    @abstractmethod
    def name(self) -> str:
        """As it appears in logs."""

    @property
    @abstractmethod
    def required_properties(self) -> list[PropertyKey]:
        """What has to be predicted, and labelled."""

    @abstractmethod
    def forward(
        self,
        model: GraphPropertyModel,
        graph: AtomicGraph,
        predictions: dict[PropertyKey, Tensor],
    ) -> Tensor:
        """The value, shape (), for a batch."""

    def pre_fit(self, training_data: AtomicGraph) -> None:
        """Look at the training data before training; nothing by default."""

    def start_from(self, model: GraphPropertyModel) -> None:
        """Look at the model before training, also before it goes on; nothing by default."""


class _MetricLoss(Loss):
    """A metric of a pair of predictions and labels, which subclasses choose."""

    def __init__(self, metric: str | AnyMetric | None, weight: float, is_per_atom: bool):
        super().__init__(weight, is_per_atom)
        self.metric = parse_metric(metric)

    @abstractmethod
    def pair(
        self, graph: AtomicGraph, predictions: dict[PropertyKey, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What is compared: predictions and labels, NaN where there is none."""

    def weights(self, graph: AtomicGraph) -> Tensor | None:
        """The weight of the structure of each row of the pair, if structures have any."""
        if LOSS_WEIGHT not in graph.other:
            return None
        of_structures = graph.other[LOSS_WEIGHT].reshape(-1)
        if not self.is_per_atom:
            return of_structures
        assert graph.batch is not None
        return of_structures.index_select(0, graph.batch)

    def forward(
        self,
        model: GraphPropertyModel,
        graph: AtomicGraph,
        predictions: dict[PropertyKey, Tensor],
    ) -> Tensor:
        """The metric, shape (), over the labels that are present; 0 if there are none."""
        prediction, target = self.pair(graph, predictions)
        weights = self.weights(graph)
        if isinstance(self.metric, Metric):
            return self.metric(prediction, target, weights)
        if weights is not None:
            raise ValueError(
                f"structures have a loss_weight, which {self.name} can't take into account: use "
                "one of the metrics of graph_pes.training.loss"
            )
        present = ~torch.isnan(target)
        if not present.any():
            return 0.0 * prediction.sum()
        return self.metric(prediction[present], target[present])


class PropertyLoss(_MetricLoss):
    """The error of a property.

    Parameters
    ----------
    property
        Such as ``"forces"``.
    metric
        A `Metric`, the name of one, or any function of predictions and labels.
    weight
        What it is multiplied by in the total.

    Raises
    ------
    ValueError
        If there is no such property or metric.

    Examples
    --------
    >>> PropertyLoss("forces", metric="MAE", weight=2.0).name
    'forces_mae'
    """

    def __init__(
        self,
        property: PropertyKey,
        metric: str | AnyMetric | None = "RMSE",
        weight: float = 1.0,
    ):
        if property not in PROPERTIES:
            raise ValueError(
                f"unknown property {property!r}{nearest(property, PROPERTIES)} Expected one of "
                f"{sorted(PROPERTIES)}"
            )
        super().__init__(metric, weight, is_per_atom=PROPERTIES[property].per == "atom")
        self.key = property

    @property
    def name(self) -> str:  # noqa: D102
        return f"{self.key}_{metric_name(self.metric)}"

    @property
    def required_properties(self) -> list[PropertyKey]:  # noqa: D102
        return [self.key]

    def pair(
        self, graph: AtomicGraph, predictions: dict[PropertyKey, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Predictions and labels of the property."""
        return predictions[self.key], _label(graph, self.key, predictions[self.key])


class PerAtomEnergyLoss(_MetricLoss):
    """The error of the energy divided by the number of atoms.

    Parameters
    ----------
    metric
        A `Metric`, the name of one, or any function of predictions and labels.
    weight
        What it is multiplied by in the total.
    """

    def __init__(self, metric: str | AnyMetric | None = "RMSE", weight: float = 1.0):
        super().__init__(metric, weight, is_per_atom=False)

    @property
    def name(self) -> str:  # noqa: D102
        return f"per_atom_energy_{metric_name(self.metric)}"

    @property
    def required_properties(self) -> list[PropertyKey]:  # noqa: D102
        return ["energy"]

    def pair(
        self, graph: AtomicGraph, predictions: dict[PropertyKey, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Predictions and labels of the energy per atom."""
        energy = predictions["energy"]
        label = _label(graph, "energy", energy)
        return divide_per_atom(energy, graph), divide_per_atom(label, graph)


def _label(graph: AtomicGraph, key: PropertyKey, prediction: Tensor) -> Tensor:
    """A label, or NaN for every value if no structure of the batch has it."""
    if key in graph.properties:
        return graph.properties[key]
    return torch.full_like(prediction, torch.nan, requires_grad=False)


class ForceRMSE(PropertyLoss):
    """The root-mean-square error of force components.

    Parameters
    ----------
    weight
        What it is multiplied by in the total.
    """

    def __init__(self, weight: float = 1.0):
        super().__init__("forces", RMSE(), weight)


class L2ToStart(Loss):
    r"""Keeps weights near those that training starts from.

    .. math::  \frac{1}{2} \sum_k (w_k - w_k^0)^2

    For fine-tuning with few data: what they do not determine stays as it was. Li, Grandvalet and
    Davoine, doi:10.48550/arXiv.1802.01483. Frozen parameters, and those that weight decay would
    spoil (energies of atoms, scales), do not count.

    Parameters
    ----------
    weight
        What it is multiplied by in the total.

    Examples
    --------
    >>> from graph_pes.models import PaiNN
    >>> model, loss = PaiNN(), L2ToStart()
    >>> loss.start_from(model)
    >>> _ = model.read_out.first.bias.data.add_(0.5)  # 32 numbers
    >>> loss(model, None, {}).item()
    4.0
    """

    def __init__(self, weight: float = 1.0):
        super().__init__(weight)
        # Not part of the state: a run that goes on starts from the same model again.
        self._start: dict[str, Tensor] = {}

    @property
    def name(self) -> str:  # noqa: D102
        return "l2_to_start"

    @property
    def required_properties(self) -> list[PropertyKey]:  # noqa: D102
        return []

    def start_from(self, model: GraphPropertyModel) -> None:  # noqa: D102
        exempt = {id(p) for p in model.non_decayable_parameters()}
        self._start = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and id(parameter) not in exempt
        }
        if not self._start:
            raise ValueError(
                "L2ToStart: expected weights to keep near their start, but all are frozen, or "
                "energies of atoms and scales. Remove this loss, or freeze less"
            )

    def forward(
        self,
        model: GraphPropertyModel,
        graph: AtomicGraph,
        predictions: dict[PropertyKey, Tensor],
    ) -> Tensor:
        """The value, shape (), which does not depend on the batch."""
        parameters = dict(model.named_parameters())
        terms = []
        for name, start in self._start.items():
            here = parameters[name]
            if start.device != here.device:
                self._start[name] = start = start.to(here.device)
            terms.append((here - start).square().sum().double())
        return 0.5 * torch.stack(terms).sum()


class LossComponent(NamedTuple):
    """Value of one term, alone and as it enters the total."""

    loss_value: Tensor
    weighted_loss_value: Tensor
    is_per_atom: bool


class TotalLossResult(NamedTuple):
    """Value of the total loss, and of its terms by name."""

    loss_value: Tensor
    components: dict[str, LossComponent]


class TotalLoss(nn.Module):
    """The weighted sum of losses.

    Parameters
    ----------
    losses
        At least one, with different names.

    Raises
    ------
    ValueError
        If there are no losses, or two of the same name.
    """

    losses: Sequence[Loss]

    def __init__(self, losses: Sequence[Loss]):
        super().__init__()
        names = [loss.name for loss in losses]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"TotalLoss: expected losses with different names, got {names}")
        self.losses = nn.ModuleList(losses)  # type: ignore[assignment]

    @property
    def required_properties(self) -> list[PropertyKey]:
        """What has to be predicted."""
        return list(dict.fromkeys(key for loss in self.losses for key in loss.required_properties))

    def forward(
        self,
        model: GraphPropertyModel,
        graph: AtomicGraph,
        predictions: dict[PropertyKey, Tensor],
    ) -> TotalLossResult:
        """The total and its terms for a batch."""
        components = {}
        for loss in self.losses:
            value = loss(model, graph, predictions)
            components[loss.name] = LossComponent(value, value * loss.weight, loss.is_per_atom)
        total = torch.stack([c.weighted_loss_value.double() for c in components.values()]).sum()
        return TotalLossResult(total, components)
