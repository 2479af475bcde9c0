"""Run a model over many structures, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    PROPERTIES,
    AtomicGraph,
    PropertyKey,
    structure_sizes,
    to_batch,
)
from graph_pes.models.base import GraphPropertyModel
from graph_pes.models.derivatives import has_volume
from graph_pes.periodic_table import ATOMIC_NUMBERS, symbols_of

#: What a committee knows of its own errors, per structure and per atom.
UNCERTAINTIES: tuple[PropertyKey, ...] = ("energy_uncertainty", "forces_uncertainty")


def uncertainties_of(model: GraphPropertyModel) -> list[PropertyKey]:
    """Which of `UNCERTAINTIES` a model predicts: both if it is a committee, else none.

    Examples
    --------
    >>> from graph_pes.models import Committee, Morse
    >>> uncertainties_of(Committee([Morse(D=0.1), Morse(D=0.2)]))
    ['energy_uncertainty', 'forces_uncertainty']
    """
    known = model.predictable_properties
    return [key for key in UNCERTAINTIES if key in known]


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and each of its modules back as it was afterwards.

    Examples
    --------
    >>> model = torch.nn.Linear(1, 1)
    >>> with evaluation_mode(model):
    ...     print(model.training)
    False
    >>> model.training
    True
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def check_elements(model: GraphPropertyModel, Z: Tensor) -> None:
    """Make sure that a fitted model knows the elements of a structure.

    Models that have no values of elements, and models that were never fitted, pass.

    Raises
    ------
    ValueError
        Naming the elements that are new to the model, and those it knows.
    """
    known = model.elements_seen
    if not known or not bool(model._has_been_pre_fit):
        return
    unseen = set(Z.unique().tolist()) - {ATOMIC_NUMBERS[symbol] for symbol in known}
    if unseen:
        raise ValueError(
            f"the structure contains {', '.join(symbols_of(unseen))}, but the model was only "
            f"fitted to {', '.join(known)}: its predictions would be meaningless"
        )


def iterate_predictions(
    model: GraphPropertyModel,
    graphs: Iterable[AtomicGraph],
    properties: Sequence[PropertyKey],
    batch_size: int = 5,
) -> Iterator[dict[PropertyKey, Tensor]]:
    """Predictions for one structure after the other, computed in batches as they are taken.

    The model is evaluated where it is, in evaluation mode, and left in the mode it was in.

    Parameters
    ----------
    model
        Any model.
    graphs
        Single structures, with edges at least up to the cutoff of the model.
    properties
        What to predict. Stress is left out for structures whose cell has no volume.
    batch_size
        Number of structures to evaluate at once.

    Yields
    ------
    dict[str, Tensor]
        In the order of the structures, detached and on the CPU.

    Raises
    ------
    ValueError
        If ``batch_size`` is not positive, or see `GraphPESModel.predict`.
    """
    for group in in_groups(graphs, batch_size):
        yield from _predict_group(model, group, properties)


def predict_all(
    model: GraphPropertyModel,
    graphs: Iterable[AtomicGraph],
    properties: Sequence[PropertyKey],
    batch_size: int = 5,
) -> list[dict[PropertyKey, Tensor]]:
    """Predictions for a list of structures: see `iterate_predictions`.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from graph_pes.models import LennardJones
    >>> graphs = [AtomicGraph.from_ase(molecule(m), cutoff=5.0) for m in ("H2O", "CH4")]
    >>> predictions = predict_all(LennardJones(), graphs, ["energy", "forces"])
    >>> [p["forces"].shape for p in predictions]
    [torch.Size([3, 3]), torch.Size([5, 3])]
    """
    return list(iterate_predictions(model, graphs, properties, batch_size))


def in_groups(graphs: Iterable[AtomicGraph], size: int) -> Iterator[list[AtomicGraph]]:
    """Lists of ``size`` structures after one another, the last one shorter if need be.

    Raises
    ------
    ValueError
        If ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"batch_size should be at least 1, but is {size}")
    group: list[AtomicGraph] = []
    for graph in graphs:
        group.append(graph)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _predict_group(
    model: GraphPropertyModel, graphs: Sequence[AtomicGraph], properties: Sequence[PropertyKey]
) -> list[dict[PropertyKey, Tensor]]:
    """Predictions of a few structures; those with and without a volume apart, if it matters."""
    results: list[dict[PropertyKey, Tensor]] = [{} for _ in graphs]
    volumes = [bool(has_volume(g)) or "stress" not in properties for g in graphs]
    for volume in sorted(set(volumes)):
        members = [n for n, v in enumerate(volumes) if v == volume]
        keys = [key for key in properties if volume or key != "stress"]
        if keys:
            batch = to_batch([graphs[n]._replace(properties={}) for n in members])
            for n, prediction in zip(members, _predict_batch(model, batch, keys), strict=True):
                results[n] = prediction
    return results


def _predict_batch(
    model: GraphPropertyModel, batch: AtomicGraph, properties: Sequence[PropertyKey]
) -> list[dict[PropertyKey, Tensor]]:
    """Predictions of each structure of a batch, from one evaluation."""
    # no_grad: an energy alone then costs no more than its forward pass.
    with evaluation_mode(model), torch.no_grad():
        predictions = model.predict(batch.to(model.device), properties)
    sizes = structure_sizes(batch).tolist()
    split = {key: _split(key, value.cpu(), sizes) for key, value in predictions.items()}
    return [{key: values[n] for key, values in split.items()} for n in range(len(sizes))]


def _split(key: PropertyKey, value: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    per_atom = PROPERTIES[key].per == "atom" if key in PROPERTIES else False
    return value.split(sizes) if per_atom else value.unbind(0)
