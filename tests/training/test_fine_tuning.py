"""Runs that start from a trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from graph_pes.interfaces.foreign import with_energies_of_atoms
from graph_pes.models import AdditionModel, LearnableOffset, PaiNN, load_model
from graph_pes.training.config_files import read_config
from graph_pes.training.loss import L2ToStart
from graph_pes.training.opt import Optimizer
from tests.runs import Recorder, column, config, train, weights

FOUNDATION = "model=+tests.training.test_fine_tuning.foundation()"
ONE_PART = "model={+PaiNN: {channels: 4, layers: 1, cutoff: 3.0}}"


def foundation() -> AdditionModel:
    """As interfaces return it: in evaluation mode, pre-fitted, with energies of atoms."""
    network = PaiNN(channels=4, layers=1, cutoff=3.0)
    return with_energies_of_atoms(network, {"H": -13.0, "C": -1030.0, "O": -2043.0}, "float64")


# --- foundation models ------------------------------------------------------------------------


@pytest.mark.parametrize("fitted", ["true", "false"])
def test_a_foundation_model_is_trained(fitted: str, data_files: Path, tmp_path: Path):
    start = weights(foundation())
    recorder = Recorder()
    energies = f"fitting/auto_fit_reference_energies={fitted}"
    folder = train(config(data_files, tmp_path, FOUNDATION, energies), callbacks=[recorder])
    found = load_model(folder / "model.pt")
    parts = ["network", "offset", "auto_offset"][: 3 if fitted == "true" else 2]
    assert list(found.models) == parts  # type: ignore[arg-type]
    first = recorder.weights[0]
    changed = {name for name in start if not torch.equal(first[name], start[name])}
    assert {name for name in start if "interactions" in name} <= changed
    assert "models.offset.offsets.values" not in changed  # known: not trained
    energy = column(folder, "valid/metrics/per_atom_energy_rmse")[0]
    assert (energy < 1) == (fitted == "true")


@pytest.mark.parametrize(
    "model",
    [
        "model={+freeze_all_except: {model: {+load_model: {path: PATH}}, pattern: .*read_out}}",
        "model={+freeze_matching: {model: {+load_model: {path: PATH}}, pattern: '.*(?!read_out)'}}",
    ],
)
def test_parts_of_a_file_are_trained(model: str, data_files: Path, tmp_path: Path):
    path = train(config(data_files, tmp_path, FOUNDATION)) / "model.pt"
    start = weights(load_model(path))
    model = model.replace("'.*(?!read_out)'", "'(?!.*read_out)'").replace("PATH", str(path))
    folder = train(config(data_files, tmp_path, model))
    end = weights(load_model(folder / "model.pt"))
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed
    assert all("read_out" in name for name in changed)


# --- learning rates ---------------------------------------------------------------------------

FACTORS = {"models.network.embedding": 0.01, ".*interactions": 0.1}


def rates_of(model: AdditionModel, **factors: float) -> dict[str, float]:
    groups = Optimizer("AdamW", lr=1e-2, lr_factors=factors)(model).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {name: rates[id(p)] for name, p in model.named_parameters()}


def test_rates_of_layers():
    rates = rates_of(foundation(), **FACTORS)
    for name, rate in rates.items():
        factor = 0.01 if "embedding" in name else 0.1 if "interactions" in name else 1.0
        assert rate == pytest.approx(1e-2 * factor), name


def test_the_first_pattern_counts():
    rates = rates_of(foundation(), **{".*filters": 0.5, ".*interactions": 0.1})
    found = {name: rate for name, rate in rates.items() if "interactions" in name}
    assert set(found.values()) == {0.5e-2, 1e-3}
    assert {rate for name, rate in found.items() if "filters" in name} == {0.5e-2}


class Rates(Recorder):
    """The rates of all groups."""

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def test_ratios_are_kept(data_files: Path, tmp_path: Path):
    recorder = Rates()
    train(
        config(
            data_files,
            tmp_path,
            ONE_PART,
            "fitting/optimizer={name: SGD, lr: 1e-3, lr_factors: {.*interactions: 0.1}}",
            "fitting/lr_warmup_steps=3",
            "fitting/scheduler={name: ExponentialLR, gamma: 0.5}",
            "fitting/swa={lr: 1e-5, start: 3, anneal_epochs: 1}",
            "fitting/trainer_kwargs/max_epochs=6",
        ),
        callbacks=[recorder],
    )
    rates = np.array(recorder.rates)
    assert rates.shape == (12, 3)  # scales of elements, interactions, others
    assert rates[:, 2].min() == pytest.approx(1e-5)
    assert rates[:, 2].max() == pytest.approx(1e-3)
    np.testing.assert_allclose(rates[:, 1], 0.1 * rates[:, 2])
    np.testing.assert_allclose(rates[:, 0], rates[:, 2])


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"typo": 0.1}, "no parameter is left for 'typo'; .*read_out"),
        ({".*": 0.1, ".*read_out": 0.5}, "no parameter is left for '.*read_out'"),
        ({".*read_out": 0.0}, "expected a number above 0 for '.*read_out', got 0.0.*freeze_match"),
    ],
)
def test_mistakes_in_factors(factors: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Optimizer("Adam", lr_factors=factors)(foundation())


def test_one_rate_only():
    with pytest.raises(ValueError, match="LBFGS has a single learning rate"):
        Optimizer("LBFGS", lr_factors={".*": 0.1})


# --- staying near the start -------------------------------------------------------------------


def test_distance_from_the_start():
    model = AdditionModel(painn=PaiNN(channels=4, layers=1), offset=LearnableOffset(H=1.0))
    model["painn"].embedding.requires_grad_(False)
    loss = L2ToStart(weight=3.0)
    loss.start_from(model)
    parameters = dict(model.named_parameters())
    free = ("embedding", "offset", "scal")
    expected = 0.0
    for name, parameter in parameters.items():
        change = torch.randn_like(parameter)
        parameter.data += change
        expected += 0.0 if any(part in name for part in free) else float(change.square().sum()) / 2
    value = loss(model, None, {})  # type: ignore[arg-type]
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    kept = {name for name, p in parameters.items() if p.grad is not None}
    assert kept == {name for name in parameters if not any(part in name for part in free)}


def test_nothing_to_keep_near_its_start():
    with pytest.raises(ValueError, match="L2ToStart: expected weights"):
        L2ToStart().start_from(LearnableOffset(H=1.0))


def test_a_pull_keeps_weights(data_files: Path, tmp_path: Path):
    def distance(loss: str) -> float:
        recorder = Recorder()
        plain = config(data_files, tmp_path, ONE_PART, "fitting/optimizer={name: SGD, lr: 1e-2}")
        folder = train(
            {**plain, "loss": read_config([f"loss={loss}"])["loss"]}, callbacks=[recorder]
        )
        assert ("L2" in loss) == bool(column(folder, "valid/metrics/l2_to_start"))
        first, last = recorder.weights[0], recorder.weights[-1]
        return sum(float((last[n] - first[n]).norm()) for n in first if "scaler" not in n)

    pulled = distance("[+ForceRMSE(), {+L2ToStart: {weight: 50.0}}]")
    assert 0 < pulled < 0.7 * distance("[+ForceRMSE()]")
