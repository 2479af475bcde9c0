"""Models of whole structures as TorchScript, which no model has to be written for.

TorchScript runs the operations that were recorded while a model evaluated an example. They can
be differentiated, as often as wanted, where the model could be: positions are all there is to
say about how a metatomic archive gives forces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from graph_pes.atomic_graph import PROPERTIES, AtomicGraph, as_directed, with_edge_vectors
from graph_pes.deploy.engine import engine_graph
from graph_pes.deploy.trace import TRACED, example_inputs, reported
from graph_pes.models.base import GraphPropertyModel, in_precision_of
from graph_pes.models.derivatives import energies_of_members

from .function_model import CollectiveVariables

#: What models may want to know of a structure, besides its atoms.
STRUCTURE_INPUTS = ("total_charge", "total_spin")


class BatchInputs(NamedTuple):
    """A batch of S structures of N atoms, whose neighbours are a matrix of D columns.

    The first three are those of `graph_pes.deploy.engine`; there are no ghosts. For functions,
    the first two are lists of E edges.
    """

    vectors: Tensor  # (N, D, 3), or (E, 3)
    neighbours: Tensor  # (N, D), or (2, E)
    Z: Tensor  # (N,)
    R: Tensor  # (N, 3)
    cell: Tensor  # (S, 3, 3)
    pbc: Tensor  # (S, 3)
    batch: Tensor  # (N,)
    ends: Tensor  # (S,), where the atoms of each structure end
    total_charge: Tensor  # (S,)
    total_spin: Tensor  # (S,)


class BatchModel(nn.Module):
    """A model of properties as a function of tensors.

    Parameters
    ----------
    model
        The model.
    """

    def __init__(self, model: GraphPropertyModel):
        super().__init__()
        self.model = model
        self.cutoff = model.cutoff_value
        self.takes_matrix = not isinstance(model, CollectiveVariables)
        self.outputs = [
            name for name in model.implemented_properties if PROPERTIES[name].per != "edge"
        ]
        committee = {"local_energies_ensemble", "energy_ensemble"} & set(self.outputs)
        if committee and "energy_uncertainty" not in self.outputs:
            self.outputs.append("energy_uncertainty")

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """What the model predicts, in the order of ``outputs``."""
        x = BatchInputs(*inputs)
        graph_of = engine_graph if self.takes_matrix else _graph_of_edges
        graph = graph_of(x.vectors, x.neighbours, x.Z, self.cutoff)
        further = {key: getattr(x, key) for key in STRUCTURE_INPUTS}
        graph = graph._replace(
            R=x.R,
            cell=x.cell,
            pbc=x.pbc,
            batch=x.batch,
            ptr=torch.cat([x.ends.new_zeros(1), x.ends]),
            other={**graph.other, **further},
        )
        predictions = self.model(in_precision_of(self.model, graph))
        predictions = {**energies_of_members(predictions, graph), **predictions}
        return [predictions[name] for name in self.outputs]


def _graph_of_edges(vectors: Tensor, edges: Tensor, Z: Tensor, cutoff: float) -> AtomicGraph:
    """As `engine_graph`, of a list of edges (2, E)."""
    graph = AtomicGraph(
        Z=Z,
        R=torch.zeros_like(vectors),
        cell=vectors.new_zeros(1, 3, 3),
        neighbour_list=edges,
        neighbour_cell_offsets=torch.zeros_like(vectors),
        properties={},
        cutoff=cutoff,
        other={},
    )
    return with_edge_vectors(as_directed(graph), vectors)


def example_batch(
    model: GraphPropertyModel,
    dtype: torch.dtype,
    atoms: int = TRACED["atoms"],
    columns: int = TRACED["columns"],
    structures: int = 5,
    seed: int = 0,
) -> BatchInputs:
    """Random structures, of which the last two are periodic."""
    edges = example_inputs(model, atoms, columns, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    ends = torch.arange(structures + 1) * atoms // structures
    batch = torch.bucketize(torch.arange(atoms), ends[1:], right=True)
    sizes = (ends[1:] - ends[:-1])[batch].unsqueeze(1)
    within = edges.neighbours % sizes + ends[batch].unsqueeze(1)
    periodic = torch.arange(structures) >= structures - 2
    cell = 6 * torch.eye(3) + torch.rand(structures, 3, 3, generator=generator)
    vectors, neighbours = edges.vectors.to(dtype), within
    if isinstance(model, CollectiveVariables):
        i = torch.arange(atoms).unsqueeze(1).expand_as(within)
        vectors, neighbours = vectors.view(-1, 3), torch.stack([i, within]).view(2, -1)
    return BatchInputs(
        vectors=vectors,
        neighbours=neighbours,
        Z=edges.Z,
        R=6 * torch.rand(atoms, 3, generator=generator, dtype=torch.float64).to(dtype),
        cell=(cell * periodic[:, None, None]).to(dtype),
        pbc=periodic.unsqueeze(1).expand(-1, 3).clone(),
        batch=batch,
        ends=ends[1:],
        total_charge=(torch.arange(structures) - 1.0).to(dtype),
        total_spin=torch.arange(structures).to(dtype),
    )


class Scripted(NamedTuple):
    """A program in TorchScript, and which of `STRUCTURE_INPUTS` it uses."""

    program: torch.jit.ScriptModule
    structure_inputs: list[str]


def scripted(module: BatchModel, inputs: BatchInputs) -> Scripted:
    """Record what a model does, as a TorchScript module that takes `BatchInputs` of any size.

    Raises
    ------
    ExportError
        If the model can't be traced.
    """
    make = make_fx(module.forward, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    with reported(module.model):
        traced = make(*inputs)
    _hold_tensors(traced)
    graph = traced.graph
    graph.eliminate_dead_code()
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    used = {
        name
        for name, node in zip(BatchInputs._fields, placeholders, strict=True)
        if len(node.users) > 0
    }
    device = _device_of(placeholders[BatchInputs._fields.index("R")])
    for node in list(graph.nodes):
        if node.op == "call_function":
            _for_torchscript(node, device)
    graph.lint()
    traced.recompile()
    return Scripted(torch.jit.script(traced), [key for key in STRUCTURE_INPUTS if key in used])


def _hold_tensors(traced: torch.fx.GraphModule) -> None:
    """Turn parameters and constants into buffers, which move to other devices."""
    names = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    for name in sorted(names):
        value = getattr(traced, name)
        delattr(traced, name)
        traced.register_buffer(name, value.detach().clone())


def _device_of(node: torch.fx.Node) -> Callable[[], torch.fx.Node]:
    """A function that adds, once, the device of an input to the graph."""
    made: list[torch.fx.Node] = []

    def device() -> torch.fx.Node:
        if not made:
            last = [n for n in node.graph.nodes if n.op == "placeholder"][-1]
            with node.graph.inserting_after(last):
                made.append(node.graph.call_function(getattr, (node, "device")))
        return made[0]

    return device


def _for_torchscript(node: torch.fx.Node, device: Callable[[], torch.fx.Node]) -> None:
    """Write an operation in the way of TorchScript, on the device of the inputs."""
    if node.target is torch.ops.aten.sym_size.int:
        node.op, node.target = "call_method", "size"
        return
    if node.target is torch.ops.aten._to_copy.default:
        node.target = torch.ops.aten.to
    elif isinstance(node.target, torch._ops.OpOverload):
        node.target = node.target.overloadpacket
    kwargs = {key: x for key, x in node.kwargs.items() if key not in ("pin_memory", "layout")}
    if kwargs.get("device") is not None:
        kwargs["device"] = device()
    node.kwargs = kwargs
