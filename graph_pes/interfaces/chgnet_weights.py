"""Weights of CHGNet in our own implementation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.models import CHGNet
from graph_pes.nn.chgnet_layers import GatedMLP

from . import foreign
from .foreign import UnsupportedModelError

#: What `CHGNet` has of the arguments of chgnet's class, besides those of `arguments_of`.
_SUPPORTED: dict[str, Any] = {
    "update_bond": True,
    "update_angle": True,
    "angle_layer_hidden_dim": 0,
    "mlp_first": True,
    "is_intensive": True,
    "non_linearity": "silu",
    "learnable_rbf": True,
    "gMLP_norm": "layer",
    "readout_norm": "layer",
    "conv_norm": None,
    "mlp_out_bias": False,
    "final_mlp": "MLP",
}


def arguments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `CHGNet` that make a network of chgnet.

    Parameters
    ----------
    settings
        The arguments of chgnet's class; those that are not given have its defaults.

    Raises
    ------
    UnsupportedModelError
        If some are not possible here.
    """
    for key, supported in _SUPPORTED.items():
        if settings.get(key, supported) != supported:
            raise UnsupportedModelError(
                f"our CHGNet has no {key}={settings[key]!r}, only {supported!r}: use native=False"
            )
    if settings["n_conv"] < 2:
        raise UnsupportedModelError(
            "our CHGNet has magnetic moments from n_conv=2 on, got n_conv=1"
        )
    return {
        "cutoff": settings["atom_graph_cutoff"],
        "bond_cutoff": settings["bond_graph_cutoff"],
        "channels": _same(settings, "atom_fea_dim", "bond_fea_dim", "angle_fea_dim"),
        "layers": settings["n_conv"],
        "radial_features": settings["num_radial"],
        "angular_features": settings["num_angular"],
        "hidden_channels": _same(settings, "atom_conv_hidden_dim", "bond_conv_hidden_dim"),
        "read_out_layers": settings["mlp_hidden_dims"],
        "envelope_power": settings["cutoff_coeff"],
        "magnetic_moments": True,
    }


def _same(settings: Mapping[str, Any], *keys: str) -> Any:
    """The value that several settings have in common."""
    values = [settings[key] for key in keys]
    if any(value != values[0] for value in values):
        raise UnsupportedModelError(
            f"our CHGNet has one value of {', '.join(keys)}, got {values}: use native=False"
        )
    return values[0]


def native_chgnet(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> CHGNet:
    """Our `CHGNet` with the weights of chgnet's, in double precision.

    Parameters
    ----------
    settings
        The arguments of its class.
    state
        Its state, without the energies of the atoms.

    Raises
    ------
    UnsupportedModelError
        If it has parts that our model does not have.
    """
    arguments = arguments_of(settings)
    with foreign.default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        model = CHGNet(**arguments)
    unused = f"angle_layers.{arguments['layers'] - 2}."  # nothing reads the last angles
    W = {key: x.double() for key, x in state.items() if not key.startswith(unused)}
    _copy(model, W)
    if W:
        raise UnsupportedModelError(f"our CHGNet lacks {sorted(W)[:5]}: use native=False")
    return model


@torch.no_grad()
def _copy(model: CHGNet, W: dict[str, Tensor]) -> None:
    """Copy all weights, which are not left in the state then."""
    assert model.moments is not None
    elements = W.pop("atom_embedding.embedding.weight")
    model.embedding.embeddings.values[1 : len(elements) + 1] = elements
    model.embedding.embeddings.register_elements(range(1, len(elements) + 1))
    for radial, name in zip(model.radial, ("rbf_expansion_ag", "rbf_expansion_bg"), strict=True):
        frequencies = W.pop(f"bond_basis_expansion.{name}.frequencies")
        radial.frequencies.copy_(frequencies / radial.cutoff)  # type: ignore[operator]
    model.angular.frequencies.copy_(W.pop("angle_basis_expansion.fourier_expansion.frequencies"))
    for layer, name in (
        (model.edge_embedding, "bond_embedding"),
        (model.edge_weights, "bond_weights_ag"),
        (model.bond_weights, "bond_weights_bg"),
        (model.angle_embedding, "angle_embedding"),
        (model.read_out_norm, "readout_norm"),
        (model.moments, "site_wise"),
    ):
        _copy_layer(layer, W, name)
    for n, module in enumerate(model.atom_convolutions):
        _copy_convolution(module, W, f"atom_conv_layers.{n}", "twoBody_atom")
    for n, module in enumerate(model.bond_convolutions):
        _copy_convolution(module, W, f"bond_conv_layers.{n}", "twoBody_bond")
    for n, module in enumerate(model.angle_updates):
        _copy_gated(module.mlp, W, f"angle_layers.{n}.twoBody_bond")  # type: ignore[arg-type]
    *hidden, last = model.read_out.linear_layers
    for n, linear in enumerate(hidden):
        _copy_layer(linear, W, f"mlp.layers.{2 * n}")
    _copy_layer(last, W, f"mlp.layers.{2 * len(hidden) + 1}")  # after a dropout


def _copy_layer(layer: nn.Module, W: dict[str, Tensor], name: str) -> None:
    for kind, parameter in layer.named_parameters():
        parameter.copy_(W.pop(f"{name}.{kind}"))


def _copy_convolution(module: Any, W: dict[str, Tensor], name: str, mlp: str) -> None:
    _copy_gated(module.mlp, W, f"{name}.{mlp}")
    _copy_layer(module.mix, W, f"{name}.mlp_out.layers.1")


def _copy_gated(mlp: GatedMLP, W: dict[str, Tensor], name: str) -> None:
    """There, the perceptron and its gate are separate, and dropouts come before last layers."""
    names = [f"{name}.mlp_core.layers", f"{name}.mlp_gate.layers"]
    first = 0 if len(mlp.second) > 0 else 1
    for kind, parameter in mlp.first.named_parameters():
        parameter.copy_(torch.cat([W.pop(f"{x}.{first}.{kind}") for x in names]))
    for layer, x in zip(mlp.second, names, strict=False):
        _copy_layer(layer, W, f"{x}.3")
    for norm, x in zip(mlp.norms, ("bn1", "bn2"), strict=True):
        _copy_layer(norm, W, f"{name}.{x}")
