from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from ase.build import molecule

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.interfaces.mace_nonlinear_weights import is_nonlinear, native_nonlinear_mace
from graph_pes.interfaces.mace_weights import copy_flat, in_our_couplings, native_mace
from graph_pes.models.addition import AdditionModel
from graph_pes.models.base import GraphPESModel
from graph_pes.models.mace import MACE, ZEmbeddingMACE
from graph_pes.models.offsets import FixedOffset
from graph_pes.nn import mace_layers
from graph_pes.nn.mace_interactions import Interaction
from graph_pes.periodic_table import SYMBOLS

from .transplant import REFERENCES, Frozen, assert_agrees

Weights = dict[str, torch.Tensor]


# --- weights of the same meaning ----------------------------------------------------------


@torch.no_grad()
def copy_radial(network: torch.nn.Module, weights: list[torch.Tensor]) -> None:
    """Layers (outputs, inputs)."""
    for linear, W in zip(network.mlp.linear_layers, weights, strict=True):
        linear.weight.copy_(W)


# --- mace-torch ---------------------------------------------------------------------------


def settings_of(frozen: Frozen) -> dict:
    names = "cutoff n_radial channels l_max correlation readout_width".split()
    return {
        "elements": [SYMBOLS[Z] for Z in frozen["elements"]],
        "weights_mlp": {
            "hidden_depth": int(frozen["hidden_depth"]),
            "hidden_features": int(frozen["hidden_features"]),
        },
        **{name: frozen[name].item() for name in names},
    }


def from_mace_torch(frozen: Frozen, name: str) -> GraphPESModel:
    """Our model with the weights of one of mace-torch's."""
    L, first = name.split("_")
    W = {
        key.removeprefix(f"{name}."): torch.from_numpy(value)
        for key, value in frozen.items()
        if key.startswith(f"{name}.") and ".structure." not in key
    }
    for n, m, nu in itertools.product(range(2), range(2), (1, 2, 3)):
        at = f"products.{n}.symmetric_contractions.contractions.{m}.U_matrix_{nu}"
        W[at] = torch.from_numpy(frozen[f"U.{m}.{nu}"])
    scaled = first == "residual"
    scale, shift = (frozen["scale"].item(), frozen["shift"].item()) if scaled else (1.0, 0.0)
    W["scale_shift.scale"] = torch.tensor(scale, dtype=torch.float64)
    k = torch.arange(1, int(frozen["n_radial"]) + 1, dtype=torch.float64)
    W["radial_embedding.bessel_fn.bessel_weights"] = k * math.pi / frozen["cutoff"].item()
    kind = {"mixed": "", "residual": "Residual"}[first]
    channels = int(frozen["channels"])
    settings = {
        "atomic_numbers": frozen["elements"].tolist(),
        "r_max": frozen["cutoff"].item(),
        "num_bessel": int(frozen["n_radial"]),
        "num_polynomial_cutoff": 5,
        "radial_MLP": [int(frozen["hidden_features"])] * int(frozen["hidden_depth"]),
        "hidden_irreps": {"L0": f"{channels}x0e", "L1": f"{channels}x0e+{channels}x1o"}[L],
        "max_ell": int(frozen["l_max"]),
        "num_interactions": 2,
        "correlation": int(frozen["correlation"]),
        "MLP_irreps": f"{frozen['readout_width']}x0e",
        "interaction_cls_first": f"RealAgnostic{kind}InteractionBlock",
        "avg_num_neighbors": frozen["average_neighbours"].item(),
        "heads": ["Default"],
    }
    energies = (W["atomic_energies"].flatten() + shift).tolist()
    elements = zip(frozen["elements"], energies, strict=True)
    offset = FixedOffset(**{SYMBOLS[Z]: e for Z, e in elements})
    return AdditionModel(mace=native_mace(settings, W), offset=offset).eval()


def of_model(frozen: Frozen, name: str) -> Frozen:
    """The structures, and what one of the models predicted of them."""
    start = f"{name}."
    own = {k.removeprefix(start): v for k, v in frozen.items() if k.startswith(start)}
    return {k: v for k, v in {**frozen, **own}.items() if k.startswith("structure.")}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["L0_mixed", "L1_mixed", "L0_residual", "L1_residual"])
def test_against_mace_torch(name: str, dtype: torch.dtype) -> None:
    """See make_mace.py."""
    frozen = dict(np.load(REFERENCES / "mace.npz"))
    model = from_mace_torch(frozen, name).to(dtype)
    assert_agrees(model, of_model(frozen, name), {"energy", "forces", "stress"})


def with_later_parts(frozen: Frozen, name: str) -> GraphPESModel:
    """Our model with the settings and weights of one of mace-torch's."""
    settings, start = json.loads(frozen[f"{name}.settings"].item()), f"{name}.state."
    W = {
        key.removeprefix(start): torch.from_numpy(value)
        for key, value in frozen.items()
        if key.startswith(start)
    }
    energies = W["atomic_energies_fn.atomic_energies"].flatten() + W["scale_shift.shift"]
    symbols = [SYMBOLS[Z] for Z in settings["atomic_numbers"]]
    offset = FixedOffset(**dict(zip(symbols, energies.tolist(), strict=True)))
    convert = native_nonlinear_mace if is_nonlinear(settings) else native_mace
    return AdditionModel(mace=convert(settings, W, 0), offset=offset).eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["0b", "0b3", "omol"])
def test_later_parts_against_mace_torch(name: str, dtype: torch.dtype) -> None:
    """See make_mace_later.py."""
    frozen = dict(np.load(REFERENCES / "mace_later.npz"))
    model = with_later_parts(frozen, name).to(dtype)
    assert_agrees(model, of_model(frozen, name), {"energy", "forces", "stress"})


# --- graph-pes 1.0.2 ----------------------------------------------------------------------


def from_graph_pes_1(frozen: Frozen, name: str) -> GraphPESModel:
    """Our model with the weights of one of graph-pes 1's."""
    W = {
        key.removeprefix(f"{name}."): torch.from_numpy(value)
        for key, value in frozen.items()
        if key.startswith(f"{name}.") and ".structure." not in key
    }
    settings = {**settings_of(frozen)}
    elements = torch.from_numpy(frozen["elements"])
    if name == "embedding":
        del settings["elements"]
        mace = ZEmbeddingMACE(2, hidden_irreps="0e", layers=2, **settings).double()
        described = mace.representation.describe.embeddings.values
        described.data[elements] = W["node_attribute_generator.module._embeddings"]
    else:
        mace = MACE(**settings, hidden_irreps="0e + 1o", layers=3).double()
    with torch.no_grad():
        representation = mace.representation
        representation.embedding.embeddings.values[elements] = W[
            "initial_node_embedding._embeddings"
        ]
        representation.radial.frequencies.copy_(W["radial_expansion.components.0.frequencies"])
        mace.scaler.per_element_scaling.values[elements] = W["scaler.per_element_scaling"][:, 0]
        for n, layer in enumerate(representation.layers):
            copy_layer_of_graph_pes_1(layer, W, n)
        for n, read_out in enumerate(mace.read_outs):
            single = len(read_out.layers) == 1
            keys = (
                [f"readouts.{n}.weight"] if single else [f"readouts.{n}.{k}.weight" for k in (0, 2)]
            )
            for linear, key in zip(read_out.layers, keys, strict=True):
                linear.weights[0].copy_(W[key].view_as(linear.weights[0]))
    return mace.eval()


def copy_layer_of_graph_pes_1(layer: torch.nn.Module, W: Weights, n: int) -> None:
    interaction, at = layer.interaction, f"layers.{n}.interaction."
    copy_flat(interaction.pre_linear.weights, W[at + "pre_linear.weight"])
    copy_flat(interaction.post_linear.weights, W[at + "post_linear.weight"])
    interaction.aggregation.scale.copy_(W[at + "aggregator.scale"])
    *hidden, last = (W[f"{at}weight_generator.linear_layers.{k}.weight"] for k in range(3))
    if isinstance(interaction, Interaction):
        # Their paths are in the order of features, harmonics, result; ours have the result first.
        paths = interaction.product.paths.paths
        order = sorted(
            range(len(paths)),
            key=lambda k: (paths[k].source, paths[k].harmonic, paths[k].target),
        )
        last = last.unflatten(0, (len(paths), -1))[np.argsort(order)].flatten(0, 1)
    copy_radial(interaction.radial_network, [*hidden, last])
    copy_flat(layer.linear.weights, W[f"layers.{n}.post_linear.weight"])
    if layer.mixing is not None:
        copy_flat(layer.mixing.weights, W[at + "attribute_mixer.weight"])
    else:
        copy_flat(layer.residual.weights, W[f"layers.{n}.residual_update.weight"])
        # There, the linear map comes after the residual connection.
        for residual, linear in zip(layer.residual.weights, layer.linear.weights, strict=True):
            residual.copy_(residual @ linear / math.sqrt(len(linear)))
    exact = np.load(REFERENCES / "mace.npz")
    for target, (_, ir) in enumerate(layer.contraction.irreps_out):
        at = f"layers.{n}.contractions.{target}."
        for order, key in (
            (3, "initial_contraction"),
            (2, "weight_contractions.0"),
            (1, "weight_contractions.1"),
        ):
            U = torch.from_numpy(exact[f"U.{target}.{order}"]).movedim(-1, 0)
            U = U if target > 0 else U.unsqueeze(1)
            ours = in_our_couplings(W[f"{at}{key}.W"], U, layer.contraction, target, order)
            layer.contraction.weights[f"{ir}_{order}"].copy_(ours)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["elements", "embedding"])
def test_against_graph_pes_1(name: str, dtype: torch.dtype) -> None:
    """See make_graph_pes_1_mace.py."""
    frozen = dict(np.load(REFERENCES / "graph_pes_1_mace.npz"))
    model = from_graph_pes_1(frozen, name).to(dtype)
    assert_agrees(model, of_model(frozen, name), {"energy", "forces", "stress"})


# --- arguments ----------------------------------------------------------------------------

SMALL = {"channels": 2, "l_max": 1, "cutoff": 3.0, "weights_mlp": {"hidden_features": 4}}


def test_unknown_elements_are_named() -> None:
    model = MACE(["O", "H"], **SMALL)
    with pytest.raises(ValueError, match=r"contains C, but the model was made for .*'O', 'H'"):
        model.predict_energy(AtomicGraph.from_ase(molecule("CH3OH"), 3.0))


def test_order_of_elements() -> None:
    """Weights of an element are in the row of its position among the elements."""
    some, other = MACE(["O", "H", "C"], **SMALL), MACE(["H", "C", "O"], **SMALL)
    state = some.state_dict()
    for key, value in some.named_parameters():
        if value.dim() == 3 and value.shape[0] == 3:
            state[key] = value[[1, 2, 0]]
    state["representation.describe.index_of"] = other.state_dict()[
        "representation.describe.index_of"
    ]
    other.load_state_dict(state)
    graph = AtomicGraph.from_ase(molecule("CH3CH2OH"), 3.0)
    torch.testing.assert_close(some.predict_forces(graph), other.predict_forces(graph))


@pytest.mark.parametrize(
    "parts", [{}, {"aggregation": "density"}, {"distance_transform": "Agnesi"}], ids=str
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_few_and_many_elements(mode: str, parts: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a few elements, the first layer is computed in another way."""
    few = MACE(["O", "H", "C"], **SMALL, **parts).double()
    monkeypatch.setattr(mace_layers, "FEW_ELEMENTS", 2)
    many = MACE(["O", "H", "C"], **SMALL, **parts).double()
    many.load_state_dict(few.state_dict())
    graph = AtomicGraph.from_ase(molecule("CH3CH2OH"), 3.0, dtype=torch.float64)
    gradients = []
    for model in (few, many):
        forces = model.train(mode == "train").predict_forces(graph)
        gradients.append([forces])
        if mode == "train":
            parameters = [p for p in model.parameters() if p.requires_grad]
            gradients[-1] += torch.autograd.grad(
                (forces**2).sum(), parameters, allow_unused=True, materialize_grads=True
            )
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_weights_of_many_elements_are_looked_up(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elements = ["Si", "O", "N", "H", "C", "F", "Cl", "S", "P"]
    model = MACE(elements, **SMALL).double().train(mode == "train")
    graph = AtomicGraph.from_ase(molecule("CH3CH2OH"), 3.0, dtype=torch.float64)
    parameters = [p for p in model.parameters() if p.requires_grad]
    results = []
    for few in (len(elements) - 1, len(elements)):
        monkeypatch.setattr(mace_layers, "FEW_ATTRIBUTES", few)
        forces = model.predict_forces(graph)
        gradients = (
            torch.autograd.grad(
                (forces**2).sum(), parameters, allow_unused=True, materialize_grads=True
            )
            if mode == "train"
            else ()
        )
        results.append([forces, *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_last_layer_makes_scalars_only() -> None:
    model = MACE(["H"], hidden_irreps="0e + 1o", **SMALL)
    assert [str(irreps) for irreps in model.representation.irreps_out] == ["2x0e+2x1o", "2x0e"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_irreps": "1o"}, "expected scalars, '0e', among them, got '1o'"),
        ({"hidden_irreps": "8x0e + 8x1o"}, "without channels"),
        ({"hidden_irreps": ["0e", "0e"]}, "every irrep once"),
        ({"weights_mlp": {"depth": 2}}, "expected .*hidden_depth.* got .*depth"),
        ({"weights_mlp": {"activation": "Sigmoid"}}, "activation that is 0 at 0, got Sigmoid"),
        ({"layers": 0}, "expected at least one, got 0"),
        ({"correlation": 5}, "correlation of 1, 2, 3 or 4, got 5"),
        ({"readout_width": 0}, "readout_width: expected at least 1, got 0"),
        ({"l_max": -1}, r"degrees of at least 0 \(l_max\), got \[\]"),
        ({"channels": 0}, "at least one channel for each element, got 0"),
        ({"n_radial": 0}, "at least one radial function and a cutoff in Å, got 0 and 3.0"),
        ({"cutoff": 0.0}, "at least one radial function and a cutoff in Å, got 8 and 0.0"),
        ({"elements": "Si"}, "elements: expected a list of chemical symbols, got 'Si'"),
        ({"first_layer": "none"}, "expected 'mixing' or 'residual', got 'none'"),
        ({"aggregation": "dense"}, "Unknown neighbour aggregation mode 'dense'"),
        ({"distance_transform": "agnesi"}, r"one of \['Agnesi', 'Soft'\] or None, got 'agnesi'"),
        (
            {"weights_mlp": {"hidden_depth": 3, "hidden_features": [8, 4]}},
            r"expected hidden_depth=3 widths, got \[8, 4\]",
        ),
    ],
)
def test_errors(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MACE(**{"elements": ["H"], **SMALL, **arguments})


def test_irreps_may_be_listed() -> None:
    some, other = (MACE(["H"], hidden_irreps=irreps, **SMALL) for irreps in ("0e+1o", ["0e", "1o"]))
    assert [p.shape for p in some.parameters()] == [p.shape for p in other.parameters()]
