"""The schema of configurations: defaults, names, types, and every way to give a value."""

# ruff: noqa: E501 (one line for each mistake, or way to train)

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import graph_pes.nn
from graph_pes.data import ConcatDataset, DatasetCollection, GraphDataset, file_dataset
from graph_pes.models import (
    AdditionModel,
    LearnableOffset,
    LennardJones,
    PaiNN,
    SchNet,
    save_model,
)
from graph_pes.nn.radial import GaussianSmearing, SinExpansion
from graph_pes.training.callbacks import DumpModel
from graph_pes.training.config import (
    TestingConfig,
    TrainingConfig,
    default_config,
    instantiate,
    parse_data,
    parse_loss,
    parse_model,
    parse_test_sets,
    resolve,
)
from graph_pes.training.config_files import ConfigError, merge, read_yaml
from graph_pes.training.loss import PerAtomEnergyLoss, PropertyLoss, TotalLoss
from graph_pes.training.objects import MOVED, make_objects
from graph_pes.training.opt import LRScheduler, Optimizer

MINIMAL = """
model: {+PaiNN: {channels: 4, layers: 1, cutoff: 3.0}}
data: {train: train.xyz, valid: valid.xyz}
loss: +PerAtomEnergyLoss()
"""


def config(text: str = "", without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The minimal configuration with something else merged into it."""
    plain = merge(read_yaml(MINIMAL, "test"), read_yaml(text or "{}", "test"))
    return {key: value for key, value in plain.items() if key not in without}


def resolved(text: str = "", without: tuple[str, ...] = ()) -> dict[str, Any]:
    return resolve(config(text, without), TrainingConfig, default_config())


def made(text: str = "") -> TrainingConfig:
    return instantiate(resolved(text), TrainingConfig)


# --- defaults ---------------------------------------------------------------------------------


def test_defaults():
    assert default_config() == {
        "general": {
            "seed": 42,
            "root_dir": "graph-pes-results",
            "run_id": None,
            "log_level": "INFO",
            "progress": "rich",
            "torch": {"dtype": "float32", "float32_matmul_precision": "high"},
        },
        "fitting": {
            "pre_fit_model": True,
            "max_n_pre_fit": 5000,
            "auto_fit_reference_energies": False,
            "keep": "best",
            "compile": False,
            "cuequivariance": False,
            "trainer_kwargs": {
                "max_epochs": 100,
                "accelerator": "auto",
                "enable_model_summary": False,
            },
            "loader_kwargs": {
                "num_workers": 1,
                "persistent_workers": True,
                "batch_size": 4,
                "pin_memory": False,
            },
            "optimizer": None,
            "scheduler": None,
            "lr_warmup_steps": None,
            "early_stopping": None,
            "early_stopping_patience": None,
            "swa": None,
            "ema": None,
            "callbacks": [],
        },
        "wandb": None,
    }


def test_the_defaults_name_every_key():
    defaults, settings = default_config(), made()
    for part, values in (("fitting", settings.fitting), ("general", settings.general)):
        assert set(defaults[part]) == {f.name for f in dataclasses.fields(values)}
    optimizer = settings.fitting.make_optimizer()
    assert optimizer.optimizer_class is torch.optim.Adam
    assert optimizer.kwargs == {"lr": 1e-3}
    assert settings.fitting.make_scheduler() is None


def test_defaults_of_parts_that_are_off():
    fitting = made("fitting: {swa: {lr: 1e-3}, early_stopping: {patience: 3}}").fitting
    assert dataclasses.asdict(fitting.swa) == {
        "lr": 1e-3,
        "start": 0.8,
        "anneal_epochs": 10,
        "strategy": "linear",
    }
    assert made("fitting: {ema: {}}").fitting.ema.decay == 0.99
    assert dataclasses.asdict(fitting.early_stopping) == {
        "patience": 3,
        "min_delta": 0.0,
        "monitor": "valid/loss/total",
    }


def test_defaults_of_testing():
    settings = instantiate(resolve({"model_path": "m.pt"}, TestingConfig, {"loader_kwargs": {}}), TestingConfig)  # fmt: skip
    assert (settings.data, settings.logger, settings.accelerator) == (None, "auto", "auto")
    assert settings.prefix == "test"
    assert TestingConfig("m.pt").loader_kwargs == {"batch_size": 2, "num_workers": 0}


def test_defaults_are_merged_with_what_is_given():
    plain = resolved("fitting: {loader_kwargs: {batch_size: 7}, trainer_kwargs: {max_epochs: 3}}")
    assert plain["fitting"]["loader_kwargs"]["num_workers"] == 1
    assert plain["fitting"]["loader_kwargs"]["batch_size"] == 7
    assert plain["fitting"]["trainer_kwargs"]["accelerator"] == "auto"


# --- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: 1", "unknown key modle: did you mean 'model'"),
        ("los: 1", "unknown key los: did you mean 'loss'"),
        ("fiting: {swa: null}", "unknown key fiting: did you mean 'fitting'"),
        ("general: {sed: 1}", "unknown key general/sed: did you mean 'seed'"),
        ("general: {torch: {dytpe: float64}}", "unknown key general/torch/dytpe: .*'dtype'"),
        ("fitting: {optimiser: null}", "unknown key fitting/optimiser: did you mean 'optimizer'"),
        ("fitting: {swa: {lr: 1, strat: 0.5}}", "unknown key fitting/swa/strat: .*'strategy'"),
        ("fitting: {ema: {decy: 0.5}}", "unknown key fitting/ema/decy: did you mean 'decay'"),
        ("fitting: {early_stopping: {patince: 1}}", "fitting/early_stopping/patince: .*'patience'"),
        ("fitting: {trainer_kwargs: {max_epoch: 1}}", "fitting/trainer_kwargs/max_epoch: .*'max_epochs'"),
        ("fitting: {loader_kwargs: {batchsize: 1}}", "fitting/loader_kwargs/batchsize: .*'batch_size'"),
        ("model: {+PaiNN: {chanels: 3}}", r"unknown key model/\+PaiNN/chanels: .*'channels'"),
        ("loss: {e: {+PerAtomEnergyLoss: {wieght: 3}}}", "wieght: did you mean 'weight'"),
        ("fitting: {optimizer: {+Optimizer: {name: Adam, lrr: 1}}}", "takes no argument 'lrr': did you mean 'lr'"),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_named_with_the_nearest(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        made(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": "a", "vaild": "b"}, "unknown key data/vaild: did you mean 'valid'"),
        ({"train": {"path": "a", "ctuoff": 3}, "valid": "b"}, "data/train/ctuoff: .*'cutoff'"),
        ({"train": {"n": 3}, "valid": "b"}, "data/train: the key 'path' is missing"),
        ({"train": "a"}, "data: the key 'valid' is missing"),
        ({"valid": "a"}, "data: the key 'train' is missing"),
        ({"train": 3, "valid": "b"}, "data/train: expected a path"),
    ],
)
def test_mistakes_in_data(data: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        parse_data(data, cutoff=3.0)


@pytest.mark.parametrize("key", ["model", "data", "loss"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_what_must_be_given(key: str, how: str):
    text, without = ("{}", (key,)) if how == "absent" else (f"{key}: null", ())
    with pytest.raises(ConfigError, match=f"the key '{key}' is missing"):
        resolved(text, without)


def test_variables_of_ones_own():
    plain = resolved("cutoff: 4.5\nmodel: {+PaiNN: {cutoff: =/cutoff}}")
    assert plain["model"]["+PaiNN"]["cutoff"] == 4.5
    assert plain["cutoff"] == 4.5
    # one that looks like a misspelt key, but is used
    own = {"models": {"a": "+LearnableOffset()"}, "model": {"b": "=/models/a"}}
    plain = resolve({**config(), **own}, TrainingConfig, default_config())
    assert plain["model"]["b"] == "+LearnableOffset()"
    assert resolved("date: 2020\nrun: =date")["run"] == 2020


def test_relative_references():
    fitting = (
        "fitting: {trainer_kwargs: {max_epochs: 7}, lr_warmup_steps: =./trainer_kwargs/max_epochs}"
    )
    assert made(fitting).fitting.lr_warmup_steps == 7


def test_references_in_lists():
    text = "w: 0.25\nloss: [+PerAtomEnergyLoss(), {+ForceRMSE: {weight: =/w}}]"
    assert [term.weight for term in parse_loss(made(text).loss).losses] == [1.0, 0.25]


# --- types ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("general: {seed: many}", r"general/seed: expected a whole number, got 'many' \(str\)"),
        ("general: {run_id: 12}", r"general/run_id: expected text or null, got 12 \(int\)"),
        ("general: {progress: fancy}", "general/progress: expected one of 'rich', 'logged', got 'fancy'"),
        ("general: {torch: {dtype: float23}}", "general/torch/dtype: expected one of 'float16'"),
        ("general: {log_level: LOUD}", "general/log_level: expected one of 'DEBUG'"),
        ("general: 5", "general: expected keys and values, got 5"),
        ("general: null", "general: expected keys and values, got nothing"),
        ("fitting: []", "fitting: expected keys and values"),
        ("fitting: {trainer_kwargs: 3}", "fitting/trainer_kwargs: expected keys and values, got 3"),
        ("fitting: {loader_kwargs: null}", "fitting/loader_kwargs: expected keys and values"),
        ("fitting: {swa: {}}", "the key fitting/swa/lr is missing"),
        ("fitting: {swa: {lr: fast}}", "fitting/swa/lr: expected a number, got 'fast'"),
        ("fitting: {swa: 0.5}", "fitting/swa: expected keys and values, got 0.5"),
        ("fitting: {keep: worst}", "fitting/keep: expected one of 'best', 'last', got 'worst'"),
        ("fitting: {callbacks: [+DumpModel]}", r"fitting/callbacks: expected a list"),
        ("fitting: {early_stopping: {patience: 0.5}}", "fitting/early_stopping/patience: expected a whole"),
        ("model: +LearnableOffset", r"model: expected .*the class LearnableOffset: write \+LearnableOffset\(\)"),
        ("model: 5", r"model: expected GraphPropertyModel or keys and values, got 5 \(int\)"),
        ("wandb: true", "wandb: expected keys and values or null, got True"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_named(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        made(text)


def test_whole_numbers_stand_for_floats():
    fitting = made("fitting: {swa: {lr: 1, start: 3}, early_stopping: {patience: 1, min_delta: 0}}")
    assert isinstance(fitting.fitting.swa.lr, float)
    assert isinstance(fitting.fitting.early_stopping.min_delta, float)
    assert isinstance(fitting.fitting.swa.start, int)


# --- objects ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {+PiaNN: {}}", r"model: there is no object \+PiaNN: did you mean 'PaiNN'"),
        ("model: {a: {+SchNett: {}}}", r"model/a: there is no object \+SchNett: did you mean 'SchNet'"),
        ("loss: +PerAtomEnergy()", "there is no object .PerAtomEnergy: did you mean 'PerAtomEnergyLoss'"),
        ("loss: [+ForceRMSE(), +ForceMSE()]", "loss/1: there is no object .ForceMSE: .*'ForceRMSE'"),
        ("model: +nowhere.Model()", r"model: can't import \+nowhere.Model"),
        ("model: +graph_pes.models.PiaNN()", "there is no PiaNN in graph_pes.models: did you mean 'PaiNN'"),
        ("model: {+FixedOffset: {H: -13.6, Xx: 1}}", r"model: can't make \+FixedOffset: .*Xx"),
        ("model: {+load_model: missing.pt}", r"model: can't make \+load_model: there is no model file"),
        ("model: {a: {+LearnableOffset: [1]}}", r"model/a: can't make \+LearnableOffset"),
        ("fitting: {optimizer: {+Optimizer: {name: Adma}}}", "fitting/optimizer: .*'Adma': did you mean 'Adam"),
        ("model: {+True: {}}", r"model/\+True is a bool"),
        ("data: {train: {+file_dataset: {path: missing.xyz, cutoff: 3}}}", "data/train: can't make .*missing.xyz: there is no such file"),
    ],
)  # fmt: skip
def test_objects_that_cannot_be_made(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        made(text)


def test_nothing_is_made_before_all_names_are_checked(monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr("graph_pes.models.slow", lambda: calls.append(1), raising=False)
    with pytest.raises(ConfigError, match=r"there is no object \+PiaNN"):
        make_objects({"a": "+slow()", "b": {"c": ["+PiaNN()"]}})
    assert calls == []


def test_ways_to_write_objects():
    objects = make_objects(
        {
            "class": "+PaiNN",
            "made": "+LearnableOffset()",
            "keywords": {"+PaiNN": {"channels": 4, "layers": 1}},
            "position": {"+len": [1, 2, 3]},
            "builtin": "+dict()",
            "dotted": {"+torch.nn.Linear": {"in_features": 2, "out_features": 3}},
            "nested": {"+SchNet": {"layers": 1, "channels": 4, "expansion": "+GaussianSmearing"}},
            "text": "+",
            "number": 3,
        }
    )
    assert objects["class"] is PaiNN
    assert isinstance(objects["made"], LearnableOffset)
    assert isinstance(objects["keywords"], PaiNN)
    assert objects["position"] == 3
    assert objects["builtin"] == {}
    assert objects["dotted"].weight.shape == (3, 2)
    assert isinstance(objects["nested"], SchNet)
    assert (objects["text"], objects["number"]) == ("+", 3)


def test_objects_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_potentials.py").write_text(
        "from graph_pes.models import LennardJones\n"
        "def argon(epsilon=0.0103):\n    return LennardJones(epsilon=epsilon, sigma=3.4)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(make_objects({"model": "+my_potentials.argon()"})["model"], LennardJones)
    with pytest.raises(ConfigError, match=r"model/\+my_potentials.argon/epsilom: .*'epsilon'"):
        make_objects({"model": {"+my_potentials.argon": {"epsilom": 1}}})
    monkeypatch.delitem(sys.modules, "my_potentials")


@pytest.mark.parametrize("old", MOVED)
def test_names_of_graph_pes_1_are_found(old: str) -> None:
    found = make_objects({"x": f"+{old}"})["x"]
    assert found.__name__ == old.rpartition(".")[2]
    assert found is make_objects({"x": f"+{MOVED[old]}"})["x"]


def test_building_blocks_by_name():
    for name in graph_pes.nn.__all__:
        assert make_objects({"x": f"+{name}"})["x"] is getattr(graph_pes.nn, name)
    blocks = {
        "Bessel", "GaussianSmearing", "SinExpansion", "ExponentialRBF",
        "PolynomialEnvelope", "CosineEnvelope", "SmoothOnsetEnvelope",
        "NeighbourAggregation", "LocalEnergiesScaler", "MLP", "PerElementParameter",
        "PerElementEmbedding", "AtomicOneHot", "ShiftedSoftplus", "count_used_parameters",
    }  # fmt: skip
    assert blocks <= set(graph_pes.nn.__all__)
    envelope = make_objects({"x": {"+CosineEnvelope": {"cutoff": 4.0}}})["x"]
    assert envelope.cutoff == 4.0


def test_radial_bases_by_name_and_old_path():
    old = {"+PaiNN": {"layers": 1}}
    assert make_objects({"x": old, "y": "+SinExpansion"})["y"] is SinExpansion
    path = "+graph_pes.models.components.distances.GaussianSmearing"
    assert make_objects({"x": path})["x"] is GaussianSmearing


# --- the parts of a configuration ---------------------------------------------------------------


def test_models():
    assert isinstance(parse_model(made().model), PaiNN)
    text = "model: {+AdditionModel: {offset: +LearnableOffset(), pair: +LennardJones()}}"
    assert list(parse_model(made(text).model).models) == ["offset", "pair"]
    text = "model: {offset: +LearnableOffset(), many-body: {+PaiNN: {channels: 4}}}"
    model = parse_model(made(text).model)
    assert isinstance(model, AdditionModel)
    assert isinstance(model["many-body"], PaiNN)
    tensors = "model: {a: {+FixedTensorOffset: {H: [1.0]}}, b: +LennardJones()}"
    with pytest.raises(ConfigError, match="named models of one kind, got {'a': .*'b': 'LennardJ"):
        parse_model(made(tensors).model)
    with pytest.raises(ConfigError, match=r"named models of one kind, got {'layers': 'int'}"):
        parse_model({"layers": 3})


@pytest.mark.parametrize(
    "text",
    [
        "loss: [+PerAtomEnergyLoss(), {+ForceRMSE: {weight: 2}}]",
        "loss: {e: +PerAtomEnergyLoss(), f: {+PropertyLoss: {property: forces, weight: 2}}}",
        "loss: {+TotalLoss: {losses: [+PerAtomEnergyLoss(), {+ForceRMSE: 2}]}}",
        "loss: [{+PerAtomEnergyLoss: {metric: RMSE}}, {+PropertyLoss: {property: forces, metric: +RMSE(), weight: 2}}]",
    ],
)  # fmt: skip
def test_losses(text: str):
    loss = parse_loss(made(text).loss)
    assert isinstance(loss, TotalLoss)
    found = [(term.name, term.weight) for term in loss.losses]
    assert found == [("per_atom_energy_rmse", 1.0), ("forces_rmse", 2)]


def test_one_loss():
    assert [type(term) for term in parse_loss(made().loss).losses] == [PerAtomEnergyLoss]
    loss = parse_loss(PropertyLoss("stress", "MAE"))
    assert loss.required_properties == ["stress"]


@pytest.mark.parametrize("text", ["loss: [+PerAtomEnergyLoss]", "loss: [energy]"])
def test_what_is_no_loss(text: str):
    with pytest.raises(ConfigError, match=r"loss: expected losses such as \+PerAtomEnergyLoss\(\)"):
        parse_loss(made(text).loss)


def test_losses_of_the_same_name():
    with pytest.raises(ConfigError, match="loss: .*different names"):
        parse_loss(made("loss: [+ForceRMSE(), +ForceRMSE()]").loss)


def test_data(ethanol_folder: Path):
    path = str(ethanol_folder / "valid.xyz")
    data = parse_data(
        {
            "train": {"path": path, "n": 3, "transform": "random_rotation", "shuffle": False},
            "valid": path,
            "test": {"cold": path, "hot": {"path": path, "n": 2, "cutoff": 6.0}},
        },
        cutoff=3.0,
    )
    assert (len(data.train), len(data.valid)) == (3, 37)
    assert isinstance(data.test, dict)
    assert [len(dataset) for dataset in data.test.values()] == [37, 2]
    assert (data.train[0].cutoff, data.test["hot"][0].cutoff) == (3.0, 6.0)
    assert parse_data(data, cutoff=1.0) is data


def test_data_made_of_objects(ethanol_folder: Path):
    path = str(ethanol_folder / "valid.xyz")
    part = {"+file_dataset": {"path": path, "cutoff": 3.0, "n": 2}}
    objects = make_objects(
        {"train": {"+ConcatDataset": {"a": part, "b": part}}, "valid": part, "test": part}
    )
    data = parse_data(objects, cutoff=5.0)
    assert isinstance(data.train, ConcatDataset)
    assert len(data.train) == 4
    assert isinstance(data.test, GraphDataset)
    text = "data: {+DatasetCollection: {train: =/part, valid: =/part}}"
    part_of_it = f"part: {{+file_dataset: {{path: {path}, cutoff: 3}}}}"
    assert isinstance(made(f"{text}\n{part_of_it}").data, DatasetCollection)


def test_a_single_test_set(ethanol_folder: Path):
    path = str(ethanol_folder / "valid.xyz")
    for value in (path, {"path": path}, file_dataset(path, cutoff=2.0)):
        assert isinstance(parse_test_sets(value, 3.0, "data"), GraphDataset)
    with pytest.raises(ConfigError, match="data/test/hot/natoms"):
        parse_test_sets({"hot": {"path": path, "natoms": 3}}, 3.0, "data/test")


def test_optimizers_and_schedulers():
    text = """
    fitting:
      optimizer: {+Optimizer: {name: AdamW, lr: 1e-4, weight_decay: 0.1}}
      scheduler: {+LRScheduler: {name: StepLR, step_size: 10, gamma: 0.5}}
      callbacks: [+graph_pes.training.callbacks.DumpModel(), {+DumpModel: {every_n_val_checks: 3}}]
    """
    fitting = made(text).fitting
    assert isinstance(fitting.optimizer, Optimizer)
    assert fitting.make_optimizer().kwargs == {"lr": 1e-4, "weight_decay": 0.1}
    assert isinstance(fitting.make_scheduler(), LRScheduler)
    assert [type(c) for c in fitting.callbacks] == [DumpModel, DumpModel]
    # the same as plain values
    text = (
        "fitting: {optimizer: {name: SGD, momentum: 0.9}, scheduler: {name: StepLR, step_size: 2}}"
    )
    fitting = made(text).fitting
    optimizer = fitting.make_optimizer()
    assert optimizer.optimizer_class is torch.optim.SGD
    assert optimizer.kwargs == {"lr": 1e-3, "momentum": 0.9}
    assert fitting.make_scheduler().kwargs == {"step_size": 2}


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("optimizer", "{nmae: Adam}", "fitting/optimizer: can't make .*'nmae'"),
        ("optimizer", "{name: adam}", "fitting/optimizer: .*unknown optimizer 'adam'.*'Adam'"),
        ("scheduler", "{name: StepLr, step_size: 1}", "unknown learning-rate .*'StepLR'"),
        ("scheduler", "{name: StepLR}", "fitting/scheduler: .*step_size"),
        ("scheduler", "{gamma: 0.5}", "fitting/scheduler: .*name"),
    ],
)
def test_optimizers_and_schedulers_that_cannot_be_made(part: str, value: str, message: str):
    fitting = made(f"fitting: {{{part}: {value}}}").fitting
    make = fitting.make_optimizer if part == "optimizer" else fitting.make_scheduler
    with pytest.raises(ConfigError, match=message):
        make()


# --- models from files ------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    model = AdditionModel(
        offset=LearnableOffset(H=-1.0), many=PaiNN(channels=4, layers=1, cutoff=3.0)
    )
    save_model(model, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_models_from_files(saved: Path):
    model = parse_model(made(f"model: {{+load_model: {{path: {saved}}}}}").model)
    assert isinstance(model, AdditionModel)
    text = f"model: {{m: {{+load_model_component: {{path: {saved}, key: many}}}}, o: +LearnableOffset()}}"
    part = parse_model(made(text).model)["m"]
    for a, b in zip(part.parameters(), model["many"].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("text", "trained"),
    [
        ("{+freeze: %s}", r"^$"),
        ("{+freeze_all_except: {model: %s, pattern: '.*read_?out'}}", r"read_?out"),
        ("{+freeze_matching: {model: %s, pattern: '.*interactions'}}", r"^((?!interactions).)*$"),
        ("{+freeze_any_matching: {model: %s, patterns: ['.*offset', '.*scal']}}", r"^((?!offset|scal).)*$"),
    ],
)  # fmt: skip
def test_freezing(saved: Path, text: str, trained: str):
    import re

    load = f"{{+load_model: {{path: {saved}}}}}"
    model = parse_model(made(f"model: {text % load}").model)
    names = {name: p.requires_grad for name, p in model.named_parameters()}
    assert names == {name: bool(re.search(trained, name)) for name in names}
    if "freeze:" not in text:
        assert any(names.values())
