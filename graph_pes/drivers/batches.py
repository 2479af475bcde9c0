"""Batches of structures made of an engine's tensors, and what a model says of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, neighbour_lists
from graph_pes.deploy import ExportedModel
from graph_pes.models.base import GraphPESModel

from .predict import check_elements, evaluation_mode


def batch_from(
    Z: Tensor,
    R: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    cutoff: float,
    other: dict[str, Tensor] | None = None,
) -> AtomicGraph:
    """Structures with their neighbours, all on the device that the tensors are on.

    Parameters
    ----------
    Z, R, batch
        Atomic numbers (N,), positions (N, 3) in Å, and the structure of each atom (N,), in
        ascending order.
    cell, pbc
        Lattice vectors as rows, shape (S, 3, 3), in Å; periodic directions, shape (S, 3).
    cutoff
        Of the neighbours, in Å.
    other
        What else there is to know of the structures.

    Raises
    ------
    ValueError
        As `neighbour_lists`.

    Examples
    --------
    >>> Z, R = torch.tensor([1, 1, 8]), torch.tensor([[0.0, 0, 0], [0.7, 0, 0], [0, 0, 0]])
    >>> cell, pbc = torch.zeros(2, 3, 3), torch.zeros(2, 3, dtype=torch.bool)
    >>> batch_from(Z, R, cell, pbc, torch.tensor([0, 0, 1]), cutoff=3.0)
    AtomicGraphBatch(structures=2, atoms=3, edges=2, has_cell=False, cutoff=3.0)
    """
    Z, batch, R, cell = Z.long(), batch.long(), R.double(), cell.double()
    edges, offsets = neighbour_lists(R, cell, pbc, batch, cutoff)
    sizes = torch.bincount(batch, minlength=cell.shape[0])
    return AtomicGraph(
        Z=Z,
        R=R,
        cell=cell,
        neighbour_list=edges,
        neighbour_cell_offsets=offsets,
        properties={},
        cutoff=cutoff,
        other=other or {},
        batch=batch,
        ptr=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        pbc=pbc,
    )


def evaluate(
    model: GraphPESModel | ExportedModel, graph: AtomicGraph, properties: Sequence[PropertyKey]
) -> dict[PropertyKey, Tensor]:
    """Predictions for a batch on the device of the model, detached.

    The model is evaluated in evaluation mode, and left in the mode it was in.

    Raises
    ------
    ValueError
        If the model was not fitted to one of the elements; or see `GraphPESModel.predict`.
    """
    check_elements(model, graph.Z)
    # no_grad: an energy alone then costs no more than its forward pass.
    with evaluation_mode(model), torch.no_grad():
        return model.predict(graph, properties)
