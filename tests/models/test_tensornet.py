from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from hypothesis import given

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.interfaces.matgl import copy_layers, native_tensornet
from graph_pes.models import TensorNet
from graph_pes.nn.mlp import MLP
from graph_pes.nn.radial import Bessel, DistanceExpansion
from graph_pes.periodic_table import SYMBOLS
from tests.conformance.models import randomised
from tests.strategies import rotations, structures

REFERENCES = Path(__file__).parents[1] / "references"
Weights = dict[str, np.ndarray]


# --- weights of other implementations -----------------------------------------------------


def copy(to: torch.Tensor, value: np.ndarray, rows: list[int] | None = None) -> None:
    """Set a parameter, or those of its rows that belong to some elements."""
    with torch.no_grad():
        to[slice(None) if rows is None else rows] = torch.from_numpy(value)


def copy_mlp(mlp: MLP, weights: Weights, name: str) -> None:
    for n, layer in enumerate(mlp.linear_layers):
        copy(layer.weight, weights[name.format(n, "weight")])
        copy(layer.bias, weights[name.format(n, "bias")])


def copy_norm(norm: torch.nn.LayerNorm, weights: Weights, name: str) -> None:
    copy(norm.weight, weights[f"{name}.weight"])
    copy(norm.bias, weights[f"{name}.bias"])


def starting_with(frozen: Weights, prefix: str) -> Weights:
    return {k.removeprefix(prefix): v for k, v in frozen.items() if k.startswith(prefix)}


def from_graph_pes_1(frozen: Weights, case: str, dtype: torch.dtype) -> TensorNet:
    """Our model with the weights of graph-pes 1."""
    settings = ("cutoff", "radial_features", "channels", "layers")
    arguments = {name: frozen[name].item() for name in settings}
    model = TensorNet(**arguments, direct_force_predictions=case == "direct").double()
    weights, Zs = starting_with(frozen, f"{case}.weights."), frozen["Zs"].tolist()
    copy(model.embedding.elements.embeddings.values, weights["elements"], Zs)
    copy(model.scaler.per_element_scaling.values, weights["scales"], Zs)

    edges = "embedding.edge_embedding."
    filters = f"{edges}distance_embedding.components.0."
    copy(model.radial.beta, weights[f"{filters}0.beta"])
    copy(model.radial.centers, weights[f"{filters}0.centers"])
    copy(model.embedding.filters.weight, weights[f"{filters}1.weight"])
    copy(model.embedding.filters.bias, weights[f"{filters}1.bias"])
    copy(model.embedding.pairs.weight, weights[f"{edges}z_map.weight"])
    copy_norm(model.embedding.norm, weights, "embedding.layer_norm")
    copy_mlp(model.embedding.scales, weights, "embedding.mlp.linear_layers.{}.{}")

    def stacked(name: str) -> np.ndarray:
        return np.stack([weights[name.format(part)] for part in "IAS"])

    copy(model.embedding.mix.weight, stacked("embedding.W_{}.linear.weight"))
    for n, interaction in enumerate(model.interactions):
        name = f"interactions.{n}."
        copy(interaction.mix.weight, stacked(name + "W_{}_pre.linear.weight"))
        copy(interaction.mix_products.weight, stacked(name + "W_{}_post.linear.weight"))
        filters = name + "distance_embedding.components.0.1.linear_layers.{}.{}"
        copy_mlp(interaction.filters, weights, filters)
    copy_norm(model.read_out.norm, weights, "energy_read_out.layer_norm")
    copy_mlp(model.read_out.mlp, weights, "energy_read_out.mlp.linear_layers.{}.{}")
    if model.force_read_out is not None:
        copy(model.force_read_out.weight, weights["force_read_out.linear.linear.weight"])
    return model.to(dtype).eval()


def largest_errors(
    model: TensorNet, frozen: Weights, case: str, dtype: torch.dtype
) -> dict[str, float]:
    """Relative to the largest value of all structures.

    In single precision they reach 1.6e-5 of the values of a structure by itself, where these are
    a hundredth of the largest.
    """
    errors, scales = {}, {}
    for n in range(sum(name.endswith(".R") for name in frozen)):
        Z, R, cell, pbc = (frozen[f"structure.{n}.{key}"] for key in ("Z", "R", "cell", "pbc"))
        atoms = ase.Atoms(Z, R, cell=cell, pbc=pbc)
        atoms.info["total_charge"] = float(frozen.get(f"{case}.charge", 0))
        graph = AtomicGraph.from_ase(atoms, model.cutoff_value, dtype=dtype)
        expected = starting_with(frozen, f"{case}.structure.{n}.")
        assert {"energy", "forces"} <= expected.keys()
        for key, value in model.predict(graph, list(expected)).items():
            difference = np.abs(value.numpy() - expected[key]).max()
            errors[key] = max(errors.get(key, 0.0), difference)
            scales[key] = max(scales.get(key, 0.0), np.abs(expected[key]).max())
    return {key: error / scales[key] for key, error in errors.items()}


TOLERANCES = [(torch.float64, 1e-9), (torch.float32, 1e-5)]


@pytest.mark.parametrize("case", ["conservative", "direct"])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_against_graph_pes_1(case: str, dtype: torch.dtype, tolerance: float) -> None:
    """What graph-pes 1.0.2 gave: see make_graph_pes_1_tensornet.py."""
    frozen = dict(np.load(REFERENCES / "graph_pes_1_tensornet.npz"))
    model = from_graph_pes_1(frozen, case, dtype)
    errors = largest_errors(model, frozen, case, dtype)
    assert max(errors.values()) < tolerance, errors
    assert len(errors) == (3 if case == "conservative" else 2)


# --- the originals ------------------------------------------------------------------------


def as_tensors(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in weights.items()}


def from_torchmd_net(frozen: Weights, case: str, dtype: torch.dtype) -> TensorNet:
    """Our model with the weights of TorchMD-Net."""
    settings = ("cutoff", "radial_features", "channels", "layers")
    model = TensorNet(
        **{name: frozen[name].item() for name in settings},
        radial_expansion="ExpNormal",
        group="SO(3)" if case == "SO(3)" else "O(3)",
        variant="torchmd-net",
        charged=case == "charged",
    ).double()
    name = "weights.representation_model."
    weights, Zs = starting_with(frozen, name), frozen["Zs"].tolist()
    copy(model.embedding.elements.embeddings.values, weights["tensor_embedding.emb.weight"], Zs)
    copy(model.embedding.pairs.weight, weights["tensor_embedding.emb2.weight"])
    copy(model.radial.gaussians.beta, weights["distance_expansion.betas"])
    copy(model.radial.gaussians.centers, weights["distance_expansion.means"])
    copy_layers(model, as_tensors(weights), interleaved=False)
    weights |= starting_with(frozen, "weights.output_model.output_network.")
    for layer, name in zip(
        model.read_out.mlp.linear_layers, ["linear", "layers.0", "layers.2"], strict=True
    ):
        copy(layer.weight, weights[f"{name}.weight"])
        copy(layer.bias, weights[f"{name}.bias"])
    return model.to(dtype).eval()


@pytest.mark.parametrize("case", ["O(3)", "SO(3)", "charged"])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_against_torchmd_net(case: str, dtype: torch.dtype, tolerance: float) -> None:
    """What TorchMD-Net 3.1.0 gave: see make_torchmd_net_tensornet.py."""
    frozen = dict(np.load(REFERENCES / "torchmd_net_tensornet.npz"))
    model = from_torchmd_net(frozen, case, dtype)
    errors = largest_errors(model, frozen, case, dtype)
    assert max(errors.values()) < tolerance, errors
    assert len(errors) == 2


def from_matgl(frozen: Weights, case: str, dtype: torch.dtype) -> TensorNet:
    """Our model with the weights of MatGL."""
    Zs = frozen["Zs"].tolist()
    settings = {
        "element_types": [SYMBOLS[Z] for Z in Zs],
        "cutoff": frozen["cutoff"].item(),
        "max_n": frozen["radial_features"].item(),
        "units": frozen["channels"].item(),
        "nblocks": frozen["layers"].item(),
        "equivariance_invariance_group": case,
    }
    model = native_tensornet(settings, as_tensors(starting_with(frozen, "weights.")))
    copy(model.scaler.per_element_scaling.values, np.full(len(Zs), frozen["std"]), Zs)
    return model.to(dtype).eval()


@pytest.mark.parametrize("case", ["O(3)", "SO(3)"])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_against_matgl(case: str, dtype: torch.dtype, tolerance: float) -> None:
    """What MatGL 2.0.4 gave: see make_matgl_tensornet.py."""
    frozen = dict(np.load(REFERENCES / "matgl_tensornet.npz"))
    model = from_matgl(frozen, case, dtype)
    errors = largest_errors(model, frozen, case, dtype)
    assert max(errors.values()) < tolerance, errors
    assert len(errors) == 3


# --- arguments ----------------------------------------------------------------------------


def small(**options: object) -> TensorNet:
    torch.manual_seed(0)
    model = TensorNet(cutoff=4.0, radial_features=6, channels=6, **options)  # type: ignore[arg-type]
    return randomised(model.double()).eval()


@given(atoms=structures(max_atoms=6), rotation=rotations(reflections=True))
def test_direct_forces_rotate(atoms: ase.Atoms, rotation: np.ndarray) -> None:
    model = small(direct_force_predictions=True)
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T
    turned.cell = atoms.cell.array @ rotation.T
    forces, of_turned = (
        model.predict_forces(AtomicGraph.from_ase(a, 4.0, dtype=torch.float64)).numpy()
        for a in (atoms, turned)
    )
    np.testing.assert_allclose(of_turned, forces @ rotation.T, rtol=0, atol=1e-10)


def test_direct_forces_are_no_derivatives() -> None:
    graph = AtomicGraph.from_ase(molecule("CH3OH"), 4.0, dtype=torch.float64)
    direct, derived = small(direct_force_predictions=True), small()
    names = {name for name, _ in direct.named_parameters()}
    assert names - {name for name, _ in derived.named_parameters()} == {"force_read_out.weight"}
    assert not torch.allclose(direct.predict_forces(graph), derived.predict_forces(graph))


@pytest.mark.parametrize("variant", ["graph-pes", "torchmd-net", "matgl"])
@pytest.mark.parametrize("group", ["O(3)", "SO(3)"])
def test_mirror_images(variant: str, group: str) -> None:
    """Only SO(3) tells them apart; both are indifferent to rotations."""
    model = small(variant=variant, group=group)
    chiral = ase.Atoms(
        "CHCOC", [[0, 0, 0], [0, 0, 1.1], [1.4, 0, -0.5], [-0.6, 1.2, -0.5], [0, 2, 2]]
    )
    image, turned = chiral.copy(), chiral.copy()
    image.positions *= [-1, 1, 1]
    turned.rotate(50, (1, 2, 3))
    energy, of_image, of_turned = (
        model.predict_energy(AtomicGraph.from_ase(atoms, 4.0, dtype=torch.float64))
        for atoms in (chiral, image, turned)
    )
    torch.testing.assert_close(of_turned, energy, rtol=0, atol=1e-10)
    assert torch.isclose(of_image, energy, rtol=0, atol=1e-10) == (group == "O(3)")


def test_charges() -> None:
    model, atoms = small(charged=True), molecule("CH3OH")

    def graph(**info: float) -> AtomicGraph:
        charged = atoms.copy()
        charged.info.update(info)
        return AtomicGraph.from_ase(charged, 4.0, dtype=torch.float64)

    neutral, cation = graph(total_charge=0.0), graph(total_charge=1.0)
    energies = [model.predict_energy(g) for g in (neutral, cation, graph())]
    assert not torch.isclose(energies[0], energies[1])
    torch.testing.assert_close(energies[2], energies[0])
    batch = model.predict_energy(to_batch([cation, neutral]))
    torch.testing.assert_close(batch, torch.stack([energies[1], energies[0]]))
    torch.testing.assert_close(small().predict_energy(cation), small().predict_energy(neutral))


def test_all_layers_share_the_radial_functions() -> None:
    model = small(radial_expansion="Bessel")
    assert isinstance(model.radial, Bessel)
    assert sum(isinstance(module, DistanceExpansion) for module in model.modules()) == 1


@pytest.mark.parametrize(
    ("argument", "value", "known"), [("group", "E3", "SO"), ("variant", "paper", "matgl")]
)
def test_unknown_choices(argument: str, value: str, known: str) -> None:
    with pytest.raises(ValueError, match=f"expected {argument} .*{known}.*, got '{value}'"):
        TensorNet(**{argument: value})  # type: ignore[arg-type]
