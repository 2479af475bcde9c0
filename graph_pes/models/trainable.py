"""What training asks of a model besides predictions: pre-fitting, elements, weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, to_batch, trim_edges
from graph_pes.nn.float64 import Float64Tensors
from graph_pes.nn.per_element import KnownElements


@runtime_checkable
class _PreFitted(Protocol):
    def pre_fit(self, graphs: AtomicGraph) -> None: ...


@runtime_checkable
class _ExemptFromDecay(Protocol):
    def non_decayable_parameters(self) -> list[nn.Parameter]: ...


class Trainable(Float64Tensors):
    """A model that, with the modules inside of it, is fitted to data; it has a ``cutoff``."""

    cutoff: Tensor
    cutoff_value: float
    _has_been_pre_fit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_has_been_pre_fit", torch.tensor(False))

    @torch.no_grad()
    def pre_fit_all_components(self, graphs: Sequence[AtomicGraph]) -> None:
        """Fit what can be fitted directly to data, before training.

        Calls ``pre_fit(batch)`` once on this model and on each of its modules that has such a
        method, and notes the elements. A model is pre-fitted once: later calls, also on a sum
        that it is part of, only note the elements, so that a trained model stays as it was.

        Raises
        ------
        ValueError
            If there are no graphs.
        """
        if len(graphs) == 0:
            raise ValueError("pre_fit_all_components: expected at least one graph, got none")
        batch = to_batch([trim_edges(g, self.cutoff_value) for g in graphs])
        done: set[nn.Module] = set()
        for module, graph in _to_be_pre_fitted(self, batch):
            if module not in done and isinstance(module, _PreFitted):
                module.pre_fit(graph)
            done.add(module)
        self.register_elements(batch.Z.unique().tolist())
        for module in self.modules():
            if isinstance(module, Trainable):
                module._has_been_pre_fit.fill_(True)

    def register_elements(self, Zs: Iterable[int]) -> None:
        """Note that the model is fitted to these elements, given by atomic number."""
        elements = set(Zs)
        for module in self.modules():
            if isinstance(module, KnownElements):
                module.register_elements(elements)

    def pre_fit(self, graphs: AtomicGraph) -> None:
        """Fit this module to a batch of training data; nothing by default."""

    def as_seen_by_components(self, graph: AtomicGraph) -> AtomicGraph:
        """The graph, labels included, as the models inside of this one get it: unchanged."""
        return graph

    def non_decayable_parameters(self) -> list[nn.Parameter]:
        """Parameters that weight decay would spoil, such as energies of atoms."""
        parameters = {
            id(parameter): parameter
            for module in self.modules()
            if module is not self and isinstance(module, _ExemptFromDecay)
            for parameter in module.non_decayable_parameters()
        }
        return list(parameters.values())


def _to_be_pre_fitted(
    module: nn.Module, graph: AtomicGraph
) -> Iterator[tuple[nn.Module, AtomicGraph]]:
    """A module and those inside of it, but no pre-fitted models, with the graphs they see."""
    if isinstance(module, Trainable):
        if module._has_been_pre_fit:
            return
        # As in predictions, a part of a sum sees the neighbours up to its own cutoff.
        if 0 < module.cutoff_value < graph.cutoff:
            graph = trim_edges(graph, module.cutoff_value)
    yield module, graph
    # By now the module has been fitted, and may subtract what it contributes itself.
    inside = module.as_seen_by_components(graph) if isinstance(module, Trainable) else graph
    for child in module.children():
        yield from _to_be_pre_fitted(child, inside)
