from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.models import GraphPESModel
from graph_pes.models.nequip import NequIP, ZEmbeddingNequIP
from graph_pes.nn.equivariant import EquivariantBilinear, Gate
from graph_pes.nn.irreps import o3, parse_irreps
from graph_pes.nn.nequip_layers import Layer, parse_features
from tests.conformance.models import randomised

from .transplant import REFERENCES, Frozen, assert_agrees

ELEMENTS = [1, 6, 8, 14]

# --- weights of originals, which compute more than ours -----------------------------------


class Original:
    """A layer of an original: what it computes, and its weights for what ours computes.

    Parameters
    ----------
    irreps_in, irreps_out
        Of its features.
    edges
        Of the spherical harmonics.
    allowed
        Irreps of the messages.
    ours
        Our layer, all of whose irreps are among the above.
    """

    def __init__(self, irreps_in: str, irreps_out: str, edges: Any, allowed: Any, ours: Layer):
        self.irreps_in, self.ours = parse_irreps(irreps_in), ours
        gate = Gate(irreps_out)
        self.mixed = gate.irreps_in.sort().irreps
        self.paths = [
            (mul, a, b, c)
            for mul, a in self.irreps_in
            for _, b in edges
            for c in a * b
            if c in [ir for _, ir in allowed]
        ]
        self.sums = {
            str(ir): sum(mul for mul, *_, c in self.paths if c == ir)
            for ir in sorted({c for *_, c in self.paths})
        }
        # Gates follow the even scalars; those of irreps that we leave out are left out.
        n_scalars, starts = gate.sizes[0], {}
        start = n_scalars
        for mul, ir in gate.irreps_out:
            if ir.l > 0:
                starts[ir] = start
                start += mul
        self.kept = list(range(n_scalars)) if ours.irreps_out.count("0e") else []
        for mul, ir in ours.irreps_out:
            if ir.l > 0:
                self.kept += range(starts[ir], starts[ir] + mul)

    def columns(self, ir: Any) -> Any:
        return self.kept if ir == o3().Irrep("0e") else slice(None)

    def matrices(self, flat: np.ndarray, sources: dict[str, int], n: int = 1) -> dict[str, Any]:
        """Weights (n_in, n, n_out) of each irrep from those of a linear layer of e3nn."""
        found, start = {}, 0
        for ir, n_in in sources.items():
            n_out = self.mixed.count(ir)
            if n_out == 0:
                continue
            size = n_in * n * n_out
            found[ir] = flat[start : start + size].reshape(n_in, n, n_out)
            start += size
        assert start == len(flat)
        return found

    def ours_among(self, paths: list[Any], ir: Any = None) -> list[int]:
        """Where the channels of our paths, or of those to one irrep, are among those of some."""
        product, found = self.ours.product, []
        starts = np.cumsum([0] + [mul for mul, *_ in paths])
        names = [(a, b, c) for _, a, b, c in paths]
        for p in product.paths.paths:
            name = (
                product.irreps_in[p.source].ir,
                product.harmonics[p.harmonic].ir,
                product.irreps_out[p.target].ir,
            )
            if ir in (None, name[2]):
                start = starts[names.index(name)]
                found += range(start, start + p.channels)
        return found

    def path_columns(self) -> list[int]:
        """Where the weights of our paths are."""
        return self.ours_among(self.paths)

    def copy_linears(self, pre: np.ndarray, post: np.ndarray) -> None:
        start = 0
        for mul, ir in self.irreps_in:
            for n, (_, kept) in enumerate(self.ours.irreps_in):
                if kept == ir:
                    matrix = pre[start : start + mul * mul].reshape(mul, mul)
                    copy(self.ours.pre_linear.weights[n], matrix)
            start += mul * mul
        matrices = self.matrices(post, self.sums)
        linear = self.ours.post_linear
        for (_, ir), weight in zip(linear.irreps_out, linear.weights, strict=True):
            rows = self.ours_among([path for path in self.paths if path[3] == ir], ir)
            copy(weight, matrices[str(ir)][rows, 0][:, self.columns(ir)])

    def copy_self_interaction(self, flat: np.ndarray, n: int) -> None:
        matrices = self.matrices(flat, {str(ir): mul for mul, ir in self.irreps_in}, n)
        own = self.ours.self_interaction
        assert own is not None
        for (_, ir), weight in zip(own.irreps_out, own.weights, strict=True):
            matrix = matrices[str(ir)][..., self.columns(ir)]
            bilinear = isinstance(own, EquivariantBilinear)
            copy(weight, matrix.transpose(1, 0, 2) if bilinear else matrix[:, 0])


def copy(parameter: torch.Tensor, value: np.ndarray, rows: Any = ...) -> None:
    assert parameter.data[rows].numel() == value.size
    parameter.data[rows] = torch.from_numpy(np.ascontiguousarray(value)).view_as(
        parameter.data[rows]
    )


# --- graph-pes 1.0.2 ----------------------------------------------------------------------

VARIANTS = {
    "parities": lambda: NequIP(
        ["H", "C", "O", "Si"],
        cutoff=3.5,
        layers=4,
        features={"channels": [4, 3, 2], "l_max": 2, "use_odd_parity": True},
        radial_features=5,
    ),
    "linear": lambda: NequIP(
        ["H", "C", "O", "Si"],
        direct_force_predictions=True,
        cutoff=3.5,
        layers=2,
        features={"node_irreps": "4x0e + 3x1o + 2x2e", "edge_irreps": "0e + 1o + 2e + 3o"},
        self_interaction="linear",
        neighbour_aggregation="constant_fixed",
        radial_features=4,
    ),
    "embedded": lambda: ZEmbeddingNequIP(
        cutoff=3.5,
        Z_embed_dim=3,
        features={"channels": 4, "l_max": 1, "use_odd_parity": False},
        layers=3,
        prune_last_layer=False,
        neighbour_aggregation="mean",
        radial_features=4,
    ),
}


def with_weights_of_graph_pes_1(model: GraphPESModel, frozen: Frozen) -> GraphPESModel:
    weights = {k.removeprefix("weights."): v for k, v in frozen.items() if "weights." in k}
    model, representation = model.double(), model.representation
    copy(
        representation.embedding.embeddings.values,
        weights["initial_node_embedding._embeddings"],
        ELEMENTS,
    )
    if "Z_embedding._embeddings" in weights:
        copy(
            representation.attributes.embeddings.values,
            weights["Z_embedding._embeddings"],
            ELEMENTS,
        )
    copy(
        model.head.scaler.per_element_scaling.values,
        weights["scaler.per_element_scaling"],
        ELEMENTS,
    )
    copy(model.head.energies.weights[0], weights["energy_readout.weight"])
    if model.head.forces is not None:
        copy(model.head.forces.weights[0], weights["force_readout.weight"])
    nodes, edges = parse_features(model.constructor_arguments["features"])
    for n, layer in enumerate(representation.layers):
        of_layer = {
            k.removeprefix(f"layers.{n}."): v
            for k, v in weights.items()
            if k.startswith(f"layers.{n}.")
        }
        irreps = [str(frozen[f"{n}.{name}"]) for name in ("irreps_in", "irreps_out")]
        original = Original(*irreps, edges, nodes, layer)
        original.copy_linears(
            of_layer["pre_message_linear.weight"], of_layer["post_message_linear.weight"]
        )
        own = [v for k, v in of_layer.items() if "self_interaction" in k]
        original.copy_self_interaction(own[0], layer_attributes(layer))
        network = "weight_generator.components.0.1.linear_layers"
        for m, linear in enumerate(layer.weights.mlp.linear_layers):
            rows = original.path_columns() if m == 2 else ...
            copy(linear.weight, of_layer[f"{network}.{m}.weight"][rows])
            copy(linear.bias, of_layer[f"{network}.{m}.bias"][rows])
        if "aggregation.scale" in of_layer:
            copy(layer.aggregation.scale, of_layer["aggregation.scale"])
        copy(
            representation.radial.frequencies,
            of_layer["weight_generator.components.0.0.frequencies"],
        )
    return model.eval()


def layer_attributes(layer: Layer) -> int:
    own = layer.self_interaction
    return own.n_attributes if isinstance(own, EquivariantBilinear) else 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_against_graph_pes_1(variant: str, dtype: torch.dtype) -> None:
    """Predictions that graph-pes 1.0.2 gave: see make_graph_pes_1_nequip.py."""
    frozen = dict(np.load(REFERENCES / f"graph_pes_1_nequip_{variant}.npz"))
    model = with_weights_of_graph_pes_1(VARIANTS[variant](), frozen).to(dtype)
    keys = {"energy", "forces"} | ({"stress"} if variant != "linear" else set())
    assert_agrees(model, frozen, keys)


# --- arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"elements": ["H", "H"]}, "elements: expected each once"),
        ({"features": {"channels": 4}}, "features: expected the keys channels, l_max and"),
        (
            {"features": {"channels": [4, 4], "l_max": 2, "use_odd_parity": True}},
            "expected channels to be a number, or a list of l_max \\+ 1 = 3 numbers",
        ),
        ({"features": {"node_irreps": "4x1o", "edge_irreps": "0e"}}, "expected some 0e"),
        (
            {"features": {"channels": [4, 0], "l_max": 1, "use_odd_parity": True}},
            "expected positive numbers of channels",
        ),
        (
            {"features": {"node_irreps": "4x0e", "edge_irreps": "0e + 0o"}},
            "harmonics of even degree do not change under reflection",
        ),
        (
            {"features": {"node_irreps": "4x0e", "edge_irreps": "2x0e"}},
            "expected one channel of every edge irrep",
        ),
        (
            {
                "features": {"node_irreps": "4x0e", "edge_irreps": "0e + 1o"},
                "direct_force_predictions": True,
            },
            "the last of 3 layers has no 1o to read",
        ),
        ({"layers": 0}, "layers: expected at least one, got 0"),
        ({"self_interaction": "quadratic"}, "self_interaction: expected 'tensor_product'"),
        ({"weights_mlp": {"width": 4}}, "weights_mlp: expected some of .* got \\['width'\\]"),
        ({"weights_mlp": {"activation": "Sigmoid"}}, "activation that is 0 at 0, got Sigmoid"),
    ],
)
def test_impossible_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NequIP(**{"elements": ["H"], **arguments})


def test_only_what_is_needed_is_computed() -> None:
    """Three layers of both parities: pseudovectors can't come back to scalars in time."""
    model = NequIP(["H"], features={"channels": 4, "l_max": 1, "use_odd_parity": True}, layers=3)
    irreps = [str(layer.irreps_out) for layer in model.representation.layers]
    assert irreps == ["4x0e+4x1o", "4x0e+4x1o", "4x0e"]
    sums = [str(layer.product.irreps_out) for layer in model.representation.layers]
    assert sums == ["4x0e+4x1o", "8x0e+8x1o", "8x0e"]


@pytest.mark.parametrize("features", [{"channels": 4, "l_max": 2, "use_odd_parity": True}])
def test_sums_over_species_are_those_over_neighbours(features: dict[str, Any]) -> None:
    """The first layer in either way, which depends on the number of elements."""
    model = randomised(NequIP(["C", "O", "H"], cutoff=3.0, features=features, layers=2)).double()
    graph = AtomicGraph.from_ase(molecule("CH3OH"), 3.0, dtype=torch.float64)
    few = model.predict(graph, ["energy", "forces"])
    assert model.representation.species.tolist() == [6, 8, 1]
    model.representation.species = None
    for key, value in model.predict(graph, ["energy", "forces"]).items():
        torch.testing.assert_close(value, few[key], rtol=1e-10, atol=1e-10)
    assert NequIP(["H"] + list("CNOFPSIBKV")).representation.species is None


# --- nequip -------------------------------------------------------------------------------

ORIGINAL_FEATURES = {
    "parity": {"channels": [4, 3], "l_max": 1, "use_odd_parity": True},
    "natural": {"node_irreps": "4x0e + 3x1o + 2x2e", "edge_irreps": "0e + 1o + 2e"},
}
ORIGINAL_SETTINGS: dict[str, dict[str, Any]] = {
    "parity": {"layers": 4, "weights_mlp": {"hidden_features": 6}},
    "natural": {"layers": 3, "weights_mlp": {"hidden_depth": 2, "hidden_features": 5}},
}


def with_weights_of_nequip(variant: str, frozen: Frozen) -> NequIP:
    weights = {k.removeprefix("weights."): v for k, v in frozen.items() if "weights." in k}
    model = NequIP(
        ["H", "C", "O", "Si"],
        cutoff=3.5,
        features=ORIGINAL_FEATURES[variant],
        radial_features=5,
        neighbour_aggregation="constant_fixed",
        **ORIGINAL_SETTINGS[variant],
    ).double()
    representation = model.representation
    embedding = weights["type_embed.embed_module.weight"]
    copy(representation.embedding.embeddings.values, embedding, ELEMENTS)
    copy(model.head.energies.weights[0], weights["per_atom_energy_readout.mlp_module.mlp.0.weight"])
    copy(representation.radial.frequencies, np.arange(1, 6) * np.pi / 3.5)
    edges = parse_features(ORIGINAL_FEATURES[variant])[1]
    for n, layer in enumerate(representation.layers):
        start = f"layer{n}_convnet.conv."
        of_layer = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
        irreps = [str(frozen[f"{n}.{name}"]) for name in ("irreps_in", "irreps_out")]
        allowed = Gate(irreps[1]).irreps_in
        original = Original(*irreps, edges, allowed, layer)
        original.copy_linears(of_layer["linear_1.weight"], of_layer["linear_2.weight"])
        if n == 0:  # which has no self-interaction there
            for weight in layer.self_interaction.weights:
                weight.data.zero_()
        else:
            original.copy_self_interaction(of_layer["sc.weight"], embedding.shape[1])
            mix_attributes(layer, embedding)
        copy_network(layer, of_layer, original.path_columns())
        layer.aggregation.scale.data.fill_(7.3**0.5)
    return model.eval()


def mix_attributes(layer: Layer, embedding: np.ndarray) -> None:
    """Self-interactions of each element from those of each component of its embedding."""
    for weight in layer.self_interaction.weights:
        mixed = np.einsum("zv,vuw->zuw", embedding, weight.detach().numpy())
        copy(weight, mixed * (len(ELEMENTS) / embedding.shape[1]) ** 0.5)


def copy_network(layer: Layer, weights: Frozen, columns: list[int]) -> None:
    linears = layer.weights.mlp.linear_layers
    for m, linear in enumerate(linears):
        weight = weights[f"edge_mlp.mlp.{2 * m}.weight"]
        # Their Bessel functions have other factors; activations are followed by a gain.
        factor = (2 / 3.5) ** 0.5 if m == 0 else 2**0.5
        weight = weight * factor / len(weight) ** 0.5
        copy(linear.weight, (weight[:, columns] if m == len(linears) - 1 else weight).T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", ORIGINAL_FEATURES)
def test_against_nequip(variant: str, dtype: torch.dtype) -> None:
    """Predictions that the package nequip gave: see make_nequip.py."""
    frozen = dict(np.load(REFERENCES / f"nequip_{variant}.npz"))
    model = with_weights_of_nequip(variant, frozen).to(dtype)
    assert_agrees(model, frozen, {"energy", "forces", "stress"})
