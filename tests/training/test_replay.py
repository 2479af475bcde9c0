"""Several data sets in one run, with weights, and with heads of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from graph_pes.atomic_graph import HEAD, LOSS_WEIGHT, AtomicGraph, head_number, to_batch
from graph_pes.data import ConcatDataset, GraphDataset, file_dataset
from graph_pes.models import MultiHead, load_model, select_head
from graph_pes.training.config import parse_data
from graph_pes.training.config_files import merge, read_config
from graph_pes.training.evaluation import MetricSet
from graph_pes.training.loss import MAE, MSE, RMSE, ForceRMSE, PerAtomEnergyLoss, PropertyLoss
from tests.runs import Recorder, column, config, same, train


def sets(data_files: Path, **replay: object) -> dict[str, object]:
    return {
        "new": {"path": str(data_files / "train.xyz"), "cutoff": 3.0},
        "replay": {"path": str(data_files / "valid.xyz"), "cutoff": 3.0, **replay},
    }


# --- weights ----------------------------------------------------------------------------------


def batch(weights: list[float | None], data_files: Path) -> AtomicGraph:
    dataset = file_dataset(data_files / "train.xyz", cutoff=3.0, shuffle=False)
    graphs = []
    for n, weight in enumerate(weights):
        other = {} if weight is None else {LOSS_WEIGHT: torch.tensor(weight)}
        graphs.append(dataset[n]._replace(other=other))
    return to_batch(graphs)


def predictions(graph: AtomicGraph) -> dict[str, torch.Tensor]:
    return {key: x + 0.1 * torch.randn_like(x) for key, x in graph.properties.items()}


@pytest.mark.parametrize("metric", [MAE, MSE, RMSE])
def test_weights_multiply_errors(metric: type, data_files: Path):
    weights = [1.0, 0.25, 0.0]
    graph = batch(weights, data_files)
    found = predictions(graph)
    w = np.repeat(weights, 9)[:, None]
    for loss, rows in (
        (PropertyLoss("forces", metric()), w),
        (PerAtomEnergyLoss(metric()), np.array(weights)),
    ):
        a, b = (x.numpy() for x in loss.pair(graph, found))
        e = abs(a - b) if metric is MAE else (a - b) ** 2
        expected = np.mean(rows * e) ** (0.5 if metric is RMSE else 1)
        assert float(loss(None, graph, found)) == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]


def test_structures_without_a_weight_count_once(data_files: Path):
    graph = batch([None, 0.5], data_files)
    assert graph.other[LOSS_WEIGHT].tolist() == [1.0, 0.5]
    assert LOSS_WEIGHT not in batch([None, None], data_files).other


def test_ones_change_nothing(data_files: Path):
    with_ones, without = (batch([w, w], data_files) for w in (1.0, None))
    found = predictions(without)
    for loss in (ForceRMSE(), PerAtomEnergyLoss()):
        assert loss(None, with_ones, found) == loss(None, without, found)  # type: ignore[arg-type]


def test_metrics_are_not_weighted_but_the_loss_is(data_files: Path):
    graph = batch([0.0, 0.0], data_files)
    found = predictions(graph)
    values = []
    for weighted in (True, False):
        metrics = MetricSet([PropertyLoss("forces", MAE())], weighted)
        metrics.update(graph, found)
        values.append(metrics.compute()["forces_mae"])
    assert values[0] == 0
    assert values[1] > 0.05


def test_other_metrics_refuse_weights(data_files: Path):
    graph = batch([1.0, 0.5], data_files)
    loss = PropertyLoss("forces", torch.nn.MSELoss())
    with pytest.raises(ValueError, match="loss_weight, which forces_mse can't take into account"):
        loss(None, graph, predictions(graph))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a number that is not negative, got -1"):
        file_dataset(data_files / "train.xyz", cutoff=3.0, loss_weight=-1)


# --- data -------------------------------------------------------------------------------------


def test_named_sets_are_joined(data_files: Path):
    named = sets(data_files, loss_weight=0.1, n=3, head="old", transform="random_rotation")
    data = parse_data({"train": named, "valid": str(data_files / "valid.xyz")}, 3.0)
    assert isinstance(data.train, ConcatDataset)
    assert list(data.train.datasets) == ["new", "replay"]
    assert len(data.train) == 8 + 3
    assert data.train[10].other[LOSS_WEIGHT] == pytest.approx(0.1)
    assert data.train[10].other[HEAD] == head_number("old")
    assert type(data.valid) is not GraphDataset


def test_heads_and_weights_of_a_file(data_files: Path, tmp_path: Path):
    text = (data_files / "train.xyz").read_text()
    path = tmp_path / "labelled.xyz"
    path.write_text(text.replace("Properties=", "head=PBE loss_weight=0.3 Properties="))
    dataset = file_dataset(path, cutoff=3.0, others_to_include=["head", "loss_weight"])
    assert dataset[0].other[HEAD] == head_number("PBE")
    assert dataset[0].other[LOSS_WEIGHT] == pytest.approx(0.3)


# --- runs -------------------------------------------------------------------------------------


def test_the_weight_of_a_set_counts(data_files: Path, tmp_path: Path):
    """With batches of the whole set, so that both see the same structures in each."""
    ends = []
    for weight in (0.0, 1.0):
        changed = {"data": {"train": sets(data_files, loss_weight=weight)}}
        whole = "fitting/loader_kwargs/batch_size=13"
        plain = config(data_files, tmp_path, whole, "fitting/pre_fit_model=false")
        del plain["data"]["train"]
        recorder = Recorder()
        train(merge(plain, changed), callbacks=[recorder])
        ends.append(recorder.weights[-1])
    assert not same(*ends)


def test_heads_are_trained_together(data_files: Path, tmp_path: Path):
    model = read_config(
        [
            "model={+MultiHead: {model: {+PaiNN: {channels: 4, layers: 1, cutoff: 3.0}}, "
            "heads: [high, low]}}"
        ]
    )
    plain = config(data_files, tmp_path, "fitting/compile=false")
    named = sets(data_files, head="low", loss_weight=0.5)
    named["new"]["head"] = "high"  # type: ignore[index]
    data = {"train": named, "valid": {**named["new"], "n": 3}}  # type: ignore[dict-item]
    folder = train({**plain, **model, "data": data})
    found = load_model(folder / "model.pt")
    assert isinstance(found, MultiHead)
    assert found.elements_seen == ["H", "C", "O"]
    assert column(folder, "valid/metrics/per_atom_energy_rmse")[-1] < 1
    (graph, *_) = file_dataset(data_files / "test.xyz", cutoff=3.0)
    high, low = (select_head(found, name).eval().predict_forces(graph) for name in ("high", "low"))
    assert (high - low).abs().max() > 1e-6


def test_data_without_a_head_are_refused_at_once(data_files: Path, tmp_path: Path):
    model = read_config(["model={+MultiHead: {model: {+PaiNN: {cutoff: 3.0}}, heads: [a, b]}}"])
    plain = config(data_files, tmp_path, "fitting/pre_fit_model=false")
    data = {"train": {"path": str(data_files / "train.xyz"), "head": "a"}}
    with pytest.raises(ValueError, match="the structures name no head, but the model has"):
        train(merge({**plain, **model}, {"data": {**data, "valid": str(data_files / "valid.xyz")}}))
