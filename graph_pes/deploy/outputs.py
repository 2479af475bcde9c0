"""What the outputs of an exported model belong to, and what it assumes: engines have to know."""

from __future__ import annotations

import torch

from graph_pes.atomic_graph import PROPERTIES, PropertyKey
from graph_pes.models.base import GraphPropertyModel

from .engine import EngineInputs, EngineModel
from .trace import dtype_of, example_inputs, example_structure

#: Largest difference of what should be equal, relative to the largest value.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-9}

#: What engines do not say of structures, and programs take for these values.
ASSUMED = {"total_charge": 0.0, "total_spin": 1.0}


def kinds_of(model: GraphPropertyModel) -> list[str]:
    """For each output of a model, the ``kinds`` of `Metadata`.

    Whether values of structures are sums over their atoms is found out by trying.

    Examples
    --------
    >>> from graph_pes.models import LennardJones
    >>> kinds_of(LennardJones())
    ['atom', 'edge']
    """
    function = EngineModel(model)
    if function.whole_structure is not None:
        return ["edge" if key == "gradients" else PROPERTIES[key].per for key in function.outputs]
    one, two, both = (function(*inputs) for inputs in separate_groups(model))
    kinds: list[str] = []
    for name, a, b, found in zip(function.outputs, one, two, both, strict=True):
        if name not in function.of_structures:
            kinds.append("edge" if name == "gradients" else PROPERTIES[name].per)
        elif relative_error(found, a + b) <= TOLERANCES[dtype_of(model)]:
            kinds.append("sum")
        else:
            kinds.append("structure")
    return kinds


def widths_of(model: GraphPropertyModel) -> list[int]:
    """For each output of a model, how many numbers a value has."""
    function, (inputs, _, _) = EngineModel(model), separate_groups(model)
    N, D = inputs.neighbours.shape
    values = {"atom": N, "edge": N * D, "sum": 1, "structure": 1}
    found = function(*inputs, *example_structure(function, N))
    outputs = zip(kinds_of(model), found, strict=True)
    return [x.numel() // values[kind] for kind, x in outputs]


def unit_of(output: PropertyKey) -> str:
    """Unit of an output."""
    return "eV/Å" if output == "gradients" else PROPERTIES[output].unit


def assumptions_of(model: GraphPropertyModel) -> list[str]:
    """Which of `ASSUMED` the predictions of a model depend on.

    Examples
    --------
    >>> from graph_pes.models import LennardJones, TensorNet
    >>> assumptions_of(LennardJones()), assumptions_of(TensorNet(channels=4, charged=True))
    ([], ['total_charge'])
    """
    inputs, _, _ = separate_groups(model)
    function = EngineModel(model)
    further = example_structure(function, len(inputs.Z))
    structures = 2 if function.of_structures or further else 1
    expected, found = function(*inputs, *further), []
    for key, value in ASSUMED.items():
        other = torch.full((structures,), value + 1, device=model.device)
        changed = EngineModel(model, {key: other})(*inputs, *further)
        if any(not torch.equal(a, b) for a, b in zip(changed, expected, strict=True)):
            found.append(key)
    return found


def separate_groups(model: GraphPropertyModel) -> tuple[EngineInputs, EngineInputs, EngineInputs]:
    """Two groups of atoms, and both of them as one structure, far from each other."""
    one, two = (example_inputs(model, n, 6, seed=n, device=model.device) for n in (7, 11))
    both = EngineInputs(*(torch.cat(pair) for pair in zip(one, two, strict=True)))
    both.neighbours[len(one.Z) :] += len(one.Z)
    return one, two, both


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest value that is expected."""
    scale = max(float(expected.abs().max()), 1e-3)
    return float((found - expected).abs().max()) / scale
