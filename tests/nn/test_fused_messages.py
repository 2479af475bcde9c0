"""Kernels of cuEquivariance beside ours, here in its implementation for any device."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from ase.build import bulk

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.deploy.engine import EngineModel
from graph_pes.deploy.trace import TRACED, example_inputs, traced_function
from graph_pes.models import MACE, GraphPESModel, NequIP, PaiNN, load_model, save_model
from graph_pes.nn.irreps import Blocks
from graph_pes.nn.tensor_product import NeighbourTensorProduct, use_cuequivariance
from tests.nn.test_tensor_product import inputs

CASES = [
    ("4x0e", "0e+1o+2e", "0e+1o+2e"),
    ("3x0e+3x1o", "0e+1o", "0e+1o"),
    ("2x0o+2x0e+2x1o+2x1e+2x2e", "0e+1o+2e", "0o+0e+1o+1e+2o+2e"),
    ("2x3o+2x2e", "0e+1o+2e+3o", "1o+3o+4e"),
]


@pytest.fixture(autouse=True)
def _package() -> None:
    pytest.importorskip("cuequivariance_torch")


def values_and_derivatives(
    product: NeighbourTensorProduct, x: Blocks, others: list
) -> list[torch.Tensor]:
    """The result, its derivatives, and those of their squares with respect to weights."""
    Y, phi, V, neighbours = others
    leaves = [t.clone().requires_grad_() for t in (Y[:, 1:], phi, V, *x)]
    harmonics = torch.cat([Y[:, :1], leaves[0]], dim=1)
    found = product(leaves[3:], harmonics, *leaves[1:3], neighbours)
    first = torch.autograd.grad(sum((b**2).sum() for b in found), leaves, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), leaves)
    return [*found, *first, *second]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_ours(case: tuple[str, str, str], dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    product = NeighbourTensorProduct(*case)
    x, others = inputs(product, dtype)
    expected = values_and_derivatives(product, x, others)
    assert use_cuequivariance(product) == 1
    found = values_and_derivatives(product, x, others)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.detach().abs().max()))
    assert not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


FEATURES = {"channels": 4, "l_max": 1, "use_odd_parity": True}
MODELS = {
    "NequIP": lambda: NequIP(["Si", "O"], cutoff=4.0, layers=2, features=FEATURES),
    "MACE": lambda: MACE(
        ["Si", "O"], cutoff=4.0, channels=4, l_max=1, hidden_irreps="0e + 1o", layers=2
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, tmp_path: Path) -> None:
    """Energies, forces, and gradients of a loss of these; nothing of it is saved, or traced."""
    torch.manual_seed(0)
    model = MODELS[name]().double()
    atoms = bulk("SiO", "zincblende", a=4.6, cubic=True)
    atoms.rattle(0.1, seed=0)
    graph = AtomicGraph.from_ase(atoms, 4.0, dtype=torch.float64)

    def trained(model: GraphPESModel) -> list[torch.Tensor]:
        model.zero_grad()
        found = model.train().predict(graph, ["energy", "forces"])
        (found["energy"] ** 2 + (found["forces"] ** 2).sum()).backward()
        of_weights = [p.grad for p in model.parameters() if p.grad is not None]
        return [found["energy"].detach(), found["forces"].detach(), *of_weights]

    expected, keys = [x.clone() for x in trained(model)], list(model.state_dict())
    # the first layer of MACE sums over the neighbours of each element
    assert use_cuequivariance(model) == {"NequIP": 2, "MACE": 1}[name]
    assert list(model.state_dict()) == keys
    for changed in (model, copy.deepcopy(model)):
        for a, b in zip(trained(changed), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    save_model(model, tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt")
    products = [m for m in again.modules() if isinstance(m, NeighbourTensorProduct)]
    assert all(product.fused is None for product in products)
    traced = traced_function(EngineModel(model.eval()), example_inputs(model, **TRACED))
    assert not any("cuequivariance" in str(node.target) for node in traced.graph.nodes)
    use_cuequivariance(model, use=False)
    assert all(m.fused is None for m in model.modules() if isinstance(m, NeighbourTensorProduct))


def test_models_without_tensor_products() -> None:
    assert use_cuequivariance(PaiNN(channels=4)) == 0


def test_channels_that_differ() -> None:
    with pytest.raises(ValueError, match="as many channels of every irrep, got features 2x0e"):
        use_cuequivariance(NeighbourTensorProduct("2x0e+3x1o", "0e+1o", "0e"))


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuequivariance", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[cuequivariance\]'"):
        use_cuequivariance(NeighbourTensorProduct(*CASES[0]))
