"""Averages of weights: their formulas, and that they are what is validated and saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from graph_pes.models import load_model
from graph_pes.training.averaging import EMA
from graph_pes.training.config_files import ConfigError
from tests.runs import Recorder, config, same, train, weights


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)


def mean(sets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([x[name] for x in sets]).mean(0) for name in sets[0]}


def test_stochastic_weight_averaging(data_files: Path, tmp_path: Path):
    recorder = Recorder()
    folder = train(
        config(
            data_files,
            tmp_path,
            "fitting/trainer_kwargs/max_epochs=5",
            "fitting/optimizer={name: SGD, lr: 1e-2}",
            "fitting/scheduler={name: ExponentialLR, gamma: 0.9}",
            "fitting/swa={lr: 1e-3, start: 0.4, anneal_epochs: 2}",
        ),
        callbacks=[recorder],
    )
    ends = [recorder.weights[n] for n in recorder.epoch_ends]
    # two epochs as usual, then three that are averaged
    for epoch in range(2):
        assert same(recorder.validated[epoch], ends[epoch])
    for epoch in range(2, 5):
        close(recorder.validated[epoch], mean(ends[2 : epoch + 1]))
    assert not same(recorder.validated[4], ends[4])
    # training goes on from where it was, not from the average
    assert all(torch.isfinite(w).all() for w in ends[4].values())
    start = 1e-2 * 0.9**4
    falling = [start, start, (start + 1e-3) / 2, (start + 1e-3) / 2, 1e-3, 1e-3]
    np.testing.assert_allclose(recorder.rates[4:], falling)
    # what is saved is what was validated
    best = recorder.validated[int(np.argmin(recorder.losses))]
    assert same(weights(load_model(folder / "model.pt")), best)
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(w, state[f"model.{name}"]) for name, w in best.items())


@pytest.mark.parametrize(("strategy", "middle"), [("linear", 0.5), ("cos", 0.5)])
def test_annealing(strategy: str, middle: float, data_files: Path, tmp_path: Path):
    recorder = Recorder()
    train(
        config(
            data_files,
            tmp_path,
            "fitting/trainer_kwargs/max_epochs=6",
            "fitting/optimizer={name: SGD, lr: 1e-2}",
            f"fitting/swa={{lr: 1e-3, start: 1, anneal_epochs: 4, strategy: {strategy}}}",
            "model=+LearnableOffset()",
            "loss=+PerAtomEnergyLoss()",
        ),
        callbacks=[recorder],
    )
    x = np.arange(5) / 4
    x = x if strategy == "linear" else (1 - np.cos(np.pi * x)) / 2
    np.testing.assert_allclose(recorder.rates[::2], [1e-2, *(1e-2 + x * (1e-3 - 1e-2))])


def test_a_fraction_of_unlimited_epochs_is_an_error(data_files: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="swa.start is a fraction of max_epochs, which is not set"):
        train(
            config(
                data_files,
                tmp_path,
                "fitting/trainer_kwargs/max_epochs=-1",
                "fitting/trainer_kwargs/max_steps=3",
                "fitting/swa/lr=1e-3",
            )
        )


@pytest.mark.parametrize("given", ["key", "callback"])
def test_exponential_moving_average(given: str, data_files: Path, tmp_path: Path):
    recorder = Recorder()
    ema = "fitting/ema/decay=0.7" if given == "key" else "fitting/callbacks=[{+EMA: 0.7}]"
    folder = train(
        config(
            data_files, tmp_path, ema, "fitting/trainer_kwargs/max_epochs=3", "fitting/keep=last"
        ),
        callbacks=[recorder],
    )
    average = recorder.weights[0]
    expected = []
    for step, current in enumerate(recorder.weights):
        if step > 0:
            average = {name: 0.7 * average[name] + 0.3 * w for name, w in current.items()}
        if step in recorder.epoch_ends:
            expected.append(average)
    assert len(expected) == len(recorder.validated) == 3
    for found, formula in zip(recorder.validated, expected, strict=True):
        close(found, formula)
    assert not same(recorder.validated[-1], recorder.weights[-1])
    best = int(np.argmin(recorder.losses))
    assert same(weights(load_model(folder / "model.pt")), recorder.validated[best])
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(w, state[f"model.{n}"]) for n, w in recorder.validated[best].items())
    # to go on from, the weights themselves
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(w, state[f"model.{n}"]) for n, w in recorder.weights[-1].items())


def test_the_last_model_is_the_average(data_files: Path, tmp_path: Path):
    import yaml

    folder = train(
        config(data_files, tmp_path, "fitting/ema/decay=0.9", "fitting/keep=last"),
    )
    summary = yaml.safe_load((folder / "summary.yaml").read_text())
    expected = summary["valid/metrics/forces_rmse"]
    assert summary["test/valid/forces_rmse"] == pytest.approx(expected, rel=1e-6)


def test_one_step_for_several_batches(data_files: Path, tmp_path: Path):
    recorder = Recorder()
    train(
        config(
            data_files,
            tmp_path,
            "fitting/ema/decay=0.5",
            "fitting/trainer_kwargs/accumulate_grad_batches=2",
        ),
        callbacks=[recorder],
    )
    # a step after the second and the fourth batch
    first, second = recorder.weights[1], recorder.weights[3]
    assert same(recorder.weights[2], first)
    close(recorder.validated[1], {n: (first[n] + second[n]) / 2 for n in first})


@pytest.mark.parametrize(
    "both",
    [
        ["fitting/swa/lr=1e-3", "fitting/ema={}"],
        ["fitting/ema={}", "fitting/callbacks=[+EMA()]"],
        ["fitting/callbacks=[+EMA(), {+VerboseSWACallback: 1e-3}]"],
    ],
)
def test_only_one_average(both: list[str], data_files: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="fitting: give one average of the weights, swa or ema"):
        train(config(data_files, tmp_path, *both))


@pytest.mark.parametrize("decay", [-0.1, 1.0, 99])
def test_what_is_no_decay(decay: float):
    with pytest.raises(ValueError, match="EMA: expected a decay of at least 0 and less than 1"):
        EMA(decay)
