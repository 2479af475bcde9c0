"""Reports in a folder."""

from __future__ import annotations

import csv
import logging
import sys

import pytest
import torch

from graph_pes.analysis import report
from graph_pes.atomic_graph import replace
from graph_pes.data import file_dataset
from graph_pes.models import LennardJones


def test_a_report_is_a_table_and_a_figure(labelled, tmp_path, monkeypatch):
    calls = []
    predict = type(labelled.model).predict
    monkeypatch.setattr(
        type(labelled.model),
        "predict",
        lambda self, graph, keys: calls.append(len(graph.ptr) - 1) or predict(self, graph, keys),
    )
    datasets = {"train": labelled.graphs, "test": labelled.graphs[:2]}
    groups = {"train": ["a", "b", "a", "b"], "test": None}
    rows = report(labelled.model, datasets, tmp_path / "run", batch_size=4, groups=groups)
    assert sum(calls) == 6  # every structure once
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["errors.csv", "parity.png"]
    assert (tmp_path / "run" / "parity.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "run" / "errors.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(r["mae"]) for r in read] == [r.mae for r in rows]
    assert {r.dataset for r in rows} == {"train", "test"}
    assert {r.dataset for r in rows if r.kind == "config_type"} == {"train"}
    assert labelled.model.training


def test_a_report_replaces_an_older_one(labelled, tmp_path):
    (tmp_path / "errors.csv").write_text("old")
    (tmp_path / "parity.png").write_text("old")
    report(labelled.model, {"test": labelled.graphs}, tmp_path)
    assert (tmp_path / "errors.csv").read_text().startswith("dataset,kind,")
    assert (tmp_path / "parity.png").stat().st_size > 1000


def test_without_matplotlib_there_is_still_the_table(labelled, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with caplog.at_level(logging.WARNING):
        rows = report(labelled.model, {"test": labelled.graphs}, tmp_path)
    assert rows
    assert "graph-pes[plot]" in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == ["errors.csv"]


def test_without_labels_the_table_is_empty(labelled, tmp_path, caplog):
    unlabelled = [replace(g, properties={}) for g in labelled.graphs]
    with caplog.at_level(logging.WARNING):
        assert report(labelled.model, {"test": unlabelled}, tmp_path) == []
    assert "no label" in caplog.text
    assert (tmp_path / "errors.csv").read_text().count("\n") == 1


def test_groups_that_do_not_fit(labelled, tmp_path):
    with pytest.raises(ValueError, match="there are 1 groups"):
        report(labelled.model, {"test": labelled.graphs}, tmp_path, groups={"test": ["a"]})


def test_groups_come_from_data_sets(ethanol_folder, tmp_path):
    """As read from a file: iterated over and grouped in the same order."""
    dataset = file_dataset(ethanol_folder / "valid.xyz", cutoff=3.0, n=12, pre_transform=False)
    model = LennardJones(cutoff=3.0)
    groups = dataset.config_types()
    rows = report(model, {"valid": dataset}, tmp_path, groups={"valid": groups})
    forces = [dataset[n].properties["forces"] for n in range(12)]
    predicted = [model.predict_forces(dataset[n]) for n in range(12)]
    for name in set(groups):
        members = [n for n in range(12) if groups[n] == name]
        errors = torch.cat([forces[n] - predicted[n] for n in members]).double()
        (row,) = (r for r in rows if r.property == "forces" and r.group == name)
        assert row.count == 27 * len(members)
        assert row.mae == pytest.approx(errors.abs().mean().item(), rel=1e-5)
