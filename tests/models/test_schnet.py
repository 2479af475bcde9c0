from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given

from graph_pes.atomic_graph import AtomicGraph, as_directed, keep_at_most_k_neighbours
from graph_pes.models import SchNet
from graph_pes.models.schnet import Interaction
from graph_pes.nn.mlp import MLP
from graph_pes.nn.radial import Bessel, GaussianSmearing
from tests.conformance.models import randomised
from tests.strategies import structures

from .network_reference import linear, neighbours, perceptron, shifted_softplus
from .transplant import REFERENCES, assert_agrees

CUTOFF, CHANNELS, FEATURES = 3.0, 6, 7


def model(layers: int = 3) -> SchNet:
    model = SchNet(CUTOFF, CHANNELS, FEATURES, layers).double()
    return randomised(model).eval()


def graph_of(atoms: ase.Atoms) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, CUTOFF, dtype=torch.float64)


# --- the equations of the paper -----------------------------------------------------------


def gaussians(model: SchNet, r: float) -> np.ndarray:
    coefficient, centres = (x.detach().numpy() for x in (model.radial.coef, model.radial.centers))
    return np.exp(coefficient * (r - centres) ** 2)


def convolution(
    model: SchNet, layer: Interaction, edges: list[tuple[int, int, np.ndarray]], h: np.ndarray
) -> np.ndarray:
    """A continuous-filter convolution between two layers that act on each atom."""
    x = np.array([linear(layer.linear, h_i) for h_i in h])
    sums = np.zeros_like(x)
    for i, j, r_ij in edges:
        r = np.linalg.norm(r_ij)
        W = perceptron(layer.filters, shifted_softplus, gaussians(model, r))
        sums[i] += x[j] * W * (1 + np.cos(np.pi * r / CUTOFF)) / 2
    return np.array([perceptron(layer.mlp, shifted_softplus, sum_i) for sum_i in sums])


def local_energies(
    model: SchNet, atoms: ase.Atoms, edges: list[tuple[int, int, np.ndarray]]
) -> np.ndarray:
    h = model.embedding.embeddings.values.detach().numpy()[atoms.numbers]
    for layer in model.interactions:
        h = h + convolution(model, layer, edges, h)
    scales = model.scaler.per_element_scaling.values.detach().numpy()[atoms.numbers]
    return scales * np.array([perceptron(model.read_out, shifted_softplus, h_i)[0] for h_i in h])


def assert_close(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * (1 + abs(expected).max()))


@pytest.mark.parametrize("layers", [1, 3])
@given(atoms=structures(max_atoms=6))
def test_equations_of_the_paper(layers: int, atoms: ase.Atoms) -> None:
    schnet = model(layers)
    expected = local_energies(schnet, atoms, list(neighbours(atoms, CUTOFF)))
    assert_close(schnet.predict_local_energies(graph_of(atoms)), expected)


def test_reference_depends_on_everything() -> None:
    """The comparison above would notice a change of any weight."""
    schnet = model(2)
    atoms = ase.Atoms("COH", [[0, 0, 0], [1.1, 0.2, 0], [0.3, 1.4, 0.8]])
    energies = schnet(graph_of(atoms))["local_energies"]
    elements = torch.tensor(atoms.numbers)
    for name, parameter in schnet.named_parameters():
        (gradient,) = torch.autograd.grad(energies.sum(), parameter, retain_graph=True)
        used = gradient[elements] if "embedding" in name or "scal" in name else gradient
        assert (used != 0).all(), name


# --- edges whose reverse may be missing ---------------------------------------------------


@pytest.mark.parametrize("atoms", [molecule("CH3CH2OH"), bulk("Si")], ids=["molecule", "bulk"])
def test_one_way_edges(atoms: ase.Atoms) -> None:
    """With the nearest neighbours only, an edge does not stand for its reverse."""
    schnet = model()
    graph = keep_at_most_k_neighbours(graph_of(atoms), 2)
    edges = [
        (int(i), int(j), atoms.positions[j] + offset @ atoms.cell.array - atoms.positions[i])
        for i, j, offset in zip(
            *graph.neighbour_list, graph.neighbour_cell_offsets.numpy(), strict=True
        )
    ]
    assert_close(schnet.predict_local_energies(graph), local_energies(schnet, atoms, edges))


@given(atoms=structures(max_atoms=6))
def test_edges_marked_as_one_way_give_the_same(atoms: ase.Atoms) -> None:
    schnet, graph = model(1), graph_of(atoms)
    expected = schnet.predict(graph, ["energy", "forces"])
    found = schnet.predict(as_directed(graph), ["energy", "forces"])
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)


# --- the radial basis ---------------------------------------------------------------------


@pytest.mark.parametrize("expansion", ["Bessel", Bessel])
def test_expansion_by_name_or_class(expansion) -> None:
    assert isinstance(SchNet(expansion=expansion).radial, Bessel)
    assert isinstance(SchNet().radial, GaussianSmearing)


def test_unknown_expansion() -> None:
    with pytest.raises(ValueError, match="Unknown distance expansion 'Gaussians'"):
        SchNet(expansion="Gaussians")


# --- schnetpack ---------------------------------------------------------------------------


def with_weights_of_schnetpack(frozen: dict[str, np.ndarray]) -> SchNet:
    """Our model with the weights of schnetpack's."""
    C, B, layers = (int(frozen[name]) for name in ("channels", "radial_features", "layers"))
    schnet = SchNet(float(frozen["cutoff"]), C, B, layers, trainable_basis=False).double()

    def weights(name: str) -> torch.Tensor:
        return torch.from_numpy(frozen[f"weights.{name}"])

    def copy(to: torch.nn.Module, name: str) -> None:
        layers = to.linear_layers if isinstance(to, MLP) else [to]
        for n, layer in enumerate(layers):
            for kind, parameter in layer.named_parameters():
                which = f"{name}.{n}" if isinstance(to, MLP) else name
                parameter.data[:] = weights(f"{which}.{kind}")

    elements = torch.from_numpy(frozen["elements"])
    schnet.embedding.embeddings.values.data[elements] = weights("representation.embedding.weight")
    schnet.radial.centers.data[:] = weights("representation.radial_basis.offsets")
    # Theirs are as wide as the distance between two of them, ours as r_c / B.
    schnet.radial.coef.data.fill_(-0.5 / weights("representation.radial_basis.widths")[0] ** 2)
    for n, layer in enumerate(schnet.interactions):
        name = f"representation.interactions.{n}"
        copy(layer.linear, f"{name}.in2f")
        copy(layer.filters, f"{name}.filter_network")
        copy(layer.mlp, f"{name}.f2out")
    copy(schnet.read_out, "output_modules.0.outnet")
    return schnet.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_schnetpack(dtype: torch.dtype) -> None:
    """Energies, forces and stress that schnetpack gave: see make_schnetpack.py."""
    frozen = dict(np.load(REFERENCES / "schnetpack_schnet.npz"))
    schnet = with_weights_of_schnetpack(frozen).to(dtype)
    assert_agrees(schnet, frozen, {"energy", "forces", "stress"})


def test_a_basis_that_is_not_trained() -> None:
    fixed = SchNet(channels=4, trainable_basis=False)
    frozen = [name for name, p in fixed.named_parameters() if not p.requires_grad]
    assert frozen == ["radial.coef", "radial.centers"]
    assert all(p.requires_grad for p in SchNet(channels=4).parameters())
