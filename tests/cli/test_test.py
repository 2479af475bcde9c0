"""``graph-pes-test``: every data set's errors are its own."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
import yaml

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.cli import test as command
from graph_pes.cli.run_folder import update_summary
from graph_pes.cli.test import test_from_config as run_test
from graph_pes.data import GraphDataLoader, file_dataset
from graph_pes.models import load_model, save_model
from graph_pes.training.config_files import ConfigError
from graph_pes.training.evaluation import evaluate


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def config(folder: Path, **more: Any) -> dict[str, Any]:
    return {"model_path": str(folder / "model.pt"), "accelerator": "cpu", **more}


def alone(folder: Path, path: Path) -> dict[str, float]:
    """Errors on one file, by another way."""
    model = load_model(folder / "model.pt")
    dataset = file_dataset(path, cutoff=3.0)
    return evaluate(model, GraphDataLoader(dataset, batch_size=3))


def test_every_data_set_has_its_own_errors(folder: Path, data_files: Path):
    results = run_test(config(folder))
    names = {"train": "train", "valid": "valid", "hot": "test", "warm": "valid"}
    for name, file in names.items():
        for metric, value in alone(folder, data_files / f"{file}.xyz").items():
            np.testing.assert_allclose(results[f"test/{name}/{metric}"], value, rtol=1e-5)
    assert len({results[f"test/{name}/forces_rmse"] for name in ("train", "valid", "hot")}) == 3
    # whatever is tested with it, and in whatever order
    data = {"hot": str(data_files / "test.xyz")}
    only = run_test(config(folder, data=data))
    assert only["test/hot/forces_rmse"] == results["test/hot/forces_rmse"]


def test_training_reports_the_same(run: Path, folder: Path):
    results = run_test(config(folder, loader_kwargs={"batch_size": 4}))
    summary = yaml.safe_load((run / "summary.yaml").read_text())
    for key, value in results.items():
        assert summary[key] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_does_not_matter(batch_size: int, folder: Path, data_files: Path):
    loader_kwargs = {"batch_size": batch_size, "num_workers": 0, "drop_last": True}
    data = str(data_files / "train.xyz")
    results = run_test(config(folder, data=data, loader_kwargs=loader_kwargs))
    for metric, value in alone(folder, data_files / "train.xyz").items():
        np.testing.assert_allclose(results[f"test/{metric}"], value, rtol=1e-5)


def test_results_are_merged_into_the_summary(folder: Path, data_files: Path):
    before = yaml.safe_load((folder / "summary.yaml").read_text())
    results = run_test(config(folder, data={"again": str(data_files / "test.xyz")}, prefix="late"))
    after = yaml.safe_load((folder / "summary.yaml").read_text())
    assert after == {**before, **results}
    assert set(results) == {f"late/again/{key}" for key in alone(folder, data_files / "test.xyz")}
    with open(folder / "version_1" / "metrics.csv", newline="") as f:
        (row,) = csv.DictReader(f)
    assert float(row["late/again/forces_mae"]) == pytest.approx(results["late/again/forces_mae"])


def test_a_summary_is_made_where_there_is_none(tmp_path: Path):
    update_summary(tmp_path, {"a": 1.0})
    update_summary(tmp_path, {"b": 2.0, "a": 3.0})
    assert yaml.safe_load((tmp_path / "summary.yaml").read_text()) == {"a": 3.0, "b": 2.0}


def test_ways_to_give_data(folder: Path, data_files: Path):
    path = str(data_files / "test.xyz")
    expected = alone(folder, data_files / "test.xyz")["forces_rmse"]
    objects = {"+file_dataset": {"path": path, "cutoff": 4.0}}
    for data in (path, {"path": path, "shuffle": False}, objects):
        assert run_test(config(folder, data=data))["test/forces_rmse"] == pytest.approx(expected)
    some = run_test(config(folder, data={"path": path, "n": 1}))
    assert some["test/forces_rmse"] != pytest.approx(expected)
    mapped = {"path": path, "property_map": {"energy": "energy"}}
    assert "test/forces_rmse" not in run_test(config(folder, data=mapped))


def test_a_model_on_its_own(folder: Path, data_files: Path, tmp_path: Path):
    alone_folder = tmp_path / "elsewhere"
    alone_folder.mkdir()
    shutil.copy(folder / "model.pt", alone_folder)
    data = {"hot": str(data_files / "test.xyz")}
    assert run_test(config(alone_folder, data=data))
    with pytest.raises(ConfigError, match="elsewhere is not the folder of a training run"):
        run_test(config(alone_folder))


def test_precision_and_workers(folder: Path, data_files: Path):
    torch_config = {"dtype": "float64"}
    loader = {"batch_size": 2, "num_workers": 1}
    data = {"hot": str(data_files / "test.xyz")}
    results = run_test(config(folder, data=data, torch=torch_config, loader_kwargs=loader))
    assert torch.get_default_dtype() == torch.float32
    expected = alone(folder, data_files / "test.xyz")["forces_mae"]
    assert results["test/hot/forces_mae"] == pytest.approx(expected, rel=1e-5)


def test_data_have_the_precision_of_the_model(
    folder: Path, data_files: Path, monkeypatch: pytest.MonkeyPatch
):
    """Unless another one is asked for."""
    seen: list[set[torch.dtype]] = []
    test = command.test

    def spy(model: Any, datasets: Any, *args: Any) -> dict[str, float]:
        seen.append({model.dtype, *(graph.R.dtype for graph in datasets["hot"])})
        return test(model, datasets, *args)

    monkeypatch.setattr(command, "test", spy)
    model = load_model(folder / "model.pt").double()
    save_model(model, folder / "model.pt")
    path = str(data_files / "test.xyz")
    in_double_precision = []
    for data in ({"path": path}, {"+file_dataset": {"path": path, "cutoff": 4.0}}):
        in_double_precision.append(run_test(config(folder, data={"hot": data})))
    run_test(config(folder, data={"hot": path}, torch={"dtype": "float32"}))
    assert seen == [{torch.float64}, {torch.float64}, {torch.float32, torch.float64}]
    atoms = ase.io.read(path, index=":")
    graphs = [AtomicGraph.from_ase(a, 3.0, dtype=torch.float64) for a in atoms]
    expected = evaluate(model, [to_batch(graphs)])["forces_rmse"]
    for results in in_double_precision:
        assert results["test/hot/forces_rmse"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("parts", [False, True])
def test_data_with_a_cutoff_that_is_too_small(parts: bool, folder: Path, data_files: Path):
    path = str(data_files / "test.xyz")
    data: Any = {"path": path, "cutoff": 2.5}
    message = "the data 'hot' list neighbours up to 2.5 Å, but the model needs those up to 3 Å"
    if parts:
        near, far = ({"+file_dataset": {"path": path, "cutoff": c}} for c in (2.5, 3.0))
        data = {"+ConcatDataset": {"a": far, "b": near}}
        message = message.replace("'hot'", r"'hot' \('b'\)")
    with pytest.raises(ValueError, match=message):
        run_test(config(folder, data={"hot": data}))


@pytest.mark.parametrize("logger", ["auto", "csv", {"project": "ethanol"}])
@pytest.mark.parametrize("trained_with", [None, {"project": "ethanol"}])
def test_where_results_go(
    logger: Any, trained_with: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    opened = []
    monkeypatch.setattr(command, "wandb_loggers", lambda *args: opened.append(args) or [])
    trained = yaml.safe_load((folder / "train-config.yaml").read_text())
    trained["wandb"] = trained_with
    (folder / "train-config.yaml").write_text(yaml.safe_dump(trained))
    run_test(config(folder, logger=logger, data=trained["data"]["test"]["hot"]))
    assert (folder / "version_1" / "metrics.csv").exists()
    expected = logger if isinstance(logger, dict) else trained_with if logger == "auto" else None
    assert opened == ([] if expected is None else [(expected, folder)])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"modle_path": "x"}, "unknown key modle_path: did you mean 'model_path'"),
        ({"prefx": "x"}, "unknown key prefx: did you mean 'prefix'"),
        ({"torch": {"dtype": "float"}}, "torch/dtype: expected one of 'float16'"),
        ({"torch": {"dtyp": "float32"}}, "unknown key torch/dtyp: did you mean 'dtype'"),
        ({"loader_kwargs": {"batchsize": 1}}, "loader_kwargs/batchsize: did you mean 'batch_size'"),
        ({"accelerator": "gppu"}, "accelerator: expected one of .*'gppu': did you mean 'gpu'"),
        ({"accelerator": "gpu"}, "there is no GPU on this machine"),
        ({"logger": "tensorboard"}, "logger: expected one of 'auto', 'csv' or keys and values"),
        ({"data": "missing.xyz"}, "missing.xyz: there is no such file"),
        ({"data": {"a": {"pth": "x"}}}, "data/a/pth: did you mean 'path'"),
        ({"data": {"path": "x", "ctoff": 3}}, "data/ctoff: did you mean 'cutoff'"),
        ({"data": "+no_such_data()"}, r"data: there is no object \+no_such_data"),
        ({"model_path": 3}, "model_path: expected the path of a file, got 3"),
        ({"model_path": None}, "the key 'model_path' is missing"),
        ({"model_path": "missing.pt"}, "there is no model file missing.pt"),
    ],
)
def test_mistakes(more: dict[str, Any], message: str, run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises((ConfigError, OSError), match=message):
        run_test(config(run) | more)


def test_the_command(folder: Path, data_files: Path, capsys: pytest.CaptureFixture[str]):
    command.main([f"model_path={folder}/model.pt", f"data={{x: {data_files}/test.xyz}}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[graph-pes INFO]: x: per_atom_energy_rmse ")
    assert lines[0].endswith(" (eV, Å)")
    assert lines[-1] == f"[graph-pes INFO]: Added to {folder}/summary.yaml"
    assert "test/x/forces_rmse" in yaml.safe_load((folder / "summary.yaml").read_text())
