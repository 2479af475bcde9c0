from __future__ import annotations

from collections.abc import Callable

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from hypothesis import given, settings

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import (
    FixedTensorOffset,
    GraphTensorModel,
    TensorAdditionModel,
    TensorNequIP,
    ZEmbeddingTensorNequIP,
)
from graph_pes.nn.irreps import parse_irreps
from tests.conformance.models import randomised
from tests.strategies import rotations, structures

FEATURES = {"channels": 3, "l_max": 3, "use_odd_parity": True}
ELEMENTS = ["H", "C", "O", "Si"]
CUTOFF = 3.0
CHIRAL = ase.Atoms("CHOSiH", np.random.default_rng(0).uniform(0, 2.2, (5, 3)))

MODELS: dict[str, Callable[[], GraphTensorModel]] = {
    # Pseudoscalars need four couplings.
    "direct": lambda: TensorNequIP(
        ELEMENTS,
        CUTOFF,
        layers=4,
        features={"channels": 3, "l_max": 2, "use_odd_parity": True},
        target_tensor_irreps="0e + 0o + 1e + 2x1o + 2e + 2o",
    ),
    "direct-3": lambda: TensorNequIP(
        ELEMENTS, CUTOFF, layers=2, features=FEATURES, target_tensor_irreps="3o + 3e + 1o"
    ),
    "tensor_product": lambda: TensorNequIP(
        ELEMENTS,
        CUTOFF,
        layers=2,
        features=FEATURES,
        target_method="tensor_product",
        target_tensor_irreps="0e + 1e + 2e",
    ),
    "embedding": lambda: ZEmbeddingTensorNequIP(
        CUTOFF,
        Z_embed_dim=3,
        layers=2,
        features=FEATURES,
        self_interaction="linear",
        target_method="tensor_product",
        number_of_tps=4,
        target_tensor_irreps="4e + 3e + 0e",
        irrep_tp="2e",
    ),
}


def made(name: str) -> tuple[GraphTensorModel, torch.Tensor]:
    """A model with random weights, whose irreps are all of order 1, and these irreps."""
    torch.manual_seed(0)
    model = randomised(MODELS[name]()).eval()
    sizes = tensors(model, CHIRAL).abs().max(0).values
    scaler = model.head.scaler
    largest = torch.zeros(int(scaler.index.max()) + 1).double()
    largest.scatter_reduce_(0, scaler.index, sizes, "amax")
    scales = scaler.scales.values
    scales.data = (torch.rand_like(scales) + 0.5) / largest.to(scales.dtype)
    return model, parse_irreps(model.constructor_arguments["target_tensor_irreps"])


def tensors(model: GraphTensorModel, atoms: ase.Atoms) -> torch.Tensor:
    graph = AtomicGraph.from_ase(atoms, CUTOFF, dtype=model.dtype)
    return model.predict(graph)["tensor"].double()


def rotated(atoms: ase.Atoms, R: np.ndarray) -> ase.Atoms:
    atoms = atoms.copy()
    atoms.positions, atoms.cell = atoms.positions @ R.T, atoms.cell.array @ R.T
    return atoms


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=10, deadline=None)
@given(atoms=structures(max_atoms=6), R=rotations(reflections=True))
def test_equivariance(name: str, atoms: ase.Atoms, R: np.ndarray) -> None:
    """Defect 5 of graph-pes 1: tensors did not turn with the structure."""
    model, irreps = made(name)
    torch.set_default_dtype(torch.float64)  # to which e3nn's matrices are rounded
    D = irreps.D_from_matrix(torch.from_numpy(R))
    torch.set_default_dtype(torch.float32)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        model = model.to(dtype)
        expected, found = tensors(model, atoms) @ D.T, tensors(model, rotated(atoms, R))
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", MODELS)
def test_every_component_depends_on_the_structure(name: str) -> None:
    """So that equivariance is not that of zeros; a chiral structure has them all."""
    model, irreps = made(name)
    found = tensors(model.double(), CHIRAL)
    assert (found.abs() > 1e-4).all()
    assert found.shape == (5, irreps.dim)


@pytest.mark.parametrize("name", MODELS)
def test_batches(name: str) -> None:
    """Of a molecule, a single atom, and atoms that are far apart."""
    model = made(name)[0].double()
    batch = [molecule("CH3OH"), ase.Atoms("H"), ase.Atoms("OH", [[0, 0, 0], [9, 0, 0]])]
    graphs = [AtomicGraph.from_ase(a, CUTOFF, dtype=torch.float64) for a in batch]
    found = model.predict(to_batch(graphs))["tensor"]
    expected = torch.cat([model.predict(graph)["tensor"] for graph in graphs])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model", [lambda: TensorNequIP(["H", "O"]), ZEmbeddingTensorNequIP])
def test_defaults(model: Callable[[], GraphTensorModel]) -> None:
    """Defect 14 of graph-pes 1: neither worked."""
    graph = AtomicGraph.from_ase(molecule("H2O"))
    found = model().eval().predict(graph)["tensor"]
    assert found.shape == (3, 1)
    torch.testing.assert_close(found[1], found[2])


def test_training() -> None:
    """Scales are fitted, and every parameter has a gradient."""
    model = MODELS["tensor_product"]().train()
    graph = AtomicGraph.from_ase(molecule("CH3OH"), CUTOFF)
    labels = 7 * torch.randn(6, 9)
    graph = graph._replace(properties={"tensor": labels})
    model.pre_fit_all_components([graph])
    assert (model.head.scaler.scales["H"] > 2).all()
    ((model.predict(graph)["tensor"] - labels) ** 2).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name


def test_sum_with_an_offset() -> None:
    network = TensorNequIP(["H", "O"], CUTOFF, layers=1, target_tensor_irreps="0e + 1o")
    offset = FixedTensorOffset(H=[1.0, 0.0, 0.0, 0.0], O=[5.0, 0.0, 0.0, 0.0])
    model = TensorAdditionModel(network=network, offset=offset).eval()
    graph = AtomicGraph.from_ase(molecule("H2O"), CUTOFF)
    difference = model.predict(graph)["tensor"] - network.eval().predict(graph)["tensor"]
    expected = torch.tensor([[5.0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]).double()
    torch.testing.assert_close(difference, expected, check_dtype=False)


def test_sums_of_other_properties() -> None:
    parts = {name: TensorNequIP(["H", "O"], CUTOFF, layers=1, props="charges") for name in "ab"}
    model, graph = TensorAdditionModel(**parts).eval(), AtomicGraph.from_ase(molecule("H2O"))
    expected = sum(part.eval().predict(graph, ["charges"])["charges"] for part in parts.values())
    found = model.predict(graph, ["charges"])["charges"]
    torch.testing.assert_close(found, expected.double())
    with pytest.raises(ValueError, match="must predict the same property, got .*'tensor'"):
        TensorAdditionModel(**parts, offset=FixedTensorOffset(H=[1.0]))


def test_irreps_that_can_not_be_made() -> None:
    with pytest.raises(ValueError, match="the last of 1 layers has no 1e to read"):
        TensorNequIP(["H"], layers=1, target_tensor_irreps="0e + 1e")


def test_gates_need_scalars() -> None:
    features = {"node_irreps": "4x0e + 2x1o", "edge_irreps": "1o"}
    with pytest.raises(ValueError, match="add 0e to the edge irreps"):
        TensorNequIP(["H"], layers=1, features=features, target_tensor_irreps="1o")


@pytest.mark.parametrize("name", ["charges", "tensor"])
def test_name_of_the_property(name: str) -> None:
    model = TensorNequIP(["H", "O"], CUTOFF, layers=1, props=name).eval()
    graph = AtomicGraph.from_ase(molecule("H2O"), CUTOFF)
    assert set(model.predict(graph, [name])) == {name}
