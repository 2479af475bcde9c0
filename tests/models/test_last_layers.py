"""Committees of last layers: the same as models with other weights, at the cost of one."""

from __future__ import annotations

import copy
from pathlib import Path

import ase
import pytest
import torch
from ase.build import molecule

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.deploy.engine import EngineModel, engine_inputs
from graph_pes.models import (
    GraphPESModel,
    LastLayerCommittee,
    LennardJones,
    SchNet,
    load_model,
    save_model,
)
from graph_pes.models.last_layers import check_linear, last_layers
from graph_pes.nn.equivariant import EquivariantLinear
from graph_pes.training.last_layers import last_layer_committee
from tests.conformance.models import MODELS, Row, orb, tensornet

SPREADS = ["energy_ensemble", "energy_uncertainty", "forces_uncertainty"]

#: Those with networks that predict energies alone. The gates of MatGL's read-out are not linear.
ROWS = """SchNet PaiNN TensorNet MACE MACE-residual ZEmbeddingMACE NequIP NequIP-original EDDP
Orb-conservative AdditionModel""".split()


def graph_of(atoms: ase.Atoms) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, 4.0, dtype=torch.float64)


def committee(model: GraphPESModel) -> LastLayerCommittee:
    made = LastLayerCommittee(model, members=3).double().eval()
    for n in range(len(made.layers)):
        deviations = getattr(made, f"deviations_{n}")
        deviations.copy_(0.1 * torch.randn_like(deviations))
    return made


def member(model: LastLayerCommittee, m: int) -> GraphPESModel:
    """A whole model with the weights of a member."""
    made = copy.deepcopy(model.model)
    with torch.no_grad():
        for name, deviations in zip(model.layers, model.deviations(), strict=True):
            layer, deviation = made.get_submodule(name), deviations[m]
            if isinstance(layer, EquivariantLinear):
                layer.weights[0] += deviation.view_as(layer.weights[0])
            else:
                layer.weight += deviation[: layer.in_features]
                if layer.bias is not None:
                    layer.bias += deviation[-1]
    return made


@pytest.mark.parametrize(
    "row", [row for row in MODELS if row.name in ROWS], ids=lambda row: row.name
)
def test_members_are_models_with_other_weights(row: Row) -> None:
    torch.manual_seed(0)
    model = committee(row.factory().double())
    graph = to_batch([graph_of(molecule("CH3OH")), graph_of(molecule("H2O"))])
    check_linear(model, graph)
    found = model.predict(graph, ["energy", "forces", *SPREADS])
    keys = ["energy", "forces"]
    expected = [member(model, m).predict(graph, keys) for m in range(3)]
    energies = torch.stack([p["energy"] for p in expected], dim=1)
    forces = torch.stack([p["forces"] for p in expected])
    close = {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(found["energy_ensemble"], energies, **close)
    torch.testing.assert_close(found["forces"], forces.mean(0), **close)
    alone = model.predict(graph, ["forces"])["forces"]
    torch.testing.assert_close(alone, forces.mean(0), **close)
    sigma = forces.var(0).sum(-1).sqrt()
    torch.testing.assert_close(found["forces_uncertainty"], sigma, **close)
    with torch.no_grad():
        alone = model.predict(graph, ["energy_uncertainty"])["energy_uncertainty"]
    torch.testing.assert_close(alone, energies.std(1), **close)
    assert (sigma > 1e-6).any()


def test_as_engines_call_it() -> None:
    model = committee(SchNet(4.0, channels=4, expansion_features=5, layers=2).double())
    graph = to_batch([graph_of(molecule("CH3OH"))])
    function = EngineModel(copy.deepcopy(model).requires_grad_(False))
    found = dict(zip(function.outputs, function(*engine_inputs(graph, torch.float64)), strict=True))
    wanted = model.predict(graph, ["forces_uncertainty"])["forces_uncertainty"]
    torch.testing.assert_close(found["forces_uncertainty"], wanted)


def test_drawn_from_what_the_data_leave_open() -> None:
    """Sure of what it was fitted to, unsure of all else; saved with the model."""
    torch.manual_seed(0)
    model = SchNet(4.0, channels=8, expansion_features=8, layers=1).double().eval()
    data = []
    for n in range(6):
        atoms = molecule("CH3OH")
        atoms.rattle(0.05, seed=n)
        graph = graph_of(atoms)
        energy = model.predict_energy(graph) + 1e-3 * torch.randn((), dtype=torch.float64)
        data.append(graph._replace(properties={"energy": energy}))
    made = last_layer_committee(model, data, members=64)
    other = graph_of(molecule("CH3OH"))
    other = other._replace(Z=other.Z.clamp(max=6))
    key = "energy_uncertainty"
    near, far = (float(made.eval().predict(g, [key])[key]) for g in (data[0], other))
    assert near < 6e-3  # 6 atoms, 1e-3 / 6 eV per atom, in one of few directions
    assert far > 5 * near
    mean = made.predict(other, ["energy_ensemble"])["energy_ensemble"].mean()
    torch.testing.assert_close(mean, model.predict_energy(other))


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = committee(SchNet(4.0, channels=4, expansion_features=5, layers=1))
    save_model(model, tmp_path / "model.pt")
    loaded, graph = load_model(tmp_path / "model.pt").eval(), graph_of(molecule("H2O"))
    for key, value in model.predict(graph, SPREADS).items():
        assert torch.equal(loaded.predict(graph, SPREADS)[key], value)


def test_what_has_no_last_layers() -> None:
    assert last_layers(LennardJones()) == []
    with pytest.raises(ValueError, match="at least one last layer"):
        LastLayerCommittee(LennardJones())
    with pytest.raises(ValueError, match="are no linear layers.*read_out.linear_layers.1"):
        LastLayerCommittee(SchNet(layers=1), layers=["read_out"])
    with pytest.raises(ValueError, match="local energies alone"):
        LastLayerCommittee(orb())


def test_layers_that_are_not_the_last() -> None:
    """The gates of this read-out multiply its energies."""
    torch.manual_seed(0)
    model = committee(tensornet(variant="matgl", radial_expansion="SmoothBessel").double())
    with pytest.raises(ValueError, match="not linear in the weights of .*gates"):
        check_linear(model, to_batch([graph_of(molecule("CH3OH"))]))


def test_energies_are_needed() -> None:
    with pytest.raises(ValueError, match="expected structures with energies"):
        last_layer_committee(SchNet(layers=1), [graph_of(molecule("H2O"))])
