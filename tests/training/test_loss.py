"""Losses: what they compare, under which name, and their sum."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import LennardJones
from graph_pes.training.loss import (
    MAE,
    ForceRMSE,
    Huber,
    Loss,
    PerAtomEnergyLoss,
    PropertyLoss,
    TotalLoss,
)
from tests.strategies import structure_lists

MODEL = LennardJones()


def labelled(structure: ase.Atoms, energy: bool = True, forces: bool = True) -> AtomicGraph:
    rng = np.random.default_rng(len(structure))
    if energy:
        structure.info["energy"] = float(rng.normal())
    if forces:
        structure.arrays["forces"] = rng.normal(size=(len(structure), 3))
    return AtomicGraph.from_ase(structure, cutoff=1.0)


def predictions(batch: AtomicGraph) -> dict[str, Tensor]:
    """Wrong in a known way."""
    assert batch.ptr is not None
    n = len(batch.ptr) - 1
    return {
        "energy": torch.arange(n, dtype=torch.float64, requires_grad=True),
        "forces": torch.ones(len(batch.Z), 3, requires_grad=True),
    }


@given(structure_lists(), st.sampled_from(["MAE", "RMSE"]))
def test_energy_per_atom(structures: list[ase.Atoms], metric: str):
    batch = to_batch([labelled(s) for s in structures])
    loss = PerAtomEnergyLoss(metric)
    errors = [(k - s.info["energy"]) / len(s) for k, s in enumerate(structures)]
    expected = np.abs(errors).mean() if metric == "MAE" else np.sqrt(np.square(errors).mean())
    value = loss(MODEL, batch, predictions(batch))
    np.testing.assert_allclose(value.item(), expected, rtol=1e-10)
    assert loss.required_properties == ["energy"]
    assert loss.name == f"per_atom_energy_{metric.lower()}"
    assert not loss.is_per_atom


@given(structure_lists())
def test_forces(structures: list[ase.Atoms]):
    batch = to_batch([labelled(s) for s in structures])
    errors = np.concatenate([1 - s.arrays["forces"] for s in structures])
    for loss in (ForceRMSE(), PropertyLoss("forces"), PropertyLoss("forces", "RMSE")):
        assert (loss.name, loss.is_per_atom) == ("forces_rmse", True)
        value = loss(MODEL, batch, predictions(batch)).item()
        np.testing.assert_allclose(value, np.sqrt((errors**2).mean()), rtol=1e-5)


@given(structure_lists(min_size=2), st.integers(0, 15))
def test_structures_without_the_label_do_not_count(structures: list[ase.Atoms], which: int):
    have = [bool(which & 2**k) for k in range(len(structures))]
    batch = to_batch([labelled(s, energy=h) for s, h in zip(structures, have, strict=True)])
    predicted = predictions(batch)
    value = PerAtomEnergyLoss()(MODEL, batch, predicted)
    value.backward()
    errors = [
        (k - s.info["energy"]) / len(s)
        for k, (s, h) in enumerate(zip(structures, have, strict=True))
        if h
    ]
    expected = np.sqrt(np.square(errors).mean()) if errors else 0.0
    np.testing.assert_allclose(value.item(), expected, rtol=1e-10)
    assert torch.isfinite(predicted["energy"].grad).all()
    assert (predicted["energy"].grad[~torch.tensor(have)] == 0).all()


@pytest.mark.parametrize(
    "metric",
    [torch.nn.functional.mse_loss, torch.nn.MSELoss(), torchmetrics.MeanSquaredError()],
    ids=["function", "module", "torchmetrics"],
)
def test_any_function_is_a_metric(metric, ethanol: list[ase.Atoms]):
    have, have_not = ethanol[:2]
    have_not.calc = None
    graphs = [AtomicGraph.from_ase(atoms, cutoff=1.0) for atoms in (have, have_not)]
    batch = to_batch(graphs)
    loss = PropertyLoss("forces", metric, weight=3.0)
    predicted = predictions(batch)
    value = loss(MODEL, batch, predicted)
    value.backward()
    expected = ((1 - have.get_forces()) ** 2).mean()
    np.testing.assert_allclose(value.item(), expected, rtol=1e-5)
    assert (predicted["forces"].grad[len(have) :] == 0).all()
    # nothing is compared, rather than the mean over nothing
    nothing = to_batch(graphs[1:])
    predicted = predictions(nothing)
    value = loss(MODEL, nothing, predicted)
    value.backward()
    assert value == 0
    assert (predicted["forces"].grad == 0).all()


def test_an_unknown_property_or_metric_is_an_error():
    with pytest.raises(ValueError, match="unknown property 'force': did you mean 'forces'"):
        PropertyLoss("force")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown metric"):
        PerAtomEnergyLoss("RMS error")


# --- totals -----------------------------------------------------------------------------------


@given(structure_lists(), st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_the_total_is_the_weighted_sum(structures: list[ase.Atoms], a: float, b: float):
    batch = to_batch([labelled(s) for s in structures])
    terms = [PerAtomEnergyLoss(MAE(), weight=a), ForceRMSE(weight=b)]
    total = TotalLoss(terms)
    assert total.required_properties == ["energy", "forces"]
    predicted = predictions(batch)
    result = total(MODEL, batch, predicted)
    values = [term(MODEL, batch, predicted) for term in terms]
    assert list(result.components) == ["per_atom_energy_mae", "forces_rmse"]
    for value, component, weight in zip(values, result.components.values(), (a, b), strict=True):
        assert component.loss_value == value
        np.testing.assert_allclose(
            component.weighted_loss_value.item(), weight * value.item(), rtol=1e-6
        )
    expected = a * values[0].item() + b * values[1].item()
    np.testing.assert_allclose(result.loss_value.item(), expected, rtol=1e-6)


def test_a_property_that_two_losses_need_is_predicted_once():
    losses = [PropertyLoss("forces", m) for m in ("MAE", "RMSE")]
    assert TotalLoss(losses).required_properties == ["forces"]


def test_losses_need_different_names():
    with pytest.raises(ValueError, match="different names, got .*'forces_rmse', 'forces_rmse'"):
        TotalLoss([ForceRMSE(), PropertyLoss("forces")])
    with pytest.raises(ValueError, match="expected losses"):
        TotalLoss([])
    TotalLoss([PropertyLoss("forces", Huber(0.1)), PropertyLoss("forces", Huber(0.2))])


class Repulsion(Loss):
    """A loss of one's own, that compares nothing with labels."""

    def __init__(self) -> None:
        super().__init__(weight=0.5)

    name = "repulsion"
    required_properties = ["energy"]  # noqa: RUF012

    def forward(self, model, graph, predictions):
        return torch.relu(predictions["energy"]).mean()


def test_a_loss_of_ones_own(ethanol: list[ase.Atoms]):
    batch = to_batch([AtomicGraph.from_ase(atoms) for atoms in ethanol[:3]])
    result = TotalLoss([Repulsion()])(MODEL, batch, predictions(batch))
    assert result.loss_value == 0.5
    assert result.components["repulsion"].loss_value == 1.0
