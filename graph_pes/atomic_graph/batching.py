"""Many structures as one graph without edges between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .graph import DERIVED_KEYS, DIRECTED, AtomicGraph
from .neighbours import as_directed
from .ops import is_batch, is_local_property, number_of_atoms
from .others import DEFAULT_OTHERS
from .properties import PROPERTIES, PropertyKey
from .triplets import with_triplets


class CustomPropertyBatcher(Protocol):
    """Combines the values of one key of ``other`` of all graphs of a batch."""

    def __call__(self, batch: AtomicGraph, values: list[Tensor]) -> Tensor:
        """Return the value for the batch; ``batch.other`` is still incomplete."""
        ...


_custom_batchers: dict[str, CustomPropertyBatcher] = {}
Batcher = TypeVar("Batcher", bound=CustomPropertyBatcher)


def register_custom_batcher(key: str) -> Callable[[Batcher], Batcher]:
    """Decorate the function that batches the values of ``graph.other[key]``.

    Examples
    --------
    >>> @register_custom_batcher("my_bonds")
    ... def batch_my_bonds(batch, values):  # pairs of atoms: count on from structure to structure
    ...     return torch.cat([v + start for v, start in zip(values, batch.ptr[:-1])])
    """

    def register(function: Batcher) -> Batcher:
        _custom_batchers[key] = function
        return function

    return register


def to_batch(graphs: Sequence[AtomicGraph], three_body_cutoff: float | None = None) -> AtomicGraph:
    """Combine structures into one graph.

    Labels follow `PROPERTIES`. A label that only some of the structures have is kept, with
    NaN for the others. Entries of ``other`` are joined along the atoms if declared in
    `PROPERTIES` as such or shaped (N, ...), and stacked if they are per structure.

    Parameters
    ----------
    graphs
        At least one graph, none of them a batch.
    three_body_cutoff
        If given, find the triplets of edges up to this distance now (in the workers of a data
        loader, say) rather than in the model.

    Raises
    ------
    ValueError
        If there are no graphs, if one is a batch, if shapes disagree, or if an undeclared key
        of ``other`` could be per atom as well as per structure.

    Examples
    --------
    >>> from ase.build import molecule
    >>> to_batch([AtomicGraph.from_ase(molecule(m), 2.0) for m in ("H2O", "CH4")])
    AtomicGraphBatch(structures=2, atoms=8, edges=26, has_cell=False, cutoff=2.0)
    """
    if len(graphs) == 0:
        raise ValueError("to_batch: expected at least one graph, got none")
    if any(is_batch(g) for g in graphs):
        raise ValueError("to_batch: one of the graphs is already a batch, batches can't be nested")
    device = graphs[0].Z.device
    sizes = torch.tensor([number_of_atoms(g) for g in graphs], device=device)
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    starts = ptr[:-1].tolist()
    batch = AtomicGraph(
        Z=torch.cat([g.Z for g in graphs]),
        R=torch.cat([g.R for g in graphs]),
        cell=torch.stack([g.cell for g in graphs]),
        neighbour_list=torch.cat(
            [g.neighbour_list + start for g, start in zip(graphs, starts, strict=True)], dim=1
        ),
        neighbour_cell_offsets=torch.cat([g.neighbour_cell_offsets for g in graphs]),
        properties={},
        # Beyond the smallest cutoff, some of the structures lack neighbours.
        cutoff=min(g.cutoff for g in graphs),
        other={},
        batch=torch.repeat_interleave(torch.arange(len(graphs), device=device), sizes),
        ptr=ptr,
        pbc=_batch_pbc(graphs),
    )
    for key in _all_keys(g.properties for g in graphs):
        batch.properties[key] = _batch_label(key, graphs)
    for key in _all_keys(g.other for g in graphs):
        if key not in (*DERIVED_KEYS, DIRECTED):
            batch.other[key] = _batch_other(key, graphs, batch)
    if any(DIRECTED in g.other for g in graphs):
        batch = as_directed(batch)
    if three_body_cutoff:
        batch = with_triplets(batch, three_body_cutoff)
    return batch


def _all_keys(dictionaries: object) -> list[str]:
    return list(dict.fromkeys(key for d in dictionaries for key in d))  # type: ignore[attr-defined]


def _batch_pbc(graphs: Sequence[AtomicGraph]) -> Tensor | None:
    if all(g.pbc is None for g in graphs):
        return None
    return torch.stack([g.pbc if g.pbc is not None else (g.cell != 0).any(-1) for g in graphs])


def _batch_label(key: PropertyKey, graphs: Sequence[AtomicGraph]) -> Tensor:
    if key not in PROPERTIES:
        raise ValueError(
            f"to_batch: don't know whether the label {key!r} is per atom or per structure; "
            f"declare it: graph_pes.atomic_graph.PROPERTIES[{key!r}] = Property('atom', ...)"
        )
    per_atom = PROPERTIES[key].per == "atom"
    present = [g.properties[key] for g in graphs if key in g.properties]
    value_shapes = {tuple(v.shape[1:] if per_atom else v.shape) for v in present}
    if len(value_shapes) > 1:
        raise ValueError(f"to_batch: the shapes of {key!r} disagree: {sorted(value_shapes)}")
    shape = value_shapes.pop()

    def value(graph: AtomicGraph) -> Tensor:
        if key in graph.properties:
            return graph.properties[key]
        full = (number_of_atoms(graph), *shape) if per_atom else shape
        return present[0].new_full(full, torch.nan)

    values = [value(g) for g in graphs]
    return torch.cat(values) if per_atom else torch.stack(values)


def _batch_other(key: str, graphs: Sequence[AtomicGraph], batch: AtomicGraph) -> Tensor:
    missing = [n for n, g in enumerate(graphs) if key not in g.other]
    if missing and key in DEFAULT_OTHERS:
        default = torch.tensor(DEFAULT_OTHERS[key])
        values = [g.other.get(key, default) for g in graphs]
        return torch.stack([value.reshape(()).to(batch.R) for value in values])
    if missing:
        raise ValueError(
            f"to_batch: {key!r} is missing from structure {missing[0]} of the batch, "
            "but others have it: every structure needs it, or none"
        )
    values = [g.other[key] for g in graphs]
    if key in _custom_batchers:
        return _custom_batchers[key](batch, values)
    for n, value in enumerate(values):
        if not isinstance(value, Tensor):
            raise ValueError(
                f"to_batch: {key!r} in graph.other of structure {n} should be a tensor, but is "
                f"{value!r} ({type(value).__name__})"
            )
    if key in PROPERTIES:
        per_atom = PROPERTIES[key].per == "atom"
    else:
        per_atom = _guess_per_atom(key, graphs, values)
    return torch.cat(values) if per_atom else torch.stack(values)


def _guess_per_atom(key: str, graphs: Sequence[AtomicGraph], values: list[Tensor]) -> bool:
    fits_atoms = [is_local_property(v, g) for v, g in zip(values, graphs, strict=True)]
    same_shape = len({tuple(v.shape) for v in values}) == 1
    if same_shape and not any(fits_atoms):
        return False
    if all(fits_atoms) and not same_shape:
        return True
    raise ValueError(
        f"to_batch: {key!r} with shapes {[tuple(v.shape) for v in values][:4]} could be per atom "
        f"or per structure; declare it: graph_pes.atomic_graph.PROPERTIES[{key!r}] = "
        "Property('atom' or 'structure', shape, unit), or use register_custom_batcher"
    )
