"""Optimizers and learning-rate schedules by name, and the rates that result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from graph_pes.models import (
    AdditionModel,
    FixedOffset,
    LearnableOffset,
    LennardJones,
    PaiNN,
    freeze,
)
from graph_pes.training.config_files import merge
from graph_pes.training.opt import LRScheduler, Optimizer
from tests.runs import Recorder, config, train

STEPS = 2  # batches per epoch of the data in tests.runs

#: No improvement is ever enough for it.
PLATEAU = (
    "fitting/scheduler={{name: ReduceLROnPlateau, patience: {patience}, factor: 0.1, "
    "threshold: 10.0, threshold_mode: abs}}"
)


# --- optimizers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "NAdam"])
def test_optimizers_by_name(name: str):
    optimizer = Optimizer(name, lr=0.01)(PaiNN(channels=4, layers=1))
    assert type(optimizer) is getattr(torch.optim, name)
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}


def test_optimizers_by_class():
    class Mine(torch.optim.SGD):
        pass

    assert type(Optimizer(Mine, lr=0.1)(LennardJones())) is Mine
    assert repr(Optimizer(Mine, lr=0.1)) == "Optimizer(Mine, lr=0.1)"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Adma", "unknown optimizer 'Adma': did you mean 'Adam.* in torch.optim, or a class"),
        ("adamw", "did you mean 'AdamW'"),
        ("Optimizer", "unknown optimizer 'Optimizer'"),
        ("lr_scheduler", "unknown optimizer 'lr_scheduler'"),
        (dict, "unknown optimizer <class 'dict'>"),
    ],
)
def test_unknown_optimizers(name, message: str):
    with pytest.raises(ValueError, match=message):
        Optimizer(name)


def test_arguments_are_checked_at_once():
    with pytest.raises(TypeError, match="AdamW takes no argument 'wieght_decay'.*'weight_decay'"):
        Optimizer("AdamW", wieght_decay=0.1)
    with pytest.raises(ValueError, match="learning rate"):
        Optimizer("Adam", lr=-1)


def test_weight_decay_spares_energies_of_atoms_and_scales():
    model = AdditionModel(offset=LearnableOffset(H=-13.0), many=PaiNN(channels=4, layers=1))
    optimizer = Optimizer("AdamW", lr=0.1, weight_decay=0.5)(model)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert groups["non-decayable"]["weight_decay"] == 0
    assert groups["normal"]["weight_decay"] == 0.5
    exempt = {id(p) for p in groups["non-decayable"]["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in exempt}
    assert {
        "models.offset.offsets.values",
        "models.many.scaler.per_element_scaling.values",
    } <= names
    assert sum(len(group["params"]) for group in groups.values()) == len(list(model.parameters()))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1.0 if name in names else 1 - 0.1 * 0.5
        torch.testing.assert_close(p.detach(), factor * before[name])


def test_a_model_without_parameters():
    with pytest.raises(ValueError, match="FixedOffset has no parameters to train"):
        Optimizer("Adam")(FixedOffset(H=-13.6))


def test_frozen_parameters_stay(data_files: Path, tmp_path: Path):
    recorder = Recorder()
    offset = {"model": {"offset": {"+freeze": "+LearnableOffset()"}}}
    train(merge(config(data_files, tmp_path), offset), callbacks=[recorder])
    name = "models.offset.offsets.values"
    assert torch.equal(recorder.weights[0][name], recorder.weights[-1][name])
    other = "models.many-body.scaler.per_element_scaling.values"
    assert not torch.equal(recorder.weights[0][other], recorder.weights[-1][other])
    assert not any(p.requires_grad for p in freeze(LennardJones()).parameters())


# --- schedules --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("StepLr", "unknown learning-rate scheduler 'StepLr': did you mean 'StepLR'"),
        ("cosine", "unknown learning-rate scheduler 'cosine'"),
        ("LRScheduler", "unknown learning-rate scheduler"),
    ],
)
def test_unknown_schedulers(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        LRScheduler(name, step_size=1)


def test_arguments_of_schedulers_are_checked_at_once():
    with pytest.raises(
        TypeError, match="StepLR takes no argument 'step'.*did you mean 'step_size'"
    ):
        LRScheduler("StepLR", step=1)
    with pytest.raises(TypeError, match="step_size"):
        LRScheduler("StepLR")
    assert repr(LRScheduler("StepLR", step_size=1)) == "LRScheduler(StepLR, step_size=1)"


def rates(data_files: Path, tmp_path: Path, *overrides: str, epochs: int = 3) -> list[float]:
    recorder = Recorder()
    train(
        config(
            data_files,
            tmp_path,
            f"fitting/trainer_kwargs/max_epochs={epochs}",
            "fitting/optimizer={name: SGD, lr: 1e-2}",
            "model=+LearnableOffset()",
            "loss=+PerAtomEnergyLoss()",
            *overrides,
        ),
        callbacks=[recorder],
    )
    assert len(recorder.rates) == epochs * STEPS
    return recorder.rates


def test_schedules_step_with_every_batch(data_files: Path, tmp_path: Path):
    found = rates(data_files, tmp_path, "fitting/scheduler={name: ExponentialLR, gamma: 0.5}")
    np.testing.assert_allclose(found, 0.01 * 0.5 ** np.arange(6))


def test_warm_up(data_files: Path, tmp_path: Path):
    found = rates(data_files, tmp_path, "fitting/lr_warmup_steps=4")
    np.testing.assert_allclose(found, 0.01 * np.array([0.25, 0.5, 0.75, 1, 1, 1]))


def test_a_schedule_starts_after_the_warm_up(data_files: Path, tmp_path: Path):
    found = rates(
        data_files,
        tmp_path,
        "fitting/lr_warmup_steps=3",
        "fitting/scheduler={name: ExponentialLR, gamma: 0.5}",
        epochs=4,
    )
    warm_up, schedule = [1 / 3, 2 / 3], 0.5 ** np.arange(6)
    np.testing.assert_allclose(found, 0.01 * np.array([*warm_up, *schedule]))


def test_a_warm_up_of_no_steps(data_files: Path, tmp_path: Path):
    assert rates(data_files, tmp_path, "fitting/lr_warmup_steps=0", epochs=1) == [0.01] * STEPS


def test_plateau_is_that_of_the_validation_loss(data_files: Path, tmp_path: Path):
    found = rates(
        data_files,
        tmp_path,
        PLATEAU.format(patience=1),
        epochs=5,
    )
    per_epoch = [1e-2, 1e-2, 1e-2, 1e-3, 1e-3]
    np.testing.assert_allclose(found, np.repeat(per_epoch, STEPS))


def test_plateau_with_fewer_validations(data_files: Path, tmp_path: Path):
    found = rates(
        data_files,
        tmp_path,
        PLATEAU.format(patience=0),
        "fitting/trainer_kwargs/check_val_every_n_epoch=2",
        epochs=6,
    )
    # validations after epochs 2, 4 and 6, the second of which is no improvement
    np.testing.assert_allclose(found, np.repeat([1e-2, 1e-2, 1e-2, 1e-2, 1e-3, 1e-3], STEPS))


def test_plateau_within_epochs(data_files: Path, tmp_path: Path):
    found = rates(
        data_files,
        tmp_path,
        PLATEAU.format(patience=0),
        "fitting/trainer_kwargs/check_val_every_n_epoch=null",
        "fitting/trainer_kwargs/val_check_interval=3",
        epochs=4,
    )
    # validations after steps 3 and 6, the second of which is no improvement
    np.testing.assert_allclose(found, [*[1e-2] * 6, *[1e-3] * 2])
    # ... and after every step, but the patience of one
    found = rates(
        data_files,
        tmp_path,
        PLATEAU.format(patience=1),
        "fitting/trainer_kwargs/val_check_interval=0.5",
        epochs=2,
    )
    np.testing.assert_allclose(found, [1e-2, 1e-2, 1e-2, 1e-3])


def test_gradients_are_clipped(data_files: Path, tmp_path: Path):
    # one step of plain gradient descent is as long as the rate times the clipped norm
    recorder = Recorder()
    train(
        config(
            data_files,
            tmp_path,
            "fitting/optimizer={name: SGD, lr: 1.0}",
            "fitting/trainer_kwargs/gradient_clip_val=1e-3",
            "fitting/trainer_kwargs/max_epochs=1",
        ),
        callbacks=[recorder],
    )
    first, second = recorder.weights[:2]
    step = torch.cat([(second[name] - first[name]).double().flatten() for name in first])
    np.testing.assert_allclose(step.norm(), 1e-3, rtol=1e-3)
