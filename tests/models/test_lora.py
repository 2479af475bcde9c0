from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.deploy import ExportError, export_model
from graph_pes.models import (
    MACE,
    AdditionModel,
    FixedOffset,
    GraphPESModel,
    LennardJones,
    M3GNet,
    NequIP,
    PaiNN,
    TensorNet,
    freeze_all_except,
    load_model,
    lora,
    merged,
    save_model,
)
from graph_pes.nn.low_rank import corrections_of, has_corrections, linear_matrices

ELEMENTS = ["H", "C", "O"]
MODELS = {
    "PaiNN": lambda: PaiNN(channels=8, layers=1, cutoff=3.0),
    "M3GNet": lambda: M3GNet(3.0, three_body_cutoff=2.5, channels=8, layers=1),
    "TensorNet": lambda: TensorNet(channels=8, layers=1, radial_features=8, cutoff=3.0),
    "NequIP": lambda: NequIP(
        ELEMENTS, layers=2, features={"channels": 4, "l_max": 1, "use_odd_parity": True}, cutoff=3.0
    ),
    "MACE": lambda: MACE(ELEMENTS, channels=4, l_max=1, correlation=2, layers=2, cutoff=3.0),
}


def batch() -> AtomicGraph:
    graphs = []
    for n, name in enumerate(["CH3OH", "H2O"]):
        atoms = molecule(name)
        atoms.rattle(0.1, seed=n)
        graphs.append(AtomicGraph.from_ase(atoms, 3.0, dtype=torch.float64))
    return to_batch(graphs)


def adapted(name: str = "PaiNN", **arguments) -> GraphPESModel:
    """A model in double precision whose corrections are as large as its weights."""
    model = lora(MODELS[name]().double(), **{"rank": 2, "alpha": 2.0, **arguments})
    for key, parameter in model.named_parameters():
        if key.endswith("lora_left"):
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_starts_from_the_model(name: str) -> None:
    original = MODELS[name]().double().eval()
    model = lora(copy.deepcopy(original), rank=2)
    assert torch.equal(model.predict_forces(batch()), original.predict_forces(batch()))
    n_corrections = sum(len(corrections_of(module)) for module in model.modules())
    assert n_corrections == len(linear_matrices(original)) > 3
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if "lora_" in n}


@pytest.mark.parametrize("name", MODELS)
def test_merged_is_the_same_and_costs_nothing(name: str, tmp_path: Path) -> None:
    original, model = MODELS[name]().double().eval(), adapted(name).eval()
    before = model.predict_forces(batch())
    assert (before - original.predict_forces(batch())).abs().max() > 1e-4
    save_model(model, tmp_path / "model.pt")
    for whole in (merged(model), load_model(tmp_path / "model.pt").eval()):
        assert isinstance(whole, type(original))
        torch.testing.assert_close(whole.predict_forces(batch()), before, rtol=1e-12, atol=1e-12)
        assert whole.state_dict().keys() == original.state_dict().keys()
        kinds = [{type(m) for m in x.modules()} for x in (whole, original)]
        assert kinds[0] == kinds[1]
        assert not any(p.requires_grad for p in whole.parameters())
    assert has_corrections(model)  # it goes on training


def test_merged_without_corrections_is_the_model_itself() -> None:
    model = PaiNN(channels=4, layers=1)
    assert merged(model) is model


@pytest.mark.parametrize("name", MODELS)
def test_equivariance(name: str) -> None:
    model, graph = adapted(name).eval(), batch()
    Q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))  # may be a reflection
    forces = model.predict_forces(graph)
    turned = model.predict_forces(graph._replace(R=graph.R @ Q.T))
    torch.testing.assert_close(turned, forces @ Q.T, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["NequIP", "TensorNet"])
def test_losses_of_forces_are_differentiated(name: str) -> None:
    """Gradients of a loss on forces, compared with finite differences; the base has none."""
    model, graph = adapted(name), batch()

    def loss() -> torch.Tensor:
        return model.predict_forces(graph).square().sum()

    loss().backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) <= ("lora_" in key), key
    parameters = [p for p in model.parameters() if p.grad is not None]
    direction = [torch.randn_like(p) for p in parameters]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, direction, strict=True))
    values, step = [], 1e-5
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * step * d
        values.append(float(loss().detach()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_targets_rank_and_alpha() -> None:
    model = adapted(targets=".*read_out", rank=3, alpha=6.0)
    modules = [m for m in model.modules() if corrections_of(m)]
    parts = [corrections_of(module)["weight"] for module in modules]
    assert [part.lora_left.shape for part in parts] == [(8, 3), (1, 1)]
    assert [part.scale for part in parts] == [2.0, 2.0]
    first: Any = modules[0]
    U, V = parts[0].lora_left, parts[0].lora_right
    torch.testing.assert_close(first.weight, first.parametrizations.weight.original + 2 * U @ V)


def test_more_can_be_trained() -> None:
    total = AdditionModel(painn=PaiNN(channels=4, layers=1), offset=FixedOffset(H=1.0))
    model = freeze_all_except(lora(total, targets=".*updates"), [".*lora_", ".*read_out"])
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "read_out" in name for name in trained)
    assert "models.painn.read_out.linear_layers.0.bias" in trained
    names = {n for n, p in merged(model).named_parameters() if p.requires_grad}
    assert names == {n for n in trained if "read_out" in n}


def test_models_are_merged_before_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[GraphPESModel] = []

    def trace(model: GraphPESModel, products: str) -> None:
        traced.append(model)
        raise ExportError("enough")

    monkeypatch.setattr("graph_pes.deploy.export.traced_program", trace)
    model = adapted("PaiNN")
    with pytest.raises(ExportError, match="enough"):
        export_model(model, tmp_path / "model.pt2", table_tolerance=0)
    assert not has_corrections(traced[0])
    found, expected = traced[0].predict_forces(batch()), model.eval().predict_forces(batch())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"no matrix matches 'readout'; .*read_out\.linear_layers"):
        lora(PaiNN(channels=4, layers=1), targets="readout")
    with pytest.raises(ValueError, match="expected a rank of at least 1, got 0"):
        lora(PaiNN(channels=4, layers=1), rank=0)
    with pytest.raises(ValueError, match="corrections of low rank already"):
        lora(lora(PaiNN(channels=4, layers=1)))
    with pytest.raises(ValueError, match="LennardJones has no linear layers"):
        lora(LennardJones())
