"""The configurations that come with the project are trained for a step."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

import graph_pes.cli.train
from graph_pes.cli.train import train_from_config
from graph_pes.data import file_dataset
from graph_pes.interfaces.foreign import with_energies_of_atoms
from graph_pes.models import AdditionModel, PaiNN, load_model
from graph_pes.training.config import (
    EarlyStoppingConfig,
    FittingConfig,
    GeneralConfig,
    SWAConfig,
    TorchConfig,
    TrainingConfig,
    default_config,
)
from graph_pes.training.config_files import merge, read_config

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted(
    str(path.relative_to(REPOSITORY))
    for folder in ("configs", "examples")
    for path in (REPOSITORY / folder).rglob("*.yaml")
    if path.parent.name != "fine-tuning"
)
#: Those that start from a foundation model, each with what it adds to the first one.
FINE_TUNING = REPOSITORY / "configs" / "fine-tuning"


def small(config: dict[str, Any], root: Path) -> dict[str, Any]:
    """A step on a few structures of each file."""

    def few(value: Any) -> Any:
        if isinstance(value, str):
            return {"path": value, "n": 3}
        if "path" in value:
            return {**value, "n": 3}
        return {name: few(inner) for name, inner in value.items()}

    data = {"data": {name: few(value) for name, value in config["data"].items()}}
    step = {
        "fitting": {
            "trainer_kwargs": {
                "max_epochs": 1,
                "limit_train_batches": 1,
                "limit_val_batches": 1,
                "accelerator": "cpu",
            },
            "loader_kwargs": {"num_workers": 0},
        },
        "general": {"root_dir": str(root)},
    }
    return merge(merge(config, data), step)


def test_all_are_found():
    names = [Path(name).name for name in CONFIGS]
    assert {"minimal.yaml", "realistic.yaml", "kitchen-sink.yaml", "painn.yaml"} <= set(names)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(graph_pes.cli.train, "report", lambda *_: [])
    folder = train_from_config(small(read_config([name]), tmp_path))
    assert folder is not None
    assert load_model(folder / "model.pt").elements_seen == ["H", "C", "O"]


def foundation() -> AdditionModel:
    """A small model in the place of that of the configurations."""
    network = PaiNN(channels=4, layers=1, cutoff=3.0)
    return with_energies_of_atoms(network, {"H": -13.0, "C": -1030.0, "O": -2043.0})


@pytest.mark.parametrize("name", sorted(path.name for path in FINE_TUNING.glob("*.yaml")))
def test_a_step_of_fine_tuning(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On data of the repository in the place of others, which are no part of it."""
    monkeypatch.setattr(graph_pes.cli.train, "report", lambda *_: [])
    files = {"full.yaml": ["full.yaml"]}.get(name, ["full.yaml", name])
    config = read_config([str(FINE_TUNING / file) for file in files])
    config["foundation"] = "+tests.workflows.test_configs.foundation()"

    def ours(value: Any) -> Any:
        if "path" not in value:
            return {key: ours(inner) for key, inner in value.items()}
        assert value["path"].startswith("../shared/data/")
        return {**value, "path": str(REPOSITORY / "examples" / "ethanol" / "data" / "train.xyz")}

    config["data"] = ours(config["data"])
    folder = train_from_config(small(config, tmp_path))
    assert folder is not None
    assert load_model(folder / "model.pt").elements_seen == ["H", "C", "O"]


def test_the_kitchen_sink_has_every_key():
    config = read_config([str(REPOSITORY / "configs" / "kitchen-sink.yaml")])

    def keys(schema: type) -> set[str]:
        return {f.name for f in dataclasses.fields(schema)}

    fitting, general = config["fitting"], config["general"]
    assert set(config) == keys(TrainingConfig) | {"cutoff"}
    assert set(fitting) == keys(FittingConfig)
    assert set(general) == keys(GeneralConfig)
    assert set(general["torch"]) == keys(TorchConfig)
    assert set(fitting["swa"]) == keys(SWAConfig)
    assert set(fitting["early_stopping"]) == keys(EarlyStoppingConfig)
    assert set(config["data"]["train"]) == set(inspect.signature(file_dataset).parameters)


def test_the_kitchen_sink_says_what_is_the_default():
    path = REPOSITORY / "configs" / "kitchen-sink.yaml"
    config, defaults = read_config([str(path)]), default_config()
    others = {"optimizer", "scheduler", "lr_warmup_steps", "early_stopping", "swa", "callbacks"}
    for part, but in (("fitting", others | {"trainer_kwargs"}), ("general", {"run_id"})):
        for key, value in defaults[part].items():
            assert (config[part][key] == value) == (key not in but), key
    assert config["wandb"] == defaults["wandb"]


# --- configurations of graph-pes 1.0.2 ----------------------------------------------------------

OLD = """
general: {seed: 42, root_dir: results, run_id: old, log_level: INFO, progress: logged}
wandb: null
data:
    train: {path: DATA/train.xyz, n: 4, shuffle: true, seed: 42}
    valid: {path: DATA/valid.xyz, n: 2}
    test: DATA/test.xyz
model:
    offset: {+LearnableOffset: {H: -13.6, C: -1030, O: -2043}}
    schnet: {+SchNet: {cutoff: 3.0, layers: 1, channels: 4, expansion: +BASIS}}
loss:
    energy: {+PropertyLoss: {property: energy, metric: +RMSE(), weight: 0.2}}
    forces: {+PropertyLoss: {property: forces, metric: +torch.nn.MSELoss(), weight: 0.8}}
fitting:
    pre_fit_model: true
    max_n_pre_fit: 5_000
    early_stopping_patience: 3
    optimizer: {+Optimizer: {name: AdamW, lr: 1e-3}}
    scheduler: {+LRScheduler: {name: ReduceLROnPlateau, factor: 0.5, patience: 10}}
    swa: {lr: 1e-3, start: 0.9, anneal_epochs: 10}
    trainer_kwargs: {max_epochs: 2, accelerator: cpu, enable_model_summary: false}
    loader_kwargs: {num_workers: 0, persistent_workers: false, batch_size: 2}
    callbacks:
        - +graph_pes.training.callbacks.DumpModel()
        - +graph_pes.training.callbacks.OffsetLogger()
""".replace("BASIS", "graph_pes.models.components.distances.SinExpansion")


def test_a_configuration_of_graph_pes_1(
    data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(graph_pes.cli.train, "report", lambda *_: [])
    (tmp_path / "old.yaml").write_text(OLD.replace("DATA", str(data_files)))
    folder = train_from_config(read_config(["old.yaml"]))
    assert folder == Path("results/old")
    assert (folder / "dumps" / "model_0.pt").exists()
    tuned = tmp_path / "tune.yaml"
    freeze = "{model: {+load_model: {path: results/old/model.pt}}, pattern: .*schnet}"
    tuned.write_text(f"model: {{+freeze_all_except: {freeze}}}\ngeneral: {{run_id: tuned}}\n")
    again = train_from_config(read_config(["old.yaml", "tune.yaml"]))
    assert again is not None
    trained = {n for n, p in load_model(again / "model.pt").named_parameters() if p.requires_grad}
    assert trained
    assert all("schnet" in name for name in trained)
    part = "model/schnet={+load_model_component: {path: results/old/model.pt, key: schnet}}"
    last = train_from_config(read_config(["old.yaml", part]))
    assert last is not None
    assert last.name == "old-1"
    assert list(load_model(last / "model.pt").models) == ["offset", "schnet"]
