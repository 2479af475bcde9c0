from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given

from graph_pes.atomic_graph import (
    AtomicGraph,
    Property,
    is_batch,
    label_mask,
    neighbour_vectors,
    number_of_structures,
    register_custom_batcher,
    replace,
    to_batch,
    with_edge_vectors,
)
from graph_pes.atomic_graph import batching as batching_module
from graph_pes.atomic_graph import properties as properties_module
from tests.strategies import structure_lists


def graph_of(atoms: ase.Atoms, cutoff: float = 3.0, **labels: object) -> AtomicGraph:
    atoms = atoms.copy()
    atoms.info.update(labels)
    return AtomicGraph.from_ase(atoms, cutoff, {key: key for key in labels}, dtype=torch.float64)


@given(structure_lists())
def test_structures_are_side_by_side(structures: list[ase.Atoms]) -> None:
    graphs = [graph_of(atoms) for atoms in structures]
    batch = to_batch(graphs)
    assert is_batch(batch)
    assert batch.batch is not None
    assert batch.ptr is not None
    assert batch.pbc is not None
    assert batch.ptr.tolist() == [0, *np.cumsum([len(a) for a in structures])]
    assert batch.batch.tolist() == [n for n, a in enumerate(structures) for _ in a]
    assert batch.cell.shape == (len(graphs), 3, 3)
    assert (batch.neighbour_list[0].diff() >= 0).all()
    of_edge = batch.batch[batch.neighbour_list]
    assert torch.equal(of_edge[0], of_edge[1])
    vectors = neighbour_vectors(batch).split([g.neighbour_list.shape[1] for g in graphs])
    for n, graph in enumerate(graphs):
        own = slice(int(batch.ptr[n]), int(batch.ptr[n + 1]))
        assert torch.equal(batch.Z[own], graph.Z)
        assert torch.equal(batch.R[own], graph.R)
        assert torch.equal(batch.cell[n], graph.cell)
        assert graph.pbc is not None
        assert torch.equal(batch.pbc[n], graph.pbc)
        torch.testing.assert_close(vectors[n], neighbour_vectors(graph), rtol=0, atol=1e-12)


def test_the_graphs_are_left_alone() -> None:
    graphs = [graph_of(molecule("H2O"), energy=1.0), graph_of(bulk("Cu"))]
    before = [g.neighbour_list.clone() for g in graphs]
    to_batch(graphs, three_body_cutoff=2.0)
    for graph, edges in zip(graphs, before, strict=True):
        assert torch.equal(graph.neighbour_list, edges)
        assert graph.other == {}
    assert graphs[0].properties.keys() == {"energy"}
    assert graphs[1].properties == {}


def test_neither_empty_nor_nested() -> None:
    with pytest.raises(ValueError, match="expected at least one graph, got none"):
        to_batch([])
    graph = graph_of(molecule("H2O"))
    with pytest.raises(ValueError, match="already a batch"):
        to_batch([graph, to_batch([graph])])


def test_cutoff_is_one_that_holds_for_all() -> None:
    assert to_batch([graph_of(molecule("H2O"), c) for c in (3.0, 2.0, 4.0)]).cutoff == 2.0


def test_edge_vectors_are_not_carried_over() -> None:
    graph = graph_of(molecule("H2O"))
    strained = with_edge_vectors(graph, 2 * neighbour_vectors(graph))
    torch.testing.assert_close(neighbour_vectors(to_batch([strained])), neighbour_vectors(graph))


def test_pbc_of_graphs_without_it() -> None:
    given_pbc = graph_of(bulk("Cu"))
    none = replace(graph_of(bulk("Cu")), pbc=None)
    without_cell = replace(graph_of(molecule("H2")), pbc=None)
    assert to_batch([none, none]).pbc is None
    batch = to_batch([given_pbc, none, without_cell])
    assert batch.pbc is not None
    assert batch.pbc.tolist() == [[True] * 3, [True] * 3, [False] * 3]


# --- labels ---


def test_labels() -> None:
    rng = np.random.default_rng(0)
    graphs = [
        graph_of(
            molecule(name),
            energy=rng.normal(),
            forces=rng.normal(size=(n, 3)),
            stress=rng.normal(size=(3, 3)),
            charges=rng.normal(size=n),
            dipole=rng.normal(size=3),
            local_energies=rng.normal(size=n),
            tensor=rng.normal(size=(n, 5)),
        )
        for name, n in (("H2O", 3), ("CH4", 5))
    ]
    batch = to_batch(graphs)
    for key, shape in {
        "energy": (2,),
        "forces": (8, 3),
        "stress": (2, 3, 3),
        "charges": (8,),
        "dipole": (2, 3),
        "local_energies": (8,),
        "tensor": (8, 5),
    }.items():
        assert batch.properties[key].shape == shape
        join = torch.stack if shape[0] == 2 else torch.cat
        assert torch.equal(batch.properties[key], join([g.properties[key] for g in graphs]))
        assert label_mask(batch, key).all()


def test_missing_labels_are_masked() -> None:
    """No label is dropped because another structure lacks it."""
    batch = to_batch(
        [
            graph_of(molecule("H2O"), energy=1.0),
            graph_of(molecule("H2"), forces=np.ones((2, 3)), stress=np.ones((3, 3))),
            graph_of(molecule("O"), energy=3.0),
        ]
    )
    assert label_mask(batch, "energy").tolist() == [True, False, True]
    assert label_mask(batch, "forces").any(-1).tolist() == [False] * 3 + [True] * 2 + [False]
    assert label_mask(batch, "stress").all(-1).all(-1).tolist() == [False, True, False]
    assert batch.properties["energy"][label_mask(batch, "energy")].tolist() == [1, 3]
    assert batch.properties["energy"].dtype == torch.float64


def test_shapes_of_labels_must_agree() -> None:
    graphs = [graph_of(molecule("H2"), tensor=np.ones((2, k))) for k in (3, 5)]
    with pytest.raises(ValueError, match=r"shapes of 'tensor' disagree: \[\(3,\), \(5,\)\]"):
        to_batch(graphs)


def test_undeclared_label() -> None:
    graph = replace(graph_of(molecule("H2")), properties={"hardness": torch.ones(2)})
    with pytest.raises(
        ValueError, match=r"label 'hardness' is per atom or per structure.*Property"
    ):
        to_batch([graph])


def test_declared_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row in the table is all that a new property needs."""
    monkeypatch.setitem(properties_module.PROPERTIES, "hardness", Property("atom", (), "eV"))
    batch = to_batch([graph_of(molecule("H2"), hardness=[1.0, 2.0]), graph_of(molecule("H"))])
    assert batch.properties["hardness"][:2].tolist() == [1, 2]
    assert label_mask(batch, "hardness").tolist() == [True, True, False]


# --- other ---


def with_other(atoms: ase.Atoms, **other: torch.Tensor) -> AtomicGraph:
    return replace(graph_of(atoms), other=other)


def test_other_per_structure() -> None:
    batch = to_batch(
        [
            with_other(molecule("H2O"), total_charge=torch.tensor(1), field=torch.ones(4)),
            with_other(molecule("H2"), total_charge=torch.tensor(-1), field=torch.zeros(4)),
        ]
    )
    assert batch.other["total_charge"].tolist() == [1, -1]
    assert batch.other["field"].shape == (2, 4)


def test_other_per_atom() -> None:
    batch = to_batch(
        [
            with_other(molecule("H2O"), tags=torch.arange(3)),
            with_other(molecule("H2"), tags=torch.arange(2)),
        ]
    )
    assert batch.other["tags"].tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("names", "shapes"),
    [
        (("H2O", "H2O"), ((3,), (3,))),  # per atom, or a vector per structure?
        (("H2O",), ((3,),)),
        (("H",), ((1,),)),
        (("H2O", "H2"), ((3,), (3,))),
        (("H2O", "CH4"), ((4,), (6,))),  # fits neither
    ],
)
def test_ambiguous_other(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> None:
    graphs = [
        with_other(molecule(name), value=torch.zeros(shape))
        for name, shape in zip(names, shapes, strict=True)
    ]
    with pytest.raises(
        ValueError, match=r"'value' with shapes .* could be per atom or per structure"
    ):
        to_batch(graphs)


@pytest.mark.parametrize(("per", "shape"), [("atom", (6,)), ("structure", (2, 3))])
def test_declared_other(per: str, shape: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Property(per, None, "")  # type: ignore[arg-type]
    monkeypatch.setitem(properties_module.PROPERTIES, "value", row)
    batch = to_batch([with_other(molecule("H2O"), value=torch.zeros(3))] * 2)
    assert batch.other["value"].shape == shape


def test_other_missing_from_some() -> None:
    graphs = [
        with_other(molecule("H2O"), total_charge=torch.tensor(1)),
        with_other(molecule("H2O")),
    ]
    with pytest.raises(ValueError, match="'total_charge' is missing from structure 1 of the batch"):
        to_batch(graphs)


@pytest.mark.parametrize("value", ["x", 1, None])
def test_other_that_is_no_tensor(value: object) -> None:
    graphs = [
        with_other(molecule("H2O"), total_charge=torch.tensor(1)),
        with_other(molecule("H2O"), total_charge=value),
    ]
    with pytest.raises(ValueError, match=r"'total_charge' .* structure 1 should be a tensor, but"):
        to_batch(graphs)


def test_custom_batcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching_module, "_custom_batchers", {})

    @register_custom_batcher("bonds")
    def batch_bonds(batch: AtomicGraph, values: list[torch.Tensor]) -> torch.Tensor:
        assert batch.ptr is not None
        return torch.cat([v + start for v, start in zip(values, batch.ptr[:-1], strict=True)])

    bonds = torch.tensor([[0, 1], [0, 2]])
    batch = to_batch([with_other(molecule("H2O"), bonds=bonds)] * 2)
    assert batch.other["bonds"].tolist() == [[0, 1], [0, 2], [3, 4], [3, 5]]
    assert number_of_structures(batch) == 2
