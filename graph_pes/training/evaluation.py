"""Errors of a model over a data set, independent of how it is cut into batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from graph_pes.atomic_graph import AtomicGraph, PropertyKey
from graph_pes.models.base import DERIVED_FROM_ENERGY, GraphPESModel, GraphPropertyModel

from .loss import MAE, RMSE, PerAtomEnergyLoss, PropertyLoss
from .metrics import Accumulator, Metric

MetricLoss = PerAtomEnergyLoss | PropertyLoss


def predictable(model: GraphPropertyModel) -> set[PropertyKey]:
    """The properties that a model can predict."""
    derived = DERIVED_FROM_ENERGY if isinstance(model, GraphPESModel) else ()
    return {*model.implemented_properties, *derived}


def standard_metrics(labels: Iterable[PropertyKey]) -> list[MetricLoss]:
    """Root-mean-square and mean absolute errors of labels, energies per atom too.

    Examples
    --------
    >>> [m.name for m in standard_metrics(["forces"])]
    ['forces_rmse', 'forces_mae']
    """
    metrics: list[MetricLoss] = []
    for key in labels:
        if key == "energy":
            metrics += [PerAtomEnergyLoss(RMSE()), PerAtomEnergyLoss(MAE())]
        metrics += [PropertyLoss(key, RMSE()), PropertyLoss(key, MAE())]
    return metrics


class MetricSet:
    """Several metrics, added up over batches.

    Parameters
    ----------
    losses
        What is measured, each with a `Metric`.
    """

    def __init__(self, losses: Sequence[MetricLoss]):
        self.losses = {loss.name: loss for loss in losses if isinstance(loss.metric, Metric)}
        self._accumulators = {n: Accumulator(loss.metric) for n, loss in self.losses.items()}

    def reset(self) -> None:
        """Start again."""
        for accumulator in self._accumulators.values():
            accumulator.reset()

    def update(self, graph: AtomicGraph, predictions: dict[PropertyKey, torch.Tensor]) -> None:
        """Add a batch; metrics that it has no labels for are left alone."""
        for name, loss in self.losses.items():
            needed = loss.required_properties
            if all(key in graph.properties and key in predictions for key in needed):
                self._accumulators[name].update(*loss.pair(graph, predictions))

    def compute(self) -> dict[str, float]:
        """The metrics over everything added, on all processes; those without labels left out."""
        values = {name: a.compute() for name, a in self._accumulators.items()}
        return {name: float(value) for name, value in values.items() if value is not None}


def evaluate(model: GraphPropertyModel, batches: Iterable[AtomicGraph]) -> dict[str, float]:
    """Errors of a model over batches of labelled structures.

    Parameters
    ----------
    model
        Evaluated in evaluation mode, on its own device.
    batches
        Such as a `GraphDataLoader`.

    Returns
    -------
    dict[str, float]
        Such as ``{"per_atom_energy_rmse": 0.002, "forces_mae": 0.03, ...}`` in eV and Å.

    Raises
    ------
    ValueError
        If there is no batch, or nothing that the model predicts is labelled.
    """
    was_training = model.training
    model.eval()
    metrics: MetricSet | None = None
    known = predictable(model)
    try:
        for batch in batches:
            graph = batch.to(model.device)
            labels = [key for key in graph.properties if key in known]
            if metrics is None:
                metrics = MetricSet(standard_metrics(sorted(known)))
            metrics.update(graph, model.predict(graph, labels))
    finally:
        model.train(was_training)
    values = metrics.compute() if metrics is not None else {}
    if not values:
        raise ValueError(
            f"nothing to evaluate: {type(model).__name__} predicts {sorted(known)}, and the data "
            "have no label of these"
        )
    return values
