"""Errors of a model over a data set, independent of how it is cut into batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, get_cell_volume, label_mask
from graph_pes.drivers.predict import check_elements, evaluation_mode
from graph_pes.models.base import GraphPropertyModel
from graph_pes.models.derivatives import has_volume

from .loss import MAE, RMSE, PerAtomEnergyLoss, PropertyLoss
from .metrics import Accumulator, Metric, Reduction


class Predictor(Protocol):
    """A model, or what predicts in its place."""

    implemented_properties: list[PropertyKey]

    def predict(
        self, graph: AtomicGraph, properties: Sequence[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        """Predict properties of a batch."""
        ...


MetricLoss = PerAtomEnergyLoss | PropertyLoss


def predict_labels(
    model: Predictor, graph: AtomicGraph, properties: Iterable[PropertyKey]
) -> dict[PropertyKey, Tensor]:
    """Predictions to compare with labels, also where only some structures have a volume.

    The stress of a structure without volume is undefined and no label; it is given as zero.

    Raises
    ------
    ValueError
        If such a structure is labelled with a stress.
    """
    wanted = set(properties)
    volume = has_volume(graph)
    if "stress" not in wanted or volume.all() or "stress" in model.implemented_properties:
        return model.predict(graph, sorted(wanted))
    if "stress" in graph.properties:
        _check_stress_labels(graph, volume)
    predictions = model.predict(graph, sorted(wanted - {"stress"} | {"virial"}))
    V = torch.where(volume, get_cell_volume(graph), torch.inf).view(-1, 1, 1)
    virial = predictions["virial"]
    return {**predictions, "stress": -virial / V.to(virial.dtype)}


def _check_stress_labels(graph: AtomicGraph, volume: Tensor) -> None:
    impossible = label_mask(graph, "stress").flatten(1).any(-1) & ~volume
    if impossible.any():
        raise ValueError(
            f"structure {int(impossible.nonzero()[0])} of a batch is labelled with a stress, but "
            "has no cell of finite volume"
        )


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
    weighted
        Whether the weights of structures count, as in training.
    """

    def __init__(self, losses: Sequence[MetricLoss], weighted: bool = False):
        self.weighted = weighted
        self.losses = {loss.name: loss for loss in losses}
        self._accumulators = {
            loss.name: Accumulator(loss.metric)
            for loss in losses
            if isinstance(loss.metric, Metric)
        }

    def reset(self) -> None:
        """Start again."""
        for accumulator in self._accumulators.values():
            accumulator.reset()

    def update(self, graph: AtomicGraph, predictions: dict[PropertyKey, Tensor]) -> None:
        """Add a batch; metrics that it has no labels for are left alone."""
        for name, loss in self.losses.items():
            needed = loss.required_properties
            if all(key in graph.properties and key in predictions for key in needed):
                weights = loss.weights(graph) if self.weighted else None
                self._accumulators[name].update(*loss.pair(graph, predictions), weights)

    def compute(self, reduce: Reduction | None = None) -> dict[str, float]:
        """The metrics over everything added; those without labels are left out.

        Parameters
        ----------
        reduce
            What adds up sums and counts over processes; see `Accumulator.compute`.
        """
        values = {name: a.compute(reduce) for name, a in self._accumulators.items()}
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
        If there is no batch, nothing that the model predicts is labelled, or the model was not
        fitted to one of the elements.
    """
    known = model.predictable_properties
    metrics = MetricSet(standard_metrics(sorted(known)))
    with evaluation_mode(model):
        for batch in batches:
            check_elements(model, batch.Z)
            graph = batch.to(model.device)
            metrics.update(graph, predict_labels(model, graph, known & set(graph.properties)))
    values = metrics.compute()
    if not values:
        raise ValueError(
            f"nothing to evaluate: {type(model).__name__} predicts {sorted(known)}, and the data "
            "have no label of these"
        )
    return values
