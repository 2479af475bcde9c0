"""Compiled predictions for training: they can be differentiated with respect to parameters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graph_pes.atomic_graph import PROPERTIES, AtomicGraph, PropertyKey, is_batch
from graph_pes.atomic_graph.graph import DIRECTED
from graph_pes.models.base import GraphPropertyModel, finished
from graph_pes.models.derivatives import energy_of, stress_from_virial, virial_from_stress

from .cache import cached_training_code
from .engine import EngineInputs, ExportError, predictions_from
from .failures import reason_of
from .trace import dtype_of
from .training_code import TrainingCode
from .training_function import Entry, TrainingFunction, entries_of, training_inputs

logger = logging.getLogger("graph_pes")

#: Largest difference of compiled predictions, and of their gradients, from those of the model: of
#: the largest value of each tensor. Wrong code is wrong by more, rounding by much less.
TOLERANCES = {torch.float32: (1e-3, 1e-2), torch.float64: (1e-8, 1e-7)}


@dataclass(frozen=True)
class Variant:
    """What code is compiled for, besides the model.

    Attributes
    ----------
    derivatives
        Whether forces, stress or virial follow from the energy.
    entries
        Entries of ``graph.other``.
    trained
        Names of the parameters that are not frozen.
    directed
        Whether the reverse of an edge may be missing.
    """

    derivatives: bool
    entries: tuple[Entry, ...]
    trained: tuple[str, ...]
    directed: bool


class CompiledTraining:
    """Predicts as a model in training mode does, by compiled code.

    The operations of the model and of all derivatives are recorded at the first prediction, for
    any number of atoms, neighbours and structures, compiled, compared with the model, and kept on
    disk, whatever the weights. Parameters are those of the model, whatever becomes of them.
    Where there is no working compiler a warning says so, and the model itself predicts.

    Parameters
    ----------
    model
        The model to be trained. Its predictions depend on positions through `neighbour_vectors`.

    Raises
    ------
    ExportError
        If the model predicts properties of edges.
    """

    def __init__(self, model: GraphPropertyModel):
        of_edges = [k for k in model.implemented_properties if PROPERTIES[k].per == "edge"]
        if of_edges:
            raise ExportError(f"{type(model).__name__} predicts {of_edges} of edges")
        self.model = model
        self.implemented_properties = model.implemented_properties
        self._code: dict[Variant, TrainingCode | None] = {}

    def predict(
        self, graph: AtomicGraph, properties: Sequence[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        """Predict properties of a batch: see `GraphPESModel.predict`."""
        if not torch.is_grad_enabled() or not self.model.training:
            return self.model.predict(graph, properties)
        batch = self.model._prepared(graph, properties)
        variant = self._variant(batch, properties)
        if variant not in self._code:
            self._code[variant] = self._made(variant, batch, properties)
        code = self._code[variant]
        if code is None:
            return self.model.predict(graph, properties)
        results = self._results(code, variant, batch, properties)
        return finished(results, properties, was_batch=is_batch(graph), detach=False)

    def _variant(self, batch: AtomicGraph, properties: Sequence[PropertyKey]) -> Variant:
        own = set(self.implemented_properties)
        stress = own.isdisjoint({"stress", "virial"})
        derived = {"forces"} - own | ({"stress", "virial"} if stress else set())
        return Variant(
            derivatives=not derived.isdisjoint(properties),
            entries=entries_of(batch),
            trained=tuple(n for n, p in self.model.named_parameters() if p.requires_grad),
            directed=DIRECTED in batch.other,
        )

    def _function(self, variant: Variant) -> TrainingFunction:
        return TrainingFunction(self.model, variant.derivatives, variant.entries, variant.directed)

    def _results(
        self,
        code: TrainingCode,
        variant: Variant,
        batch: AtomicGraph,
        properties: Sequence[PropertyKey],
    ) -> dict[PropertyKey, Tensor]:
        """Predictions of the compiled code."""
        function = self._function(variant)
        inputs = training_inputs(batch, dtype_of(self.model), variant.entries)
        outputs = code([x for _, x in function.named_tensors()], inputs)
        results = {name: x[:-1] for name, x in zip(function.outputs, outputs, strict=True)}
        gradients = results.pop("gradients", None)
        if gradients is not None:
            vectors, neighbours, Z = (x[:-1] for x in inputs[:3])
            edges = EngineInputs(vectors, neighbours, Z, Z)
            energies = results["local_energies"]
            # What the model predicts itself goes before what follows from its energy.
            results = predictions_from(edges, energies, gradients, batch, properties) | results
        elif "local_energies" in results:
            results = {"energy": energy_of(results, batch)} | results
        if "virial" in properties and "virial" not in results:
            results["virial"] = virial_from_stress(results["stress"], batch)
        if "stress" in properties and "stress" not in results:
            results["stress"] = stress_from_virial(results["virial"], batch)
        return results

    def _made(
        self, variant: Variant, batch: AtomicGraph, properties: Sequence[PropertyKey]
    ) -> TrainingCode | None:
        """The code, if it can be made and agrees with the model on a batch."""
        name = type(self.model).__name__
        batch = rattled(batch, 0.01 * self.model.cutoff_value)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler, about its own code
                code = cached_training_code(self._function(variant), repr(variant))
                results = self._results(code, variant, batch, properties)
            check_agreement(self.model, results, batch, properties)
        except Exception as error:  # compilers fail in any way they like
            logger.warning(
                "Training of %s goes on without compilation, which failed: %s",
                name,
                reason_of(error),
            )
            return None
        return code


def rattled(batch: AtomicGraph, distance: float) -> AtomicGraph:
    """A batch with displaced atoms: by symmetry, nothing that it is compared by vanishes."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch.R.shape, generator=generator, dtype=torch.float64)
    return batch._replace(R=batch.R + distance * noise.to(batch.R))


def check_agreement(
    model: GraphPropertyModel,
    results: dict[PropertyKey, Tensor],
    batch: AtomicGraph,
    properties: Sequence[PropertyKey],
) -> None:
    """Compare predictions for a batch, and gradients of all parameters, with those of the model.

    Raises
    ------
    ExportError
        Naming what differs, and by how much.
    """
    values, gradients = TOLERANCES[dtype_of(model)]
    expected = model.predict(batch, properties)
    for key in properties:
        error = _difference(results[key], expected[key], expected[key].abs().max())
        if not error <= values:
            raise ExportError(f"the {key} differs by {error:.1e} of its largest value")
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    found, wanted = (_gradients(model, x, properties) for x in (results, expected))
    largest = max((g.abs().max() for g in wanted), default=torch.tensor(0.0))
    for name, a, b in zip(names, found, wanted, strict=True):
        # Where gradients nearly cancel, rounding counts.
        error = _difference(a, b, b.abs().max() + 1e-3 * largest)
        if not error <= gradients:
            raise ExportError(f"the gradient of {name} differs by {error:.1e} of its largest value")


def _difference(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    return float((found - expected).detach().abs().max() / scale.detach().clamp(min=1e-9))


def _gradients(
    model: GraphPropertyModel, results: dict[PropertyKey, Tensor], properties: Sequence[PropertyKey]
) -> list[Tensor]:
    """Gradients of a sum in which all results have different weights."""
    # Not added to those of the parameters, which other processes would wait for.
    total = torch.stack(
        [
            (x * torch.linspace(0.5, 1.5, x.numel(), device=x.device).view_as(x)).sum().double()
            for x in (results[key] for key in properties)
        ]
    ).sum()
    trained = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(total, trained, allow_unused=True, materialize_grads=True))
