"""Sums of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, trim_edges

from .base import GraphPESModel, GraphPropertyModel, GraphTensorModel, in_precision_of
from .derivatives import energy_of

#: Properties that one component predicts directly and another as derivatives don't add up.
_DERIVATIVES = {"forces", "stress", "virial"}


def predictions_of_component(
    model: GraphPropertyModel, graph: AtomicGraph
) -> dict[PropertyKey, Tensor]:
    """Predictions of one component from the edges, and in the precision, that are its own."""
    cutoff = model.cutoff_value
    if 0 < cutoff < graph.cutoff:
        graph = trim_edges(graph, cutoff)
    return model(in_precision_of(model, graph))


def _with_members(
    predictions: dict[PropertyKey, Tensor], graph: AtomicGraph, wanted: Sequence[PropertyKey]
) -> dict[PropertyKey, Tensor]:
    """What a component without members predicts is the same for each member of the others."""
    if "local_energies_ensemble" in wanted and "local_energies_ensemble" not in predictions:
        same = predictions["local_energies"].unsqueeze(1)
        predictions = {**predictions, "local_energies_ensemble": same}
    if "energy_ensemble" in wanted and "energy_ensemble" not in predictions:
        same = energy_of(predictions, graph).unsqueeze(1)
        predictions = {**predictions, "energy_ensemble": same}
    return predictions


def _check_components(kind: str, models: Mapping[str, GraphPropertyModel], base: type) -> None:
    if not models:
        raise ValueError(f"{kind}: expected at least one model, got none")
    for name, model in models.items():
        if not name or "." in name or hasattr(nn.ModuleDict, name):
            raise ValueError(
                f"{kind}: a component can't be named {name!r}: expected a name without dots that "
                "is not one of an attribute of torch modules, such as 'train' or 'type'"
            )
        if not isinstance(model, base):
            raise TypeError(
                f"{kind}: expected {name!r} to be a {base.__name__}, got {type(model).__name__}"
            )


def _component(models: nn.ModuleDict, name: str) -> nn.Module:
    if name not in models:
        raise KeyError(f"{name!r}: expected one of the components {list(models)}")
    return models[name]


class AdditionModel(GraphPESModel):
    """The sum of several models.

    Each component keeps its own cutoff and precision; energies are added in double precision,
    and one backward pass gives the derivatives of the whole sum.

    Parameters
    ----------
    **models
        The components.

    Raises
    ------
    TypeError
        If a component is not a `GraphPESModel`.
    ValueError
        If there are none, if a name can't be that of a component, or if only some of them
        predict forces, stress or virial directly, which could not be added to what follows from
        the energy of the others. A component without a cutoff (an offset) has none of these and
        goes with any other.

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
        _check_components("AdditionModel", models, GraphPESModel)
        direct = {
            name: sorted(_DERIVATIVES & set(m.implemented_properties))
            for name, m in models.items()
            if m.cutoff_value > 0
        }
        if len({tuple(keys) for keys in direct.values()}) > 1:
            raise ValueError(
                "AdditionModel: the components must predict the same of forces, stress and "
                f"virial directly, but these are {direct}: what one predicts can't be added to "
                "derivatives of the energy of another"
            )
        super().__init__(
            cutoff=max(m.cutoff_value for m in models.values()),
            implemented_properties=sorted(
                {key for m in models.values() for key in m.implemented_properties}
            ),
            three_body_cutoff=max(float(m.three_body_cutoff) for m in models.values()),
        )
        self.models = nn.ModuleDict(models)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Sums of what the components predict; energies in double precision."""
        total: dict[PropertyKey, Tensor] = {}
        for model in self.models.values():
            predictions = predictions_of_component(cast(GraphPESModel, model), graph)
            if "energy" in self.implemented_properties:
                predictions = {**predictions, "energy": energy_of(predictions, graph)}
            predictions = _with_members(predictions, graph, self.implemented_properties)
            for key, value in predictions.items():
                value = value.double() if key.startswith("local_energies") else value
                total[key] = total[key] + value if key in total else value
        return total

    def __getitem__(self, name: str) -> GraphPESModel:
        return cast(GraphPESModel, _component(self.models, name))


class TensorAdditionModel(GraphTensorModel):
    """The sum of several models of a tensor.

    Parameters
    ----------
    **models
        The components.

    Raises
    ------
    TypeError
        If a component is not a `GraphTensorModel`.
    ValueError
        If there are none, if a name can't be that of a component, or if they predict different
        properties.

    Examples
    --------
    >>> from graph_pes.models import FixedTensorOffset, LearnableTensorOffset
    >>> model = TensorAdditionModel(
    ...     fixed=FixedTensorOffset(H=[1.0, 0.0]), learnt=LearnableTensorOffset(2)
    ... )
    >>> model.implemented_properties
    ['tensor']
    """

    def __init__(self, **models: GraphTensorModel):
        _check_components("TensorAdditionModel", models, GraphTensorModel)
        labels = {name: m.implemented_properties for name, m in models.items()}
        label, *others = labels.values()
        if any(other != label for other in others):
            raise ValueError(
                f"TensorAdditionModel: the components must predict the same property, got {labels}"
            )
        super().__init__(max(m.cutoff_value for m in models.values()), label)
        self.models = nn.ModuleDict(models)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """The sum of the tensors of the components, shape (N, ...)."""
        predictions = [
            predictions_of_component(cast(GraphTensorModel, m), graph) for m in self.models.values()
        ]
        return {
            key: torch.stack([of_part[key].double() for of_part in predictions]).sum(0)
            for key in self.implemented_properties
        }

    def __getitem__(self, name: str) -> GraphTensorModel:
        return cast(GraphTensorModel, _component(self.models, name))
