from __future__ import annotations

from collections.abc import Callable

import ase
import pytest
import torch
from ase.build import molecule
from hypothesis import given, settings

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import GraphTensorModel, TensorMACE, ZEmbeddingTensorMACE
from graph_pes.nn.irreps import parse_irreps
from tests.conformance.models import randomised
from tests.strategies import rotations, structures

ELEMENTS = ["H", "C", "O", "Si"]
CUTOFF = 3.0
SMALL = {"channels": 3, "l_max": 2, "cutoff": CUTOFF, "readout_width": 4, "n_radial": 4}

MODELS: dict[str, Callable[[], GraphTensorModel]] = {
    "direct": lambda: TensorMACE(
        ELEMENTS,
        **SMALL,
        hidden_irreps="0e + 1o + 2e",
        target_method="direct",
        target_tensor_irreps="0e + 2x1o + 1e + 2e",
    ),
    "tensor_product": lambda: TensorMACE(
        ELEMENTS, **SMALL, layers=3, correlation=2, target_tensor_irreps="0e + 1e + 2e"
    ),
    "embedding": lambda: ZEmbeddingTensorMACE(
        2,
        **SMALL,
        hidden_irreps="0e",
        number_of_tps=4,
        target_tensor_irreps="4e + 3e + 0e",
        irrep_tp="2e",
    ),
    "scalar": lambda: TensorMACE(ELEMENTS, **SMALL),
}


def made(name: str) -> GraphTensorModel:
    """A model with random weights and scales."""
    torch.manual_seed(0)
    model = randomised(MODELS[name](), factor=1.0)
    scales = model.read_out.head.scaler.scales
    scales.values.data = torch.rand_like(scales.values) + 0.5
    return model.eval()


def tensors(model: GraphTensorModel, atoms: ase.Atoms) -> torch.Tensor:
    graph = AtomicGraph.from_ase(atoms, CUTOFF, dtype=model.dtype)
    return model.predict(graph)["tensor"].double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8)
@given(atoms=structures(max_atoms=5), R=rotations())
def test_equivariance(name: str, dtype: torch.dtype, atoms: ase.Atoms, R) -> None:
    """Under rotations, and under reflections.

    Tensors are of order 0.001 to 0.5 here: in single precision, polynomials of third order round
    to 1e-4 of the smallest of them.
    """
    model = made(name).to(dtype)
    irreps = parse_irreps(model.constructor_arguments["target_tensor_irreps"] or "0e")
    before = tensors(model, atoms)
    for sign in (1, -1):
        turned = atoms.copy()
        turned.positions = sign * atoms.positions @ R.T
        turned.cell = sign * atoms.cell.array @ R.T
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # to which e3nn's matrices are rounded
        D = irreps.D_from_matrix(sign * torch.tensor(R, dtype=torch.float64))
        torch.set_default_dtype(default)
        tolerance = {torch.float32: 1e-5, torch.float64: 1e-9}[dtype] * (1 + before.abs().max())
        assert (tensors(model, turned) - before @ D.T).abs().max() <= tolerance


def test_every_component_is_predicted() -> None:
    atoms = ase.Atoms("COHH", [[0, 0, 0], [1.2, 0.1, 0], [-0.5, 0.9, 0.2], [-0.4, -0.8, 0.6]])
    for name in MODELS:
        found = tensors(made(name).double(), atoms).abs()
        assert (found > 1e-9 * found.max()).all(), name


def test_batches_and_training() -> None:
    for name in MODELS:
        model = made(name).double()
        graphs = [
            AtomicGraph.from_ase(atoms, CUTOFF, dtype=torch.float64)
            for atoms in (molecule("CH3OH"), ase.Atoms("O"), molecule("H2O"))
        ]
        alone = torch.cat([model.predict(graph)["tensor"] for graph in graphs])
        together = model.train().predict(to_batch(graphs))["tensor"]
        torch.testing.assert_close(together.detach(), alone, rtol=1e-9, atol=1e-12)
        (together**2).sum().backward()
        for key, parameter in model.named_parameters():
            assert not parameter.requires_grad or parameter.grad is not None, key


def test_defaults() -> None:
    """Defect 14 of graph-pes 1: ``TensorMACE(elements)`` failed."""
    model = TensorMACE(["H", "O"])
    graph = AtomicGraph.from_ase(molecule("H2O"))
    assert model.predict(graph)["tensor"].shape == (3, 1)


def test_what_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="no products of neighbours give all of 1x0o"):
        TensorMACE(["H"], **SMALL, target_method="direct", target_tensor_irreps="0o")
