"""``graph-pes-train``: what a run leaves behind, and what it depends on."""

from __future__ import annotations

import csv
import itertools
import logging
import os
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml

from graph_pes.cli import train as command
from graph_pes.cli.run_folder import new_run_folder
from graph_pes.cli.run_id import main as print_run_id
from graph_pes.cli.settings import run_command
from graph_pes.cli.trainer import n_processes
from graph_pes.models import AdditionModel, load_model
from graph_pes.models.io import load_metadata
from graph_pes.training.config_files import read_yaml
from graph_pes.training.messages import logger
from tests.runs import N_TRAIN, Recorder, column, config, logged, same, train, weights

PROPERTIES = ["energy", "forces"]
METRICS = [
    f"{name}_{metric}"
    for name in ("per_atom_energy", "energy", "forces")
    for metric in ("rmse", "mae")
]


# --- the folder -------------------------------------------------------------------------------


def test_the_folder_of_a_run(run: Path):
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    events = {file for file in files if file.startswith("tensorboard/events")}
    assert len(events) == 1
    assert files - events == {
        "rank-0.log",
        "train-config.yaml",
        "model.pt",
        "lammps_model.pt",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "version_0/metrics.csv",
        "version_0/hparams.yaml",
        "tensorboard/hparams.yaml",
        "summary.yaml",
        "errors.csv",
        "parity.png",
    }
    assert (run / "parity.png").read_bytes()[:4] == b"\x89PNG"
    with open(run / "errors.csv", newline="") as f:
        assert {row["dataset"] for row in csv.DictReader(f)} == {"valid", "hot", "warm"}


def test_the_configuration_is_complete(run: Path, data_files: Path, tmp_path: Path):
    written = yaml.safe_load((run / "train-config.yaml").read_text())
    assert written["general"]["seed"] == 42
    assert written["general"]["run_id"] == "run"
    assert written["fitting"]["loader_kwargs"]["batch_size"] == 4
    assert written["fitting"]["keep"] == "best"
    assert yaml.safe_load((run / "version_0" / "hparams.yaml").read_text()) == written
    # ... and trains the same model again
    written["general"]["root_dir"] = str(tmp_path)
    again = train(written)
    assert same(weights(load_model(run / "model.pt")), weights(load_model(again / "model.pt")))


def test_metrics_are_logged_under_their_names(run: Path):
    rows = logged(run)
    names = {key for row in rows for key in row}
    losses = ["per_atom_energy_rmse", "forces_rmse"]
    expected = {
        *(f"{stage}/loss/total" for stage in ("train", "valid")),
        *(f"{stage}/loss/{loss}_weighted" for stage in ("train", "valid") for loss in losses),
        *(f"train/metrics/{loss}" for loss in losses),
        *(f"valid/metrics/{metric}" for metric in METRICS),
        *(f"offset/{element}" for element in "HCO"),
        *(f"scale/many-body/{element}" for element in "HCO"),
        *(f"timer/its_per_s/{stage}" for stage in ("train", "valid")),
        *(f"timer/step_duration_ms/{stage}" for stage in ("train", "valid")),
        "n_parameters",
        "n_learnable_parameters",
    }
    others = {"epoch", "step", "lr-Adam/normal", "lr-Adam/non-decayable"}
    assert names - others == expected
    assert len(column(run, "valid/loss/total")) == 2
    assert len(column(run, "train/loss/total")) == 2 * N_TRAIN / 4
    assert column(run, "n_parameters")[0] >= column(run, "n_learnable_parameters")[0] > 0
    for part in ("its_per_s", "step_duration_ms"):
        assert all(value > 0 for value in column(run, f"timer/{part}/train"))


def test_the_total_is_the_sum_of_the_weighted_losses(run: Path):
    for stage in ("train", "valid"):
        for row in logged(run):
            if f"{stage}/loss/total" not in row:
                continue
            terms = [v for k, v in row.items() if k.startswith(f"{stage}/loss/") and "weig" in k]
            np.testing.assert_allclose(row[f"{stage}/loss/total"], sum(terms), rtol=1e-6)


def test_the_summary(run: Path):
    summary = yaml.safe_load((run / "summary.yaml").read_text())
    for dataset, metric in itertools.product(("train", "valid", "hot", "warm"), METRICS):
        assert summary[f"test/{dataset}/{metric}"] > 0
    assert summary["valid/loss/total"] == pytest.approx(column(run, "valid/loss/total")[-1])
    # the same structures
    assert summary["test/warm/forces_rmse"] == summary["test/valid/forces_rmse"]


def test_the_model_is_the_best_one(run: Path):
    metadata = load_metadata(run / "model.pt")
    losses = column(run, "valid/loss/total")
    assert metadata["valid/loss/total"] == pytest.approx(min(losses))
    assert metadata["epoch"] == int(np.argmin(losses))
    model = load_model(run / "model.pt")
    assert isinstance(model, AdditionModel)
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(p, best[f"model.{name}"]) for name, p in model.named_parameters())
    assert [model.elements_seen] == [["H", "C", "O"]]


def test_the_name_for_lammps(run: Path):
    link = run / "lammps_model.pt"
    assert os.readlink(link) == "model.pt"
    assert same(weights(load_model(link)), weights(load_model(run / "model.pt")))


def test_the_log(run: Path):
    log = (run / "rank-0.log").read_text()
    assert log.startswith("[graph-pes INFO]: ID of this training run: run\n")
    assert "[graph-pes DEBUG]: Model:\nAdditionModel(" in log
    assert "[graph-pes INFO]: Testing complete" in log


def test_a_taken_name_gets_a_number(tmp_path: Path):
    names = [new_run_folder(str(tmp_path / "new"), "name").name for _ in range(3)]
    assert names == ["name", "name-1", "name-2"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == names


def test_names_of_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    print_run_id()
    print_run_id()
    first, second = capsys.readouterr().out.split()
    assert re.fullmatch("[a-z]{6}_[a-z]{6}", first)
    assert first != second
    assert re.fullmatch("[a-z]{6}_[a-z]{6}", new_run_folder(str(tmp_path), None).name)


# --- the terminal -----------------------------------------------------------------------------


def test_what_is_seen(data_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = train(config(data_files, tmp_path, "fitting/trainer_kwargs/max_epochs=11"))
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "[graph-pes INFO]: ID of this training run: run"
    assert lines[2].strip() == str(folder)
    start = lines.index("Validation, in eV and Å; * is the lowest loss so far:")
    header, *rows = (line.split() for line in lines[start + 1 : start + 13])
    assert header == ["epoch", "time/s", "loss", *METRICS]
    assert [row[0] for row in rows] == [f"{epoch}/11" for epoch in range(1, 12)]
    losses = column(folder, "valid/loss/total")
    for n, row in enumerate(rows):
        is_best = losses[n] < min(losses[:n], default=np.inf)
        assert row[2].endswith("*") == is_best
        assert float(row[2].strip("*")) == pytest.approx(losses[n], rel=1e-4)
    assert len({len(line.rstrip()) for line in lines[start + 1 : start + 13]}) == 1
    best = int(np.argmin(losses)) + 1
    assert f"[graph-pes INFO]: Best: epoch {best}, loss {min(losses):.5g}" in lines
    assert any(line.startswith("[graph-pes INFO]: valid: per_atom_energy_rmse") for line in lines)
    assert lines[-1] == f"[graph-pes INFO]: Testing complete: {folder}"


def test_only_warnings_are_seen_if_asked_for(
    data_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    train(config(data_files, tmp_path, "general/log_level=WARNING"))
    assert "[graph-pes" not in capsys.readouterr().out
    assert "[graph-pes INFO]" in (tmp_path / "run" / "rank-0.log").read_text()


def test_nothing_is_changed_for_others(data_files: Path, tmp_path: Path):
    def state() -> tuple[object, ...]:
        lightning = logging.getLogger("pytorch_lightning").level
        return (
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            list(logger.handlers),
            logger.level,
            logger.propagate,
            lightning,
            Path.cwd(),
        )

    before = state()
    train(config(data_files, tmp_path, "general/torch/dtype=float64"))
    assert state() == before


# --- what a run depends on --------------------------------------------------------------------


def test_the_seed_decides(run: Path, data_files: Path, tmp_path: Path):
    torch.rand(7)  # nothing that happened before matters
    again = train(config(data_files, tmp_path))
    other = train(config(data_files, tmp_path, "general/seed=1"))
    models = [weights(load_model(folder / "model.pt")) for folder in (run, again, other)]
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_the_number_of_workers_does_not(run: Path, data_files: Path, tmp_path: Path):
    data = f"data/train={{path: {data_files}/train.xyz, transform: random_rotation}}"
    folders = [
        train(config(data_files, tmp_path, data, f"fitting/loader_kwargs/num_workers={n}"))
        for n in (0, 1, 2)
    ]
    models = [weights(load_model(folder / "model.pt")) for folder in (*folders, run)]
    assert same(models[0], models[1])
    assert same(models[0], models[2])
    assert not same(models[0], models[3])


def test_default_loader_settings_with_no_workers(data_files: Path, tmp_path: Path):
    # persistent_workers is on by default, which torch refuses without workers
    plain = config(data_files, tmp_path, "fitting/loader_kwargs={num_workers: 0}")
    train(plain)


def test_precision(data_files: Path, tmp_path: Path):
    folder = train(config(data_files, tmp_path, "general/torch/dtype=float64"))
    model = load_model(folder / "model.pt")
    assert {p.dtype for p in model.parameters()} == {torch.float64}


@pytest.mark.parametrize("keep", ["best", "last"])
def test_which_model_is_tested(keep: str, data_files: Path, tmp_path: Path):
    recorder = Recorder()
    # a rate so high that the first epoch is the best
    folder = train(
        config(
            data_files,
            tmp_path,
            f"fitting/keep={keep}",
            "fitting/optimizer={name: SGD, lr: 3}",
            "model=+LearnableOffset()",
            "loss=[+PerAtomEnergyLoss()]",
            "fitting/trainer_kwargs/max_epochs=3",
        ),
        callbacks=[recorder],
    )
    assert recorder.losses[-1] > min(recorder.losses)
    summary = yaml.safe_load((folder / "summary.yaml").read_text())
    expected = min(recorder.losses) if keep == "best" else recorder.losses[-1]
    assert summary["test/valid/per_atom_energy_rmse"] == pytest.approx(expected, rel=1e-5)
    best = recorder.validated[int(np.argmin(recorder.losses))]
    assert same(weights(load_model(folder / "model.pt")), best)


def test_without_validation_the_last_model_is_kept(
    data_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recorder = Recorder()
    folder = train(
        config(data_files, tmp_path, "fitting/trainer_kwargs/limit_val_batches=0"),
        callbacks=[recorder],
    )
    assert same(weights(load_model(folder / "model.pt")), recorder.weights[-1])
    assert "model.pt holds the last weights" in capsys.readouterr().out


def test_reference_energies_are_fitted(data_files: Path, tmp_path: Path):
    folder = train(
        config(
            data_files,
            tmp_path,
            "model={+PaiNN: {channels: 4, layers: 1, cutoff: 3.0}}",
            "fitting/auto_fit_reference_energies=true",
        )
    )
    model = load_model(folder / "model.pt")
    assert list(model.models) == ["base", "auto_offset"]
    summary = yaml.safe_load((folder / "summary.yaml").read_text())
    assert summary["test/train/per_atom_energy_rmse"] < 0.5  # 468 without
    # adding another to the first one
    more = train(
        config(
            data_files,
            tmp_path,
            f"model={{+load_model: {folder}/model.pt}}",
            "fitting/auto_fit_reference_energies=true",
        )
    )
    assert list(load_model(more / "model.pt").models)[:2] == ["base", "auto_offset"]


def test_weights_of_models_that_are_not_pre_fitted(data_files: Path, tmp_path: Path):
    recorder = Recorder()
    train(
        config(data_files, tmp_path, "fitting/pre_fit_model=false", "fitting/optimizer/lr=0.0"),
        callbacks=[recorder],
    )
    scales = recorder.weights[0]["models.many-body.scaler.per_element_scaling.values"]
    assert (scales == 1).all()


def test_users_may_train_models_of_their_own(
    data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "springs.py").write_text(
        "import torch\n"
        "from graph_pes import GraphPESModel\n"
        "from graph_pes.atomic_graph import neighbour_distances, sum_over_neighbours\n"
        "class Springs(GraphPESModel):\n"
        "    def __init__(self, k: float = 1.0):\n"
        "        super().__init__(cutoff=2.0, implemented_properties=['local_energies'])\n"
        "        self.k = torch.nn.Parameter(torch.tensor(k))\n"
        "    def forward(self, graph):\n"
        "        r = neighbour_distances(graph)\n"
        "        e = self.k * (2.0 - r) ** 2\n"
        "        return {'local_energies': sum_over_neighbours(e, graph)}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.path", [p for p in __import__("sys").path if p not in ("", os.getcwd())]
    )
    folder = train(config(data_files, tmp_path, "model=+springs.Springs()"))
    monkeypatch.setattr(
        "sys.path", [p for p in __import__("sys").path if p not in ("", os.getcwd())]
    )
    monkeypatch.delitem(__import__("sys").modules, "springs")
    # the commands put the working directory on the path
    loaded = []
    run_command(lambda: loaded.append(load_model(folder / "model.pt")))
    assert type(loaded[0]).__name__ == "Springs"


# --- Weights & Biases -------------------------------------------------------------------------


def test_without_wandb_the_run_goes_on(
    data_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    def refuse(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'wandb'")

    monkeypatch.setattr("graph_pes.cli.trainer.WandbLogger", refuse)
    folder = train(config(data_files, tmp_path, "wandb={}"))
    warnings = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert warnings == [
        "[graph-pes WARNING]: No W&B log: pip install 'graph-pes[wandb]'. "
        "The CSV log has everything."
    ]
    assert len(column(folder, "valid/loss/total")) == 2


def test_without_a_login_the_run_goes_on(
    data_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    received = {}

    class Refuses:
        def __init__(self, output_dir: Path, **kwargs: object) -> None:
            received.update(kwargs, output_dir=output_dir)

        @property
        def experiment(self) -> None:
            raise RuntimeError("api_key not configured (no-tty)\ncall wandb.login(key=...)")

    monkeypatch.setattr("graph_pes.cli.trainer.WandbLogger", Refuses)
    folder = train(config(data_files, tmp_path, "wandb={project: ethanol}"))
    warnings = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert warnings == [
        "[graph-pes WARNING]: No W&B log: api_key not configured (no-tty). "
        "The CSV log has everything."
    ]
    assert received == {"project": "ethanol", "output_dir": folder}
    assert (folder / "model.pt").exists()


# --- several processes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "n"),
    [
        ({"accelerator": "cpu"}, 1),
        ({"accelerator": "cpu", "devices": "auto"}, 1),
        ({"devices": 1}, 1),
        ({"devices": "1"}, 1),
        ({"devices": 2}, 2),
        ({"devices": "2"}, 2),
        ({"devices": [0]}, 1),
        ({"devices": [0, 3]}, 2),
        ({"devices": "0,"}, 1),
        ({"devices": "0,1,3"}, 3),
        ({"devices": 2, "num_nodes": 3}, 6),
        ({"devices": -1, "accelerator": "gpu"}, 4),
        ({"accelerator": "auto"}, 4),
        ({"accelerator": "cuda", "devices": "auto"}, 4),
    ],
)
def test_number_of_processes(kwargs: dict, n: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert n_processes(kwargs) == n


# --- the command ------------------------------------------------------------------------------


def test_the_command(
    data_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    monkeypatch.setattr(command, "report", lambda *_: [])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config(data_files, tmp_path)))
    command.main([str(tmp_path / "config.yaml"), "general/run_id=there", "general/seed=3"])
    written = read_yaml((tmp_path / "there" / "train-config.yaml").read_text(), "written")
    assert written["general"]["seed"] == 3
    assert "Testing complete" in capsys.readouterr().out


def test_help_names_what_is_expected(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    assert "FILE.yaml | a/b/c=value" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        command.main([])


def test_the_data_are_not_touched(run: Path, data_files: Path):
    assert len(ase.io.read(data_files / "train.xyz", index=":")) == N_TRAIN
