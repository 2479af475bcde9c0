"""Compiled predictions for training are those of the model, and so are their gradients."""

from __future__ import annotations

import ase
import pytest
import torch
from ase.build import bulk, molecule

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.deploy import ExportError
from graph_pes.deploy.compiled_training import CompiledTraining
from graph_pes.models import GraphPESModel
from tests.conformance.models import MODELS, Row

KEYS = ["energy", "forces", "virial"]
#: Tracing takes many seconds: one model of each kind.
TRACED = ("AdditionModel", "EDDP", "MACE", "NequIP", "SchNet", "StillingerWeber", "TensorNet")


def structures(elements: list[str]) -> list[ase.Atoms]:
    """Crystals and a molecule, as batches of different sizes."""
    made = [
        bulk(elements[0], "diamond", a=3.9, cubic=True),
        bulk(elements[-1], "fcc", a=3.1),
        ase.Atoms([elements[0], elements[-1]], [[0, 0, 0], [0, 0, 1.2]]),
        ase.Atoms([elements[0]]),
    ]
    for n, atoms in enumerate(made):
        atoms.rattle(0.1, seed=n)
    return made


def gradients(model: GraphPESModel, predictions: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = sum(x.square().sum() for x in predictions.values())
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what is traced as it is: to compile it takes minutes, and is for torch to test."""
    monkeypatch.setattr(torch, "compile", lambda traced, **_: traced)


@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize(
    "row",
    [row for row in MODELS if row.name in TRACED],
    ids=lambda row: row.name,
)
def test_gradients_of_the_parameters_are_those_of_the_model(row: Row) -> None:
    model = row.factory().double().train()
    compiled = CompiledTraining(model)
    made = structures(list(row.elements))
    for part in (made, made[1:], made[:1]):  # other sizes than it was traced with
        batch = to_batch([AtomicGraph.from_ase(s, 6.0, dtype=torch.float64) for s in part])
        expected, found = model.predict(batch, KEYS), compiled.predict(batch, KEYS)
        for key in KEYS:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            gradients(model, found), gradients(model, expected), rtol=1e-8, atol=1e-8
        )


def test_models_that_predict_forces_directly_are_an_error() -> None:
    (row,) = (row for row in MODELS if row.name == "Orb")
    with pytest.raises(ExportError, match="only models whose forces are derivatives"):
        CompiledTraining(row.factory())


def test_without_a_compiler_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler\nwas found")

    monkeypatch.setattr(torch, "compile", fails)
    (row,) = (row for row in MODELS if row.name == "PaiNN")
    model = row.factory().train()
    compiled = CompiledTraining(model)
    batch = to_batch([AtomicGraph.from_ase(molecule("CH4"), 5.0)])
    for _ in range(2):
        found = compiled.predict(batch, ["energy"])
        assert torch.equal(found["energy"], model.predict(batch, ["energy"])["energy"])
    (warning,) = (r for r in caplog.records if r.levelname == "WARNING")
    assert "failed (RuntimeError: no compiler)" in warning.getMessage()
