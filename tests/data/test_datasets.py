"""Data sets of graphs."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given
from hypothesis import strategies as st

from graph_pes import AtomicGraph
from graph_pes.atomic_graph import label_mask, replace, to_batch
from graph_pes.data import ASEToGraphDataset, ConcatDataset, DatasetCollection, GraphDataset
from graph_pes.data.selection import Selection


def graphs(n: int) -> list[AtomicGraph]:
    atoms = molecule("H2O")
    return [
        replace(AtomicGraph.from_ase(atoms, 3.0), other={"number": torch.tensor(k)})
        for k in range(n)
    ]


def number(graph: AtomicGraph) -> int:
    return int(graph.other["number"])


def test_indexing():
    dataset = GraphDataset(graphs(3))
    assert len(dataset) == 3
    assert [number(g) for g in dataset] == [0, 1, 2]
    assert number(dataset[-1]) == 2
    assert number(dataset[np.int64(1)]) == 1
    for index in (3, -4):
        with pytest.raises(IndexError, match="out of range for a data set of 3 graphs"):
            dataset[index]


@pytest.mark.parametrize("make", [GraphDataset, lambda x: ASEToGraphDataset(x, cutoff=3.0)])
def test_no_graphs_are_an_error(make):
    with pytest.raises(ValueError, match="the data set is empty"):
        make([])
    with pytest.raises(ValueError, match="the data set is empty"):
        ConcatDataset()


def test_transforms_apply_on_access():
    plain = graphs(1)
    dataset = GraphDataset(plain, transform=lambda g: replace(g, R=g.R + 1))
    torch.testing.assert_close(dataset[0].R, plain[0].R + 1)
    assert dataset.graphs[0] is plain[0]
    with pytest.raises(ValueError, match="unknown transform 'rotation'"):
        GraphDataset(plain, transform="rotation")


def test_properties_are_those_of_any_graph():
    one, two = graphs(2)
    one = replace(one, properties={"forces": torch.zeros(3, 3)})
    two = replace(two, properties={"energy": torch.tensor(1.0)})
    assert GraphDataset([one, two]).properties == ["forces", "energy"]
    assert GraphDataset(graphs(1)).properties == []
    assert repr(GraphDataset([one, two])) == "GraphDataset(2, properties=['forces', 'energy'])"


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_concatenation_is_that_of_lists(sizes: list[int]):
    all_graphs = graphs(sum(sizes))
    starts = np.cumsum([0, *sizes])
    parts = {
        f"part-{k}": GraphDataset(all_graphs[start : start + size])
        for k, (start, size) in enumerate(zip(starts, sizes, strict=False))
    }
    dataset = ConcatDataset(**parts)
    assert len(dataset) == len(all_graphs)
    expected = list(range(len(all_graphs)))
    assert [number(dataset[k]) for k in range(len(dataset))] == expected
    assert [number(dataset[k - len(dataset)]) for k in range(len(dataset))] == expected
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_concatenation_keeps_transforms_and_sets_up_its_parts():
    water = molecule("H2O")
    water.info["energy"] = 1.0
    lazy = ASEToGraphDataset([water], cutoff=3.0, pre_transform=True)
    moved = GraphDataset(graphs(1), transform=lambda g: replace(g, R=g.R + 1))
    dataset = ConcatDataset(lazy=lazy, moved=moved)
    assert not isinstance(lazy.graphs, list)
    dataset.prepare_data()
    dataset.setup()
    assert isinstance(lazy.graphs, list)
    assert dataset.properties == ["energy"]
    torch.testing.assert_close(dataset[1].R, moved.graphs[0].R + 1)
    assert [len(x.R) for x in dataset.graphs[:]] == [3, 3]


class Counted(list):
    """A list of structures that counts how often one is accessed."""

    count = 0

    def __getitem__(self, index):
        self.count += 1
        return super().__getitem__(index)


def test_pre_transform_makes_graphs_once():
    structures = Counted([molecule("H2O"), molecule("CH4")])
    dataset = ASEToGraphDataset(structures, cutoff=3.0, pre_transform=True)
    dataset.prepare_data()
    assert structures.count == 0
    dataset.setup()
    dataset.setup()
    assert structures.count == 2
    assert dataset[0] is dataset[0]
    assert structures.count == 2


def test_without_pre_transform_graphs_are_made_on_access():
    structures = Counted([molecule("H2O"), molecule("CH4")])
    dataset = ASEToGraphDataset(structures, cutoff=3.0)
    dataset.setup()
    assert structures.count == 0
    for _ in range(3):
        assert dataset[-1].Z.tolist() == [6, 1, 1, 1, 1]
    assert structures.count == 3


def test_both_ways_give_the_same_graphs(ethanol: list[ase.Atoms]):
    made, lazy = (ASEToGraphDataset(ethanol[:3], 3.0, pre_transform=p) for p in (True, False))
    made.setup()
    for a, b in zip(made, lazy, strict=True):
        for field in ("Z", "R", "cell", "neighbour_list", "neighbour_cell_offsets"):
            assert torch.equal(getattr(a, field), getattr(b, field))
        assert a.properties.keys() == b.properties.keys()
        assert all(torch.equal(a.properties[key], b.properties[key]) for key in a.properties)


def test_precision_is_that_of_the_time_when_the_data_set_is_made(default_dtype):
    default_dtype(torch.float64)
    dataset = ASEToGraphDataset([molecule("H2O")], cutoff=3.0)
    default_dtype(torch.float32)
    assert dataset[0].R.dtype == torch.float64
    assert ASEToGraphDataset([molecule("H2O")], cutoff=3.0)[0].R.dtype == torch.float32


def test_labels_of_structures_that_have_not_been_converted():
    water, methane = molecule("H2O"), molecule("CH4")
    water.info |= {"energy": 1.0, "comment": "anything", "dipole": [0.0, 0.0, 1.0]}
    methane.calc = SinglePointCalculator(methane, forces=np.zeros((5, 3)))
    structures = Counted([water, methane])
    assert ASEToGraphDataset(structures, 3.0).properties == ["forces", "energy"]
    assert structures.count == 2
    mapped = ASEToGraphDataset(structures, 3.0, property_mapping={"dipole": "dipole"})
    assert mapped.properties == ["dipole"]


def test_only_some_of_many_structures_are_looked_at():
    structures = Counted([molecule("H2O")] * 1000)
    assert ASEToGraphDataset(structures, 3.0).properties == []
    assert structures.count < 500


def test_a_label_that_some_structures_lack_is_masked():
    water, methane = molecule("H2O"), molecule("CH4")
    water.info["energy"] = -3.0
    methane.arrays["forces"] = np.ones((5, 3))
    dataset = ASEToGraphDataset([water, methane], cutoff=3.0, pre_transform=True)
    dataset.setup()
    batch = to_batch(list(dataset))
    assert dataset.properties == ["forces", "energy"]
    assert label_mask(batch, "energy").tolist() == [True, False]
    assert label_mask(batch, "forces").all(-1).tolist() == [False] * 3 + [True] * 5


def spoiled(kind: str) -> ase.Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.info["energy"] = 1.0
    atoms.arrays["forces"] = np.zeros((4, 3))
    if kind == "missing":
        del atoms.info["energy"]
    elif kind == "nan label":
        atoms.arrays["forces"][2, 1] = np.nan
    elif kind == "shape":
        atoms.info["energy"] = [1.0, 2.0]
    elif kind == "text":
        atoms.info["energy"] = "not computed"
    elif kind == "no volume":
        atoms.cell[2] = atoms.cell[0]
    elif kind == "no lattice vector":
        atoms.cell[2] = 0
    elif kind == "nan position":
        atoms.positions[1, 2] = np.nan
    return atoms


SPOILED = {
    "missing": r"Unable to find properties: \['energy'\]",
    "nan label": "'forces'.*NaN or infinite",
    "shape": r"'energy'.*should have shape",
    "text": "'energy' is not a number",
    "no volume": "zero volume",
    "no lattice vector": "periodic along c, but that lattice vector is zero",
    "nan position": "positions must be finite, but atom 1",
}


@pytest.mark.parametrize("kind", SPOILED)
@pytest.mark.parametrize("pre_transform", [True, False])
def test_bad_structures_are_named(kind: str, pre_transform: bool):
    structures = [spoiled("no"), spoiled(kind), spoiled("no")]
    mapping = {"energy": "energy", "forces": "forces"}
    for source, name in (
        (structures, "structure 1: "),
        (Selection(structures, [2, 0, 1], "cu.xyz"), "cu.xyz, structure 1: "),
    ):
        dataset = ASEToGraphDataset(source, 3.0, pre_transform, property_mapping=mapping)
        read = dataset.setup if pre_transform else lambda data=dataset: list(data)
        with pytest.raises(ValueError, match=f"^{name}.*{SPOILED[kind]}") as info:
            read()
        assert str(info.value).count("structure 1: ") == 1
        assert isinstance(info.value.__cause__, ValueError)


def test_collection():
    train, valid = GraphDataset(graphs(2)), GraphDataset(graphs(1))
    assert DatasetCollection(train, valid).test is None
    assert DatasetCollection(train, valid, {"hot": valid}).test == {"hot": valid}


def test_selection_of_a_selection():
    structures = [molecule(m) for m in ("H2O", "CH4", "NH3", "CO2")]
    selection = Selection(structures, [3, 1, 0], "x.xyz")[1:]
    assert [str(a.symbols) for a in selection] == ["CH4", "OH2"]
    assert selection.name_of(1) == "x.xyz, structure 0"


def test_config_types():
    """From the structures that have one, through selections and concatenations."""
    bare, liquid, numbered = molecule("H2O"), molecule("H2O"), molecule("H2O")
    liquid.info["config_type"], numbered.info["config_type"] = "liquid", 3
    selection = Selection([bare, liquid, numbered], [2, 0, 1], "x")
    some = ASEToGraphDataset(selection, 3.0, pre_transform=True)
    none = ASEToGraphDataset([bare], 3.0)
    assert some.config_types() == ["3", None, "liquid"]
    some.setup()
    assert some.config_types() == ["3", None, "liquid"]
    assert none.config_types() is None
    assert GraphDataset(graphs(2)).config_types() is None
    together = ConcatDataset(a=GraphDataset(graphs(2)), b=some)
    assert together.config_types() == [None, None, "3", None, "liquid"]
    assert ConcatDataset(a=none, b=GraphDataset(graphs(2))).config_types() is None
