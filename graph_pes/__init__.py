"""graph_pes: one interface for graph-based machine-learned interatomic potentials."""

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.models import (
    GraphPESModel,
    GraphPropertyModel,
    GraphTensorModel,
    load_model,
    save_model,
)

__version__ = "2.0.0a0"

__all__ = [
    "AtomicGraph",
    "GraphPESModel",
    "GraphPropertyModel",
    "GraphTensorModel",
    "__version__",
    "load_model",
    "save_model",
]
