"""Errors over a data set: those of plain numpy, however the set is cut into batches."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.data import GraphDataLoader
from graph_pes.models import LennardJones
from graph_pes.training.evaluation import evaluate, predict_labels, standard_metrics
from tests.strategies import structure_lists

MODEL = LennardJones(sigma=0.5, cutoff=2.0)


def labelled(structures: list[ase.Atoms], which: int = 0) -> list[AtomicGraph]:
    """Random labels; the bits of ``which`` leave some of them out."""
    rng = np.random.default_rng(which)
    graphs = []
    for n, structure in enumerate(structures):
        if not which >> n & 1:
            structure.info["energy"] = float(rng.normal())
        if not which >> (n + 4) & 1:
            structure.arrays["forces"] = rng.normal(size=(len(structure), 3))
        if structure.pbc.all() and not which >> (n + 8) & 1:
            structure.info["stress"] = rng.normal(size=(3, 3))
        graphs.append(AtomicGraph.from_ase(structure, cutoff=2.0, dtype=torch.float64))
    return graphs


@given(structure_lists(max_size=4), st.integers(0, 2**12), st.integers(1, 4))
def test_errors_are_those_of_numpy(structures: list[ase.Atoms], which: int, batch_size: int):
    graphs = labelled(structures, which)
    errors: dict[str, list] = {"energy": [], "per_atom_energy": [], "forces": [], "stress": []}
    for graph in graphs:
        for key in ("energy", "forces", "stress"):
            if key in graph.properties:
                error = (MODEL.predict(graph, [key])[key] - graph.properties[key]).detach()
                errors[key] += error.flatten().tolist()
                if key == "energy":
                    errors["per_atom_energy"].append(error.item() / len(graph.Z))
    expected = {}
    for key, values in errors.items():
        if values:
            expected[f"{key}_rmse"] = np.sqrt(np.square(values).mean())
            expected[f"{key}_mae"] = np.abs(values).mean()
    batches = GraphDataLoader(graphs, batch_size=batch_size)
    if not expected:
        with pytest.raises(ValueError, match="nothing to evaluate: LennardJones predicts"):
            evaluate(MODEL, batches)
        return
    found = evaluate(MODEL, batches)
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=1e-9)


def test_names_of_metrics():
    assert [metric.name for metric in standard_metrics(["energy", "stress"])] == [
        "per_atom_energy_rmse",
        "per_atom_energy_mae",
        "energy_rmse",
        "energy_mae",
        "stress_rmse",
        "stress_mae",
    ]


@given(structure_lists(min_size=2, max_atoms=4))
def test_stress_of_structures_without_volume_is_zero(structures: list[ase.Atoms]):
    graphs = labelled(structures)
    batch = to_batch(graphs)
    predictions = predict_labels(MODEL, batch, ["energy", "stress"])
    for n, graph in enumerate(graphs):
        if graph.cell.det() != 0:
            alone = MODEL.predict(graph, ["stress"])["stress"]
            torch.testing.assert_close(predictions["stress"][n], alone)
        else:
            assert (predictions["stress"][n] == 0).all()


def test_a_stress_label_without_volume_is_an_error():
    molecule = ase.Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]])
    molecule.info["stress"] = np.eye(3)
    crystal = ase.Atoms("H", cell=np.eye(3) * 2, pbc=True)
    graphs = [AtomicGraph.from_ase(atoms, cutoff=2.0) for atoms in (crystal, molecule)]
    with pytest.raises(ValueError, match="structure 1 of a batch is labelled with a stress, but"):
        predict_labels(MODEL, to_batch(graphs), ["stress"])


def test_the_model_is_left_as_it_was(ethanol: list[ase.Atoms]):
    graphs = [AtomicGraph.from_ase(atoms, cutoff=2.0) for atoms in ethanol[:2]]
    for mode in (True, False):
        MODEL.train(mode)
        evaluate(MODEL, [to_batch(graphs)])
        assert MODEL.training is mode
