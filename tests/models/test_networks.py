"""What holds for every network; the conformance suite checks the laws of physics."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import ase
import pytest
import torch
from ase.build import bulk, molecule

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import (
    EDDP,
    MACE,
    GraphPESModel,
    M3GNet,
    NequIP,
    Orb,
    PaiNN,
    SchNet,
    TensorNet,
    ZEmbeddingMACE,
    ZEmbeddingNequIP,
    load_model,
    save_model,
)
from tests.conformance.models import randomised
from tests.runs import same, weights

ELEMENTS = ["Si", "O", "H", "C"]
FEATURES = {"channels": [4, 2], "l_max": 1, "use_odd_parity": True}
MACE_SIZES = {"cutoff": 3.5, "channels": 2, "l_max": 1, "weights_mlp": {"hidden_depth": 1}}

NETWORKS: dict[str, Callable[[], GraphPESModel]] = {
    "EDDP": lambda: EDDP(ELEMENTS, 3.5, features=3, three_body_cutoff=2.5, learnable_powers=True),
    "M3GNet": lambda: M3GNet(3.5, three_body_cutoff=3.0, channels=6, layers=2),
    "MACE": lambda: MACE(ELEMENTS, **MACE_SIZES),
    "NequIP": lambda: NequIP(ELEMENTS, cutoff=3.5, layers=3, features=FEATURES),
    "Orb": lambda: Orb(3.5, conservative=True, channels=6, layers=2, mlp_hidden_dim=8),
    "PaiNN": lambda: PaiNN(channels=6, radial_features=5, layers=2, cutoff=3.5),
    "SchNet": lambda: SchNet(channels=6, expansion_features=8, layers=2, cutoff=3.5),
    "TensorNet": lambda: TensorNet(3.5, radial_features=5, channels=4),
    "ZEmbeddingMACE": lambda: ZEmbeddingMACE(2, **MACE_SIZES),
    "ZEmbeddingNequIP": lambda: ZEmbeddingNequIP(3.5, Z_embed_dim=2, layers=2, features=FEATURES),
}
PROPERTIES = ["energy", "forces", "virial"]


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> GraphPESModel:
    return randomised(NETWORKS[request.param](), factor=1.0 if "MACE" in request.param else 1.3)


def batch(dtype: torch.dtype) -> AtomicGraph:
    silica = bulk("SiO", "zincblende", a=4.6)
    silica.rattle(0.05, seed=0)
    structures = [silica, molecule("H2O", cell=[5, 6, 7], pbc=True), ase.Atoms("C")]
    return to_batch([AtomicGraph.from_ase(atoms, 3.5, dtype=dtype) for atoms in structures])


def loss(network: GraphPESModel, graph: AtomicGraph) -> torch.Tensor:
    predicted = network.predict(graph, PROPERTIES)
    return sum(
        (predicted[key] - target).square().sum()
        for key, target in zip(PROPERTIES, (1.0, 0.2, -0.3), strict=True)
    )


def test_gradients_of_the_loss(network: GraphPESModel) -> None:
    """Those of second order, through forces and virial, agree with finite differences."""
    network, graph = network.double().train(), batch(torch.float64)
    loss(network, graph).backward()
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        values = []
        for step in (-2e-4, -1e-4, 1e-4, 2e-4):
            parameter.data.add_(direction, alpha=step)
            values.append(loss(network, graph).item())
            parameter.data.sub_(direction, alpha=step)
        a, b, c, d = values
        slope = (a - 8 * b + 8 * c - d) / 12e-4
        scale = max(parameter.grad.norm().item(), 1.0)
        expected = (parameter.grad * direction).sum().item()
        assert slope == pytest.approx(expected, abs=2e-6 * scale), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.float16])
def test_default_dtype_makes_no_difference(
    network: GraphPESModel,
    dtype: torch.dtype,
    default: torch.dtype,
    default_dtype: Callable[[torch.dtype], None],
) -> None:
    network, graph = network.to(dtype).eval(), batch(dtype)
    expected = network.predict(graph, [*PROPERTIES, "local_energies"])
    default_dtype(default)
    found = network.predict(graph, [*PROPERTIES, "local_energies"])
    for key, value in expected.items():
        assert found[key].dtype == (torch.float64 if key == "energy" else dtype)
        assert torch.equal(found[key], value)


def test_dtype(network: GraphPESModel) -> None:
    assert network.dtype == torch.float32
    assert network.double().dtype == torch.float64
    assert network.half().dtype == torch.float16


def test_repr(network: GraphPESModel) -> None:
    network.register_elements([1, 8])
    lines = repr(network).splitlines()
    assert lines[0] == f"{type(network).__name__}("
    assert len(lines) < 150
    assert "tensor(" not in repr(network)
    assert "cutoff=3.5" in repr(network)
    if not isinstance(network, EDDP):
        assert any("H=" in line and "O=" in line for line in lines)  # scales


def test_elements_are_known_to_copies_and_files(network: GraphPESModel, tmp_path: Path) -> None:
    graphs = [AtomicGraph.from_ase(molecule(name), 3.5) for name in ("H2O", "CH4", "CO2")]
    for n, graph in enumerate(graphs):
        graph.properties["energy"] = torch.tensor(float(n), dtype=torch.float64)
    network.pre_fit_all_components(graphs)
    save_model(network, tmp_path / "model.pt")
    for model in (network, deepcopy(network), load_model(tmp_path / "model.pt")):
        assert model.elements_seen == ["H", "C", "O"]
        assert same(weights(model), weights(network))
