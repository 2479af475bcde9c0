"""Weights of metatrain's PET in our own implementation, which needs no metatrain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.models import PET
from graph_pes.nn.mlp import MLP
from graph_pes.nn.pet_layers import CartesianTransformer, GatedPerceptron, TransformerLayer
from graph_pes.periodic_table import SYMBOLS

from . import foreign
from .foreign import UnsupportedModelError

#: Names of our own for what may be chosen, by the name of the setting.
CHOICES: dict[str, dict[str, str]] = {
    "normalization": {"RMSNorm": "rms", "LayerNorm": "layer"},
    "activation": {"SwiGLU": "SwiGLU", "SiLU": "SiLU"},
    "transformer_type": {"PreLN": "pre", "PostLN": "post"},
    "featurizer_type": {"feedforward": "feedforward", "residual": "residual"},
    "cutoff_function": {"Bump": "bump", "Cosine": "cosine"},
    "adaptive_cutoff_method": {"solver": "solver", "grid": "grid"},
}


def arguments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `PET` that make a network of metatrain.

    Parameters
    ----------
    settings
        As `graph_pes.interfaces.upet.settings_of` gives them.

    Raises
    ------
    UnsupportedModelError
        Naming the setting that our model does not have.
    """
    hypers = settings["hypers"]

    def choice(name: str) -> str:
        # As there, whatever the case of the letters.
        known = {key.lower(): value for key, value in CHOICES[name].items()}
        if str(hypers[name]).lower() not in known:
            raise UnsupportedModelError(
                f"our PET has no {name}={hypers[name]!r}, only {[*CHOICES[name]]}: use native=False"
            )
        return known[hypers[name].lower()]

    adaptive = None
    if hypers["num_neighbors_adaptive"] is not None:
        adaptive = {
            "neighbours": float(hypers["num_neighbors_adaptive"]),
            "width": float(hypers["cutoff_width_adaptive"]),
            "method": choice("adaptive_cutoff_method"),
        }
    states = None
    if hypers["system_conditioning"]:
        states = (hypers["max_charge"], hypers["max_spin_multiplicity"])
    return {
        "elements": [SYMBOLS[Z] for Z in settings["atomic_types"]],
        "cutoff": float(hypers["cutoff"]),
        "channels": hypers["d_pet"],
        "node_channels": hypers["d_node"],
        "transformers": hypers["num_gnn_layers"],
        "layers": hypers["num_attention_layers"],
        "heads": hypers["num_heads"],
        "hidden_channels": hypers["d_feedforward"],
        "head_channels": hypers["d_head"],
        "norm_type": choice("normalization"),
        "activation": choice("activation"),
        "order": choice("transformer_type"),
        "featurizer": choice("featurizer_type"),
        "temperature": float(hypers["attention_temperature"]),
        "envelope": choice("cutoff_function"),
        "envelope_width": float(hypers["cutoff_width"]),
        "adaptive_cutoff": adaptive,
        "charge_and_spin": states,
    }


@torch.no_grad()
def native_pet(settings: Mapping[str, Any], state: Mapping[str, Tensor], scales: Tensor) -> PET:
    """Our `PET` with the weights of metatrain's, in double precision.

    Parameters
    ----------
    settings
        As `graph_pes.interfaces.upet.settings_of` gives them.
    state
        Of the network, with the heads of one target.
    scales
        Of the energies, one for each element or for all.

    Raises
    ------
    UnsupportedModelError
        If it has parts that our model does not have, or the other way round.
    """
    arguments, target, shapes = arguments_of(settings), settings["target"], settings["shapes"]
    if [math.prod(shape) for shape in shapes.values()] != [1]:
        raise UnsupportedModelError(f"{target}: expected one number per atom, got shapes {shapes}")
    with foreign.default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        model = PET(**arguments)
    weights = Weights(state)
    weights.pop("species_to_species_index")
    for n, embedding in enumerate(model.node_embeddings):
        weights.layer(embedding, f"node_embedders.{n}")
    weights.layer(model.edge_embedding, "edge_embedder")
    for n, transformer in enumerate(model.transformers):
        weights.transformer(transformer, f"gnn_layers.{n}")
    for n, module in enumerate(model.combinations):
        combination: Any = module
        weights.layer(combination.norm, f"combination_norms.{n}")
        weights.mlp(combination.mlp, f"combination_mlps.{n}")
    if (states := model.charge_and_spin) is not None:
        name = "system_conditioning"
        weights.layer(states.charges, f"{name}.charge_embedding")
        weights.layer(states.spins, f"{name}.spin_multiplicity_embedding")
        weights.mlp(states.mlp, f"{name}.project")
    (key,) = shapes
    for kind, heads in (("node", model.node_heads), ("edge", model.edge_heads)):
        for n, head in enumerate(heads):
            hidden, last = (f"{kind}_{part}.{target}.{n}" for part in ("heads", "last_layers"))
            weights.head(head, hidden, f"{last}.{key}")
    if weights.left:
        raise UnsupportedModelError(f"our PET lacks {sorted(weights.left)[:5]} of this model")
    scaling = model.scaler.per_element_scaling
    scaling.values[settings["atomic_types"]] = scales.double()
    scaling.register_elements(settings["atomic_types"])
    return model


class Weights:
    """Tensors of a state, in double precision, of which each is to be copied once."""

    def __init__(self, state: Mapping[str, Tensor]):
        self.left = {key: x.detach().cpu().double() for key, x in state.items()}

    def pop(self, name: str) -> Tensor:
        """The tensor of a name, which is not left then."""
        if name not in self.left:
            raise UnsupportedModelError(f"expected weights of a PET, which have {name}")
        return self.left.pop(name)

    def copy(self, to: Tensor, value: Tensor, name: str) -> None:
        """A tensor of the same shape."""
        if to.shape != value.shape:
            raise UnsupportedModelError(
                f"{name}: expected shape {tuple(to.shape)}, got {tuple(value.shape)}"
            )
        to.copy_(value)

    def layer(self, to: nn.Module, name: str) -> None:
        """All parameters of a layer."""
        for kind, parameter in to.named_parameters(recurse=False):
            self.copy(parameter, self.pop(f"{name}.{kind}"), f"{name}.{kind}")

    def mlp(self, to: MLP, name: str) -> None:
        """A perceptron, with activations in between."""
        for n, linear in enumerate(to.linear_layers):
            self.layer(linear, f"{name}.{2 * n}")

    def head(self, to: nn.Module, name: str, last: str) -> None:
        """A read-out, whose last layer is elsewhere."""
        assert isinstance(to, MLP)
        *hidden, linear = to.linear_layers
        for n, layer in enumerate(hidden):
            self.layer(layer, f"{name}.{2 * n}")
        self.layer(linear, last)

    def perceptron(self, to: nn.Module, name: str) -> None:
        """One of a transformer."""
        if isinstance(to, GatedPerceptron):
            layers: list[nn.Module] = [to.first, to.last]
        else:
            assert isinstance(to, MLP)
            layers = list(to.linear_layers)
        for layer, kind in zip(layers, ("w_in", "w_out"), strict=True):
            self.layer(layer, f"{name}.{kind}")

    def transformer(self, to: Any, name: str) -> None:
        """All between messages and messages."""
        assert isinstance(to, CartesianTransformer)
        # Linear maps in front of a linear map are multiplied into it.
        geometry, bias = (self.pop(f"{name}.edge_embedder.{kind}") for kind in ("weight", "bias"))
        first, *others = self.pop(f"{name}.compress.0.weight").split(len(bias), dim=1)
        self.copy(to.geometry.weight, first @ geometry, f"{name}.compress.0")
        to.geometry.bias.copy_(first @ bias + self.pop(f"{name}.compress.0.bias"))
        if to.elements is not None:
            of_elements, *others = others
            vectors = self.pop(f"{name}.neighbor_embedder.weight")
            self.copy(to.elements.weight, vectors @ of_elements.T, f"{name}.neighbor_embedder")
        (of_messages,) = others
        self.copy(to.messages.weight, of_messages, f"{name}.compress.0")
        self.layer(to.last, f"{name}.compress.2")
        for n, layer in enumerate(to.layers):
            self.transformer_layer(layer, f"{name}.trans.layers.{n}")

    def transformer_layer(self, to: Any, name: str) -> None:
        """Attention and perceptrons."""
        assert isinstance(to, TransformerLayer)
        self.layer(to.attention.first, f"{name}.attention.input_linear")
        self.layer(to.attention.last, f"{name}.attention.output_linear")
        self.layer(to.norm_attention, f"{name}.norm_attention")
        self.layer(to.norm_mlp, f"{name}.norm_mlp")
        self.perceptron(to.mlp, f"{name}.mlp")
        if to.node is not None:
            self.layer(to.node.contraction, f"{name}.center_contraction")
            self.layer(to.node.expansion, f"{name}.center_expansion")
            self.layer(to.node.norm, f"{name}.norm_center_features")
            self.perceptron(to.node.mlp, f"{name}.center_mlp")
