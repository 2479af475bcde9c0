"""Functions of structures as models of properties."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from graph_pes.atomic_graph import PROPERTIES, AtomicGraph, Property, PropertyKey
from graph_pes.models.base import GraphTensorModel

#: What functions of structures compute; no label, and any number of components.
VARIABLES: PropertyKey = "collective_variables"


class CollectiveVariables(GraphTensorModel):
    """A function of structures as a model.

    Other than models, functions need not vanish at the cutoff: they see no longer edges.

    Parameters
    ----------
    function
        From a batch of S structures to values (S,) or (S, K).
    cutoff
        Up to which distance, in Å, the graph has edges.
    """

    def __init__(self, function: Callable[[AtomicGraph], Tensor], cutoff: float):
        PROPERTIES.setdefault(VARIABLES, Property("structure", None, ""))
        super().__init__(cutoff, [VARIABLES])
        self.function = function

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """The values, (S, K)."""
        values = self.function(graph)
        return {VARIABLES: values.unsqueeze(1) if values.dim() == 1 else values}
