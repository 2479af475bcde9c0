"""Sums of models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, trim_edges

from .base import GraphPESModel, GraphPropertyModel, GraphTensorModel, in_precision_of


def _component_predictions(
    model: GraphPropertyModel, graph: AtomicGraph
) -> dict[PropertyKey, Tensor]:
    """Predictions of one component from the edges, and in the precision, that are its own."""
    cutoff = model.cutoff_value
    if 0 < cutoff < graph.cutoff:
        graph = trim_edges(graph, cutoff)
    return model(in_precision_of(model, graph))


def _check_components(kind: str, models: dict[str, GraphPropertyModel], base: type) -> None:
    if not models:
        raise ValueError(f"{kind}: expected at least one model, got none")
    for name, model in models.items():
        if not isinstance(model, base):
            raise TypeError(
                f"{kind}: expected {name!r} to be a {base.__name__}, got {type(model).__name__}"
            )


class AdditionModel(GraphPESModel):
    """The sum of several models.

    Each component keeps its own cutoff and precision; local energies are added in double
    precision, and one backward pass gives the derivatives of the whole sum.

    Parameters
    ----------
    **models
        The components, which must predict the same properties.

    Raises
    ------
    ValueError
        If the components predict different properties: what one of them predicts directly
        could not be added to what follows from the energy of another.

    Examples
    --------
    >>> from graph_pes.models import FixedOffset, LennardJones
    >>> model = AdditionModel(pair=LennardJones(), offset=FixedOffset(H=-1.0))
    >>> model["offset"]
    FixedOffset(
      (offsets): PerElementParameter(H=-1, trainable=False)
    )
    """

    def __init__(self, **models: GraphPESModel):
        _check_components("AdditionModel", dict(models), GraphPESModel)
        implemented = {name: sorted(m.implemented_properties) for name, m in models.items()}
        direct = sorted(
            {key for keys in implemented.values() for key in keys if key != "local_energies"}
        )
        # A component without interactions (an offset) adds to energies only.
        interacting = [name for name, m in models.items() if m.cutoff_value > 0]
        if any(implemented[name] != implemented[interacting[0]] for name in interacting):
            raise ValueError(
                f"AdditionModel: the components predict different properties, {implemented}"
            )
        super().__init__(
            cutoff=max(m.cutoff_value for m in models.values()),
            implemented_properties=["local_energies", *direct],
            three_body_cutoff=max(float(m.three_body_cutoff) for m in models.values()),
        )
        self.models = nn.ModuleDict(models)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Sums of what the components predict; local energies in double precision."""
        total: dict[PropertyKey, Tensor] = {}
        for model in self.models.values():
            for key, value in _component_predictions(model, graph).items():
                value = value.double() if key == "local_energies" else value
                total[key] = total[key] + value if key in total else value
        return total

    @property
    def dtype(self) -> torch.dtype | None:
        """The highest precision among the components."""
        return _highest(self.models)

    def __getitem__(self, name: str) -> GraphPESModel:
        if name not in self.models:
            raise KeyError(f"{name!r}: expected one of the components {list(self.models)}")
        return self.models[name]


class TensorAdditionModel(GraphTensorModel):
    """The sum of several models of a tensor.

    Parameters
    ----------
    **models
        The components.
    """

    def __init__(self, **models: GraphTensorModel):
        _check_components("TensorAdditionModel", dict(models), GraphTensorModel)
        super().__init__(cutoff=max(m.cutoff_value for m in models.values()))
        self.models = nn.ModuleDict(models)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """The sum of the tensors of the components, shape (N, ...)."""
        tensors = [_component_predictions(m, graph)["tensor"] for m in self.models.values()]
        return {"tensor": torch.stack([t.double() for t in tensors]).sum(0)}

    @property
    def dtype(self) -> torch.dtype | None:
        """The highest precision among the components."""
        return _highest(self.models)

    def __getitem__(self, name: str) -> GraphTensorModel:
        if name not in self.models:
            raise KeyError(f"{name!r}: expected one of the components {list(self.models)}")
        return self.models[name]


def _highest(models: nn.ModuleDict) -> torch.dtype | None:
    dtypes = [m.dtype for m in models.values() if m.dtype is not None]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).bits, default=None)
