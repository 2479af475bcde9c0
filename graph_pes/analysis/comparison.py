"""Labels beside the predictions of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graph_pes.atomic_graph import PROPERTIES, AtomicGraph, PropertyKey, number_of_atoms
from graph_pes.drivers.predict import in_groups, predict_all
from graph_pes.models.base import GraphPropertyModel
from graph_pes.models.derivatives import has_volume

#: Properties that grow with the structure: compared per atom.
EXTENSIVE: tuple[PropertyKey, ...] = ("energy", "virial")

#: What comes first in tables and figures.
FIRST: tuple[PropertyKey, ...] = ("energy", "forces", "stress", "virial")


@dataclass(frozen=True)
class Comparison:
    """Reference and predicted values of one property over a data set.

    One row per structure or per atom, depending on the property, of those that are labelled.

    Attributes
    ----------
    property
        Such as ``forces``; extensive ones are divided by the number of atoms and are called
        ``energy_per_atom`` and ``virial_per_atom``.
    unit
        Of the values.
    reference
        The labels, shape (K, D), for K rows of D components each, float64.
    predicted
        The predictions, in the same shape.
    elements
        Atomic number of each row, shape (K,), for properties of atoms.
    groups
        Name of the group that the structure of each row is in (or None), if groups were given.
    """

    property: str
    unit: str
    reference: np.ndarray
    predicted: np.ndarray
    elements: np.ndarray | None = None
    groups: tuple[str | None, ...] | None = None


@dataclass(frozen=True)
class _Rows:
    """The rows of one structure and one property."""

    reference: Tensor
    predicted: Tensor
    elements: Tensor
    group: str | None


def compare(
    model: GraphPropertyModel,
    graphs: Iterable[AtomicGraph],
    batch_size: int = 5,
    groups: Sequence[str | None] | None = None,
) -> list[Comparison]:
    """Predict what the structures are labelled with; each structure is evaluated once.

    Structures without a label are left out of the comparison of that property, as are
    labels that the model can't predict, and those of stress where there is no volume.

    Parameters
    ----------
    model
        Evaluated where it is, in evaluation mode, and left in the mode it was in.
    graphs
        The structures. They may be made as they are iterated over: none is kept.
    batch_size
        Number of structures to evaluate at once.
    groups
        The name of the group of each structure, such as its ``config_type``.

    Returns
    -------
    list[Comparison]
        One per property: energy, forces, stress, virial, then any other.

    Raises
    ------
    ValueError
        If there is not one group per structure.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from graph_pes.models import LennardJones
    >>> water = molecule("H2O")
    >>> water.info["energy"] = -14.2
    >>> (energy,) = compare(LennardJones(), [AtomicGraph.from_ase(water, cutoff=5.0)])
    >>> energy.property, energy.unit, energy.reference.round(2)
    ('energy_per_atom', 'eV/atom', array([[-4.73]]))
    """
    rows: dict[PropertyKey, list[_Rows]] = {}
    n = 0
    for batch in in_groups(graphs, batch_size):
        labels = [_labels(graph, model) for graph in batch]
        wanted = {key for keys in labels for key in keys}
        predictions = predict_all(model, batch, sorted(wanted), batch_size)
        for graph, keys, prediction in zip(batch, labels, predictions, strict=True):
            if groups is not None and n >= len(groups):
                raise ValueError(f"there are {len(groups)} groups, but more structures")
            for key in keys:
                group = None if groups is None else groups[n]
                rows.setdefault(key, []).append(_rows(graph, key, prediction[key], group))
            n += 1
    if groups is not None and n != len(groups):
        raise ValueError(f"there are {len(groups)} groups for {n} structures")
    order = dict.fromkeys((*FIRST, *rows))
    return [_joined(key, rows[key], groups is not None) for key in order if key in rows]


def _labels(graph: AtomicGraph, model: GraphPropertyModel) -> list[PropertyKey]:
    """The labels of a structure that can be compared with a prediction."""
    known = model.predictable_properties.intersection(PROPERTIES)
    if not has_volume(graph):
        known.discard("stress")
    return [
        key
        for key, label in graph.properties.items()
        if key in known and not bool(torch.isnan(label).all())
    ]


def _rows(graph: AtomicGraph, key: PropertyKey, prediction: Tensor, group: str | None) -> _Rows:
    """Values per atom (N, D), or of the structure (1, D), without rows of missing labels."""
    n_rows = number_of_atoms(graph) if PROPERTIES[key].per == "atom" else 1
    reference = graph.properties[key].detach().cpu().double().reshape(n_rows, -1)
    predicted = prediction.double().reshape(n_rows, -1)
    if key in EXTENSIVE:
        reference, predicted = (x / number_of_atoms(graph) for x in (reference, predicted))
    if reference.shape != predicted.shape:
        raise ValueError(
            f"the labels {key!r} of a structure have shape {tuple(graph.properties[key].shape)}, "
            f"but the predictions {tuple(prediction.shape)}"
        )
    present = ~torch.isnan(reference).any(1)
    elements = graph.Z.cpu()[present] if PROPERTIES[key].per == "atom" else graph.Z.new_zeros(0)
    return _Rows(reference[present], predicted[present], elements, group)


def _joined(key: PropertyKey, rows: list[_Rows], with_groups: bool) -> Comparison:
    per_atom, extensive = PROPERTIES[key].per == "atom", key in EXTENSIVE
    unit = PROPERTIES[key].unit
    return Comparison(
        property=f"{key}_per_atom" if extensive else key,
        unit=f"{unit}/atom" if extensive else unit,
        reference=torch.cat([r.reference for r in rows]).numpy(),
        predicted=torch.cat([r.predicted for r in rows]).numpy(),
        elements=torch.cat([r.elements for r in rows]).numpy() if per_atom else None,
        groups=tuple(r.group for r in rows for _ in r.reference) if with_groups else None,
    )
