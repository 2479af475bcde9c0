"""Weights of MatterSim in our own implementation, which needs no mattersim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.models import M3GNet
from graph_pes.nn.m3gnet_layers import GatedMLP
from graph_pes.nn.mlp import MLP
from graph_pes.periodic_table import SYMBOLS

from . import foreign
from .foreign import UnsupportedModelError

#: The settings of a network of MatterSim, without those of a device.
SETTINGS = ("num_blocks", "units", "max_l", "max_n", "cutoff", "max_z", "threebody_cutoff")
#: Constants, which our model computes for itself.
CONSTANTS = ("rbf.", "sbf.")


class Weights:
    """Tensors of a state, in double precision, of which each is to be copied once."""

    def __init__(self, state: Mapping[str, Tensor]):
        self.left = {
            key: x.detach().cpu().double()
            for key, x in state.items()
            if not key.startswith(CONSTANTS)
        }

    def pop(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of a name, which is not left then."""
        if name not in self.left:
            raise UnsupportedModelError(f"expected weights of MatterSim, which have {name}")
        value = self.left.pop(name)
        if value.shape != shape:
            raise UnsupportedModelError(
                f"{name}: expected shape {tuple(shape)}, got {tuple(value.shape)}"
            )
        return value

    def linear(self, to: Any, *names: str) -> None:
        """All parameters of a linear layer that is several of theirs, one after the other."""
        for kind, parameter in to.named_parameters():
            for part, name in zip(parameter.chunk(len(names)), names, strict=True):
                part.copy_(self.pop(f"{name}.linear.{kind}", part.shape))

    def gated(self, to: GatedMLP, name: str) -> None:
        """A gated perceptron."""
        self.linear(to.first, f"{name}.g.0", f"{name}.sigma.0")
        for kind, mlp in (("g", to.values), ("sigma", to.gates)):
            further: Any = mlp.linear_layers if isinstance(mlp, MLP) else []
            for n, linear in enumerate(further, start=1):
                self.linear(linear, f"{name}.{kind}.{n}")


def arguments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `M3GNet` that make a network of MatterSim of these settings.

    Raises
    ------
    UnsupportedModelError
        If our model has no such network.
    """
    if missing := [key for key in SETTINGS if key not in settings]:
        raise UnsupportedModelError(f"expected the settings of MatterSim, which have {missing}")
    if settings["max_n"] != settings["max_l"]:
        raise UnsupportedModelError(
            f"our M3GNet has no max_n={settings['max_n']} beside max_l={settings['max_l']}, where "
            "the degrees of radial and angular functions differ: use native=False"
        )
    if settings["threebody_cutoff"] > settings["cutoff"]:
        raise UnsupportedModelError(
            f"our M3GNet has no threebody_cutoff={settings['threebody_cutoff']} beyond the "
            f"cutoff={settings['cutoff']}, where energies jump: use native=False"
        )
    return {
        "cutoff": float(settings["cutoff"]),
        "three_body_cutoff": float(settings["threebody_cutoff"]),
        "channels": settings["units"],
        "layers": settings["num_blocks"],
        "radial_features": settings["max_n"],
        "l_max": settings["max_l"] - 1,
        "elements": list(SYMBOLS[1 : settings["max_z"] + 1]),
    }


@torch.no_grad()
def native_m3gnet(
    settings: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[M3GNet, dict[str, float]]:
    """Our `M3GNet` with the weights of MatterSim, in double precision, and the energies of atoms.

    Parameters
    ----------
    settings
        The arguments of its class.
    state
        Its state.

    Returns
    -------
    tuple[M3GNet, dict[str, float]]
        The network, and energies of atoms in eV by chemical symbol.

    Raises
    ------
    UnsupportedModelError
        If our model lacks something of it.
    """
    with foreign.default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        model = M3GNet(**arguments_of(settings))
    weights, max_z = Weights(state), settings["max_z"]
    channels = model.edge_encoder.out_features
    elements = weights.pop("atom_embedding.mlp.0.linear.weight", (channels, max_z + 1))
    embeddings = model.embedding.embeddings
    embeddings.values.zero_()
    # They have a column for the atomic number 0.
    embeddings.values[1 : max_z + 1] = elements.T[1:]
    embeddings.register_elements(range(1, max_z + 1))
    weights.linear(model.edge_encoder, "edge_encoder.mlp.0")
    for n, block in enumerate(model.blocks):
        _copy_block(block, weights, f"graph_conv.{n}")
    weights.gated(model.read_out, "final")
    scale, shift = (weights.pop(f"normalizer.{x}", (max_z + 1,)) for x in ("scale", "shift"))
    scaling = model.scaler.per_element_scaling
    scaling.values[1 : max_z + 1] = scale[1:]
    scaling.register_elements(range(1, max_z + 1))
    if weights.left:
        raise UnsupportedModelError(f"our M3GNet lacks {sorted(weights.left)[:5]} of this model")
    return model, dict(zip(SYMBOLS[1:], shift[1:].tolist(), strict=False))


def _copy_block(block: nn.Module, weights: Weights, name: str) -> None:
    to: Any = block
    weights.linear(to.three_body.gate, f"{name}.three_body.atom_mlp")
    weights.gated(to.three_body.update, f"{name}.three_body.edge_gate_mlp")
    weights.gated(to.edge_network, f"{name}.gated_mlp_edge")
    weights.gated(to.node_network, f"{name}.gated_mlp_atom")
    weights.linear(to.edge_weights, f"{name}.edge_layer_edge")
    weights.linear(to.node_weights, f"{name}.edge_layer_atom")
