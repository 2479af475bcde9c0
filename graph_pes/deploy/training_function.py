"""A model as a function of tensors, for training: predictions that can be differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    PROPERTIES,
    AtomicGraph,
    as_neighbour_matrix,
    is_local_property,
    neighbour_matrix,
    number_of_structures,
    undirected_edges,
)
from graph_pes.atomic_graph.graph import DERIVED_KEYS, DIRECTED, UNDIRECTED
from graph_pes.models.base import GraphPropertyModel, in_precision_of

from .engine import engine_graph, engine_inputs, gradient_of
from .trace import example_inputs

#: Names of buffers that are constants: models decide by them what to do.
CUTOFFS = ("cutoff", "three_body_cutoff")


class TrainingInputs(NamedTuple):
    """A batch as engines see it (`graph_pes.deploy.engine`), and its structures.

    Of the first two the first two dimensions vary from batch to batch, else the first one. Pairs
    are those of `undirected_edges`, places in the neighbour matrix.
    """

    vectors: Tensor
    neighbours: Tensor
    Z: Tensor
    R: Tensor
    cell: Tensor
    pbc: Tensor
    batch: Tensor
    ptr: Tensor
    pairs: Tensor


@dataclass(frozen=True)
class Entry:
    """An entry of ``graph.other`` that a model may use.

    Attributes
    ----------
    key
        Its name.
    per_atom
        Whether it has a row for each atom, or for each structure.
    shape, dtype
        Of a row.
    """

    key: str
    per_atom: bool
    shape: tuple[int, ...]
    dtype: torch.dtype


def entries_of(batch: AtomicGraph) -> tuple[Entry, ...]:
    """The entries of ``other`` of a batch that have a row per structure or per atom."""
    return tuple(
        Entry(key, is_local_property(x, batch), tuple(x.shape[1:]), x.dtype)
        for key, x in sorted(batch.other.items())
        if key not in (*DERIVED_KEYS, DIRECTED)
        if x.dim() > 0 and x.shape[0] in (batch.Z.shape[0], number_of_structures(batch))
    )


def training_inputs(
    batch: AtomicGraph, dtype: torch.dtype, entries: Sequence[Entry]
) -> list[Tensor]:
    """`TrainingInputs` and the given entries of a batch, with one more structure of one atom.

    Compiled code does not tell sizes of 1 from others: so there are always several of
    everything. The last atom, and the last structure, are to be left out of the results.
    """
    matrix = as_neighbour_matrix(batch)
    vectors, neighbours, Z, _ = engine_inputs(matrix, dtype)
    N, D = neighbours.shape
    pairs = undirected_edges(matrix)
    if pairs is None:  # which the function does not look at
        pairs = neighbours.new_empty(0)
    else:  # the matrix of engines may have further columns
        columns = neighbour_matrix(matrix).shape[1]
        pairs = pairs // columns * D + pairs % columns
    alone = vectors.new_tensor([2 * batch.cutoff + 1, 0, 0]).expand(1, D, 3)
    assert batch.batch is not None
    assert batch.ptr is not None
    pbc = batch.pbc if batch.pbc is not None else (batch.cell != 0).any(-1)
    return [
        torch.cat([vectors, alone]),
        torch.cat([neighbours, neighbours.new_full((1, D), N)]),
        _one_more(Z),
        _one_more(batch.R.to(dtype)),
        _one_more(batch.cell.to(dtype)),
        _one_more(pbc),
        torch.cat([batch.batch, batch.batch.new_full((1,), batch.ptr.shape[0] - 1)]),
        torch.cat([batch.ptr, batch.ptr.new_full((1,), N + 1)]),
        torch.cat([pairs, pairs.new_tensor([N * D, N * D + 1])]),
        *(_one_more(batch.other[entry.key]) for entry in entries),
    ]


def _one_more(x: Tensor) -> Tensor:
    """The rows of a tensor, the last one twice."""
    return torch.cat([x, x[-1:]])


class TrainingFunction(nn.Module):
    """What a model predicts for a batch, and the derivative of its energy.

    Parameters
    ----------
    model
        The model to be trained.
    derivatives
        Whether the derivative of the energy with respect to edge vectors is wanted.
    entries
        The entries of ``graph.other`` that come after the other inputs.
    directed
        Whether the reverse of an edge may be missing.

    Attributes
    ----------
    outputs
        What is returned: what the model implements, then perhaps ``gradients`` (N, D, 3).
    """

    def __init__(
        self,
        model: GraphPropertyModel,
        derivatives: bool,
        entries: Sequence[Entry] = (),
        directed: bool = False,
    ):
        super().__init__()
        self.directed = directed
        self.model, self.derivatives, self.entries = model, derivatives, tuple(entries)
        self.cutoff = model.cutoff_value
        self.outputs = (*model.implemented_properties, *["gradients"] * derivatives)

    def named_tensors(self) -> list[tuple[str, Tensor]]:
        """Parameters and buffers; cutoffs, by which models decide what to do, are constants."""
        both = [*self.named_parameters(), *self.named_buffers()]
        return [(name, x) for name, x in both if name.rpartition(".")[2] not in CUTOFFS]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in order; they can be differentiated."""
        n = len(TrainingInputs._fields)
        own = TrainingInputs(*inputs[:n])
        vectors = own.vectors.detach().requires_grad_(self.derivatives)
        graph = engine_graph(vectors, own.neighbours, own.Z, self.cutoff)
        if not self.directed:
            graph.other[UNDIRECTED] = own.pairs
            del graph.other[DIRECTED]
        other = {e.key: x for e, x in zip(self.entries, inputs[n:], strict=True)}
        graph = graph._replace(
            R=own.R,
            cell=own.cell,
            pbc=own.pbc,
            batch=own.batch,
            ptr=own.ptr,
            other={**graph.other, **other},
        )
        results = dict(self.model(in_precision_of(self.model, graph)))
        for key in {"local_energies", "energy"} & results.keys():
            results[key] = results[key].double()
        if self.derivatives:
            energy = results["energy" if "energy" in results else "local_energies"]
            results["gradients"] = gradient_of(energy.sum(), vectors, create_graph=True)
        return tuple(results[name] for name in self.outputs)


def example_batch(
    function: TrainingFunction, atoms: int, columns: int, structures: int, pairs: int
) -> list[Tensor]:
    """Random inputs of a training function."""
    model = function.model
    vectors, neighbours, Z, _ = example_inputs(model, atoms, columns, device=model.device)
    batch = torch.arange(atoms, device=model.device) % structures
    ptr = torch.linspace(0, atoms, structures + 1, device=model.device).long()
    eye = torch.eye(3, dtype=vectors.dtype, device=model.device)
    rows = {True: atoms, False: structures}
    return [
        vectors,
        neighbours,
        Z,
        vectors[:, 0].clone(),
        5 * eye.repeat(structures, 1, 1),
        torch.ones(structures, 3, dtype=torch.bool, device=model.device),
        batch.sort().values,
        ptr,
        torch.arange(pairs, device=model.device),
        *(
            torch.zeros(rows[e.per_atom], *e.shape, dtype=e.dtype, device=model.device)
            for e in function.entries
        ),
    ]


def example_gradients(
    function: TrainingFunction, atoms: int, columns: int, structures: int
) -> list[Tensor]:
    """Derivatives of a loss with respect to the outputs of a training function, all zero."""
    made = []
    small = dict(zip(function.outputs, function(*example_batch(function, 3, 5, 2, 4)), strict=True))
    for name, x in small.items():
        if name == "gradients":
            shape: tuple[int, ...] = (atoms, columns, 3)
        else:
            rows = atoms if PROPERTIES[name].per == "atom" else structures
            shape = (rows, *x.shape[1:])
        made.append(x.new_zeros(shape))
    return made
