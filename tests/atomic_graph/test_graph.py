from __future__ import annotations

import pickle

import torch
from ase.build import bulk, molecule

from graph_pes.atomic_graph import (
    ALL_PROPERTY_KEYS,
    DEFAULT_CUTOFF,
    PROPERTIES,
    AtomicGraph,
    neighbour_vectors,
    replace,
    to_batch,
    with_edge_vectors,
    with_triplets,
)


def test_fields_in_order() -> None:
    assert AtomicGraph._fields == (
        "Z",
        "R",
        "cell",
        "neighbour_list",
        "neighbour_cell_offsets",
        "properties",
        "cutoff",
        "other",
        "batch",
        "ptr",
        "pbc",
    )


def test_constants() -> None:
    assert DEFAULT_CUTOFF == 5.0
    assert set(ALL_PROPERTY_KEYS) <= PROPERTIES.keys()
    assert AtomicGraph.from_ase(molecule("H2")).cutoff == DEFAULT_CUTOFF


def test_repr() -> None:
    water = molecule("H2O")
    assert repr(AtomicGraph.from_ase(water, 1.2)) == (
        "AtomicGraph(atoms=3, edges=4, has_cell=False, cutoff=1.2)"
    )
    water.info |= {"energy": 1.0, "total_charge": 2}
    graph = AtomicGraph.from_ase(water, 1.2)
    assert repr(graph) == (
        "AtomicGraph(atoms=3, edges=4, has_cell=False, cutoff=1.2, "
        "properties=['energy'], other=['total_charge'])"
    )
    batch = to_batch([AtomicGraph.from_ase(bulk("Cu"), 2.6)] * 2)
    assert repr(batch) == (
        "AtomicGraphBatch(structures=2, atoms=2, edges=24, has_cell=True, cutoff=2.6)"
    )


def test_quantities_derived_from_edges_are_not_shown() -> None:
    graph = AtomicGraph.from_ase(molecule("H2O"), 1.2)
    prepared = with_triplets(with_edge_vectors(graph, neighbour_vectors(graph)), 1.2)
    assert repr(prepared) == repr(graph)
    assert prepared.to_ase().info == {}


def test_create_with_defaults_sorts_edges() -> None:
    graph = AtomicGraph.create_with_defaults(
        Z=torch.tensor([1, 1, 8]),
        R=torch.rand(3, 3),
        neighbour_list=torch.tensor([[2, 0, 1, 0], [0, 2, 2, 1]]),
        neighbour_cell_offsets=torch.arange(12.0).view(4, 3),
        cutoff=2.0,
    )
    assert graph.neighbour_list.tolist() == [[0, 0, 1, 2], [2, 1, 2, 0]]
    assert graph.neighbour_cell_offsets[:, 0].tolist() == [3, 9, 6, 0]


def test_create_with_defaults() -> None:
    graph = AtomicGraph.create_with_defaults(
        Z=torch.tensor([1]), R=torch.zeros(1, 3, dtype=torch.float64)
    )
    assert graph.cell.tolist() == [[0, 0, 0]] * 3
    assert graph.cell.dtype == graph.neighbour_cell_offsets.dtype == torch.float64
    assert graph.neighbour_list.shape == (2, 0)
    assert graph.properties == graph.other == {}
    assert graph.cutoff == 0.0


def test_replace_makes_a_new_graph() -> None:
    graph = AtomicGraph.from_ase(molecule("H2O"))
    moved = replace(graph, R=graph.R + 1, cutoff=4.0)
    assert torch.equal(moved.R, graph.R + 1)
    assert graph.cutoff == DEFAULT_CUTOFF
    assert moved.cutoff == 4.0


def test_to_device() -> None:
    water = molecule("H2O")
    water.info |= {"energy": 1.0, "total_charge": 2}
    moved = AtomicGraph.from_ase(water).to("meta")
    tensors = [
        moved.R,
        moved.neighbour_list,
        moved.properties["energy"],
        moved.other["total_charge"],
    ]
    assert all(x.device.type == "meta" for x in tensors)
    assert moved.cutoff == DEFAULT_CUTOFF
    assert to_batch([AtomicGraph.from_ase(water)]).to("meta").ptr.device.type == "meta"


def test_pickling() -> None:
    """Workers of a data loader send graphs to the main process."""
    graph = AtomicGraph.from_ase(molecule("H2O"))
    again = pickle.loads(pickle.dumps(graph))
    assert isinstance(again, AtomicGraph)
    assert torch.equal(again.R, graph.R)
