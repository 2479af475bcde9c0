"""Labels beside predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from graph_pes import AtomicGraph
from graph_pes.analysis import compare
from graph_pes.atomic_graph import replace
from graph_pes.models import LennardJones
from graph_pes.models.base import GraphTensorModel


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_errors_are_those_that_were_put_in(labelled, batch_size):
    energy, forces, stress = compare(labelled.model, labelled.graphs, batch_size)
    assert [c.property for c in (energy, forces, stress)] == ["energy_per_atom", "forces", "stress"]
    assert [c.unit for c in (energy, forces, stress)] == ["eV/atom", "eV/Å", "eV/Å^3"]
    error = {c.property: c.predicted - c.reference for c in (energy, forces, stress)}
    np.testing.assert_allclose(error["energy_per_atom"][:, 0], labelled.energy_errors, atol=1e-9)
    np.testing.assert_allclose(error["forces"], np.concatenate(labelled.force_errors), atol=1e-9)
    expected = np.stack([labelled.stress_errors[n].ravel() for n in (1, 3)])
    np.testing.assert_allclose(error["stress"], expected, atol=1e-9)
    np.testing.assert_array_equal(forces.elements, [8, 1, 1, 14, 6, 6, 1, 1, 1, 1, 14, 14])
    assert energy.elements is None
    assert stress.elements is None
    assert labelled.model.training


def test_structures_without_a_label_are_left_out(labelled):
    """Whether the label is absent or NaN."""
    absent, nan, present, unlabelled = labelled.graphs
    absent = replace(absent, properties={"forces": absent.properties["forces"]})
    nan = replace(nan, properties={**nan.properties, "energy": torch.tensor(torch.nan)})
    some_nan = present.properties["forces"].clone()
    some_nan[1:] = torch.nan
    present = replace(present, properties={**present.properties, "forces": some_nan})
    unlabelled = replace(unlabelled, properties={})
    graphs = [absent, nan, present, unlabelled]
    groups = ["a", "b", None, "d"]
    energy, forces, stress = compare(labelled.model, graphs, groups=groups)
    np.testing.assert_allclose(
        (energy.predicted - energy.reference)[:, 0], labelled.energy_errors[[2]], atol=1e-9
    )
    assert energy.groups == (None,)
    assert forces.groups == ("a",) * 3 + ("b",) * 2 + (None,)
    np.testing.assert_array_equal(forces.elements, [8, 1, 1, 14, 6, 6])
    assert stress.groups == ("b",)


def test_nothing_is_predicted_that_is_not_labelled(labelled, monkeypatch):
    asked = []
    predict = type(labelled.model).predict
    monkeypatch.setattr(
        type(labelled.model),
        "predict",
        lambda self, graph, keys: asked.append(set(keys)) or predict(self, graph, keys),
    )
    only_energy = [
        replace(g, properties={"energy": g.properties["energy"]}) for g in labelled.graphs
    ]
    compare(labelled.model, only_energy, batch_size=2)
    assert asked == [{"energy"}] * 2
    unlabelled = [replace(g, properties={}) for g in labelled.graphs]
    assert compare(labelled.model, unlabelled) == []
    assert compare(labelled.model, []) == []
    assert len(asked) == 2


def test_labels_of_stress_without_volume_and_of_what_is_not_predicted():
    atoms = molecule("H2O")
    atoms.info |= {"stress": np.zeros(6), "virial": np.zeros(6), "dipole": np.zeros(3)}
    mapping = {key: key for key in ("stress", "virial", "dipole")}
    graph = AtomicGraph.from_ase(atoms, cutoff=5.0, property_mapping=mapping)
    (virial,) = compare(LennardJones(), [graph])
    assert (virial.property, virial.unit) == ("virial_per_atom", "eV/atom")


def test_graphs_are_not_kept(labelled):
    """A data set is iterated over, batch by batch."""
    seen = []

    def one_after_the_other():
        for graph in labelled.graphs:
            seen.append(1)
            yield graph

    assert len(compare(labelled.model, one_after_the_other(), batch_size=2)) == 3
    assert len(seen) == 4


def test_models_of_tensors():
    class Positions(GraphTensorModel):
        def forward(self, graph: AtomicGraph) -> dict[str, torch.Tensor]:
            return {"tensor": 2 * graph.R}

    atoms = bulk("SiC", "zincblende", a=4.3)
    atoms.arrays["tensor"] = atoms.positions.copy()
    (tensor,) = compare(Positions(3.0), [AtomicGraph.from_ase(atoms, cutoff=3.0)])
    np.testing.assert_allclose(tensor.predicted, 2 * tensor.reference)
    atoms.arrays["tensor"] = atoms.positions[:, :2].copy()
    with pytest.raises(ValueError, match=r"'tensor' .* shape \(2, 2\), but .* \(2, 3\)"):
        compare(Positions(3.0), [AtomicGraph.from_ase(atoms, cutoff=3.0)])


@pytest.mark.parametrize("n_groups", [3, 5])
def test_there_must_be_a_group_for_every_structure(labelled, n_groups):
    with pytest.raises(ValueError, match=f"there are {n_groups} groups"):
        compare(labelled.model, labelled.graphs, batch_size=2, groups=["x"] * n_groups)
