"""Compiled predictions for training: they can be differentiated with respect to parameters."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, PropertyKey
from graph_pes.models.base import GraphPESModel

from .engine import (
    EngineInputs,
    EngineModel,
    ExportError,
    TrainingModel,
    engine_inputs,
    predictions_from,
)
from .trace import TRACED, dtype_of, example_inputs, tensors_of, traced_function

logger = logging.getLogger("graph_pes")


class CompiledTraining:
    """Predicts as a model in training mode does, by compiled code.

    The operations of the model and of the derivative of its energy are traced once, for any
    number of atoms and neighbours, and compiled at the first prediction; torch keeps what it
    compiled on disk. Parameters are those of the model, whatever becomes of them. Where there
    is no working compiler a warning says so, and the model itself predicts.

    Parameters
    ----------
    model
        The model to be trained.

    Raises
    ------
    ExportError
        If the model predicts more than local energies.
    """

    def __init__(self, model: GraphPESModel):
        if EngineModel(model).outputs != TrainingModel.outputs:
            raise ExportError(
                f"{type(model).__name__} predicts {model.implemented_properties} directly: only "
                "models whose forces are derivatives are compiled for training"
            )
        self.model = model
        self.implemented_properties = model.implemented_properties
        self._function = TrainingModel(model)
        self._compiled: Callable[..., tuple[Tensor, ...]] | None = None
        self._failed = False

    def predict(
        self, graph: AtomicGraph, properties: Sequence[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        """Predict properties of a batch: see `GraphPESModel.predict`."""
        batch = self.model._prepared(graph, properties)
        inputs = engine_inputs(batch, dtype_of(self.model))
        if self._compiled is None and not self._failed:
            self._compile(inputs)
        if self._compiled is None:
            return self.model.predict(graph, properties)
        energies, gradients = self._compiled(*tensors_of(self._function), *inputs)
        results = predictions_from(inputs, energies, gradients, batch, properties)
        return {key: results[key] for key in properties}

    def _compile(self, inputs: EngineInputs) -> None:
        """Trace and compile, and try what comes out."""
        start, name = time.perf_counter(), type(self.model).__name__
        logger.info("Compiling the training of %s: minutes, less once it was done before", name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler, about its own code
                compiled = self._tried(inputs)
        except Exception as error:  # a compiler fails in any way it likes
            reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
            logger.warning("Training goes on without compilation, which failed (%s)", reason)
            self._failed = True
        else:
            self._compiled = compiled
            logger.info("Compiled in %.0f s", time.perf_counter() - start)

    def _tried(self, inputs: EngineInputs) -> Callable[..., tuple[Tensor, ...]]:
        """The compiled function, after one call; what it compiles it only does then."""
        compiled = torch.compile(
            without_detaching(traced_function(self._function, self._example())),
            dynamic=True,
            options={"cpp.threads": 1},  # as for `compile_program`
        )
        outputs = compiled(*tensors_of(self._function), *inputs)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        # Not added to the gradients of the parameters, which other processes would wait for.
        torch.autograd.grad(sum(x.sum() for x in outputs), trained, allow_unused=True)
        return compiled

    def _example(self) -> EngineInputs:
        return example_inputs(
            self.model, TRACED["atoms"], TRACED["columns"], device=self.model.device
        )


def without_detaching(traced: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Traced operations, without those that end the flow of gradients.

    What the forward pass saves for the traced derivative is detached in the trace, and would
    count as constant when that derivative is differentiated.
    """
    for node in traced.graph.nodes:
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    traced.recompile()
    return traced
