"""Weights of mace-torch in our own `NonLinearMACE`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from graph_pes.models.nonlinear_mace import BiasedReadOut, NonLinearMACE
from graph_pes.nn.equivariant import SILU_GAIN
from graph_pes.nn.irreps import o3
from graph_pes.nn.mace_nonlinear import NonLinearInteraction, PairNetwork
from graph_pes.periodic_table import SYMBOLS

from .foreign import UnsupportedModelError, default_dtype
from .mace_weights import (
    Weights,
    check_repulsion,
    check_settings,
    copy_basis_and_scale,
    copy_elements,
    copy_flat,
    copy_product,
    copy_read_out,
)

INTERACTION = "RealAgnosticResidualNonLinearInteractionBlock"
#: What charges and spins of structures are called, in the order of their vectors.
STATES = ["total_charge", "total_spin"]


def is_nonlinear(settings: Mapping[str, Any]) -> bool:
    """Whether the sums over neighbours of any layer pass a gate."""
    return INTERACTION in (settings["interaction_cls_first"], settings["interaction_cls"])


def native_nonlinear_mace(settings: Mapping[str, Any], state: Weights, head: int) -> NonLinearMACE:
    """As `native_mace`, of a model with gates.

    Raises
    ------
    UnsupportedModelError
        If it has parts that our model does not have.
    """
    W = {key: tensor.double() for key, tensor in state.items()}
    _check(settings)
    check_repulsion(settings, W)
    hidden = o3().Irreps(settings["hidden_irreps"])
    transform, specs = settings["distance_transform"], settings["embedding_specs"] or {}
    states = [
        (-spec.get("offset", 0), spec["num_classes"], spec["emb_dim"]) for spec in specs.values()
    ]
    with default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        model = NonLinearMACE(
            elements=[SYMBOLS[Z] for Z in settings["atomic_numbers"]],
            cutoff=settings["r_max"],
            n_radial=settings["num_bessel"],
            radial_widths=list(settings["radial_MLP"] or [64, 64, 64]),
            channels=hidden[0].mul,
            hidden_irreps=[str(ir) for _, ir in hidden],
            sent_channels=_sent_channels(settings),
            l_max=settings["max_ell"],
            layers=settings["num_interactions"],
            correlation=settings["correlation"],
            readout_width=o3().Irreps(settings["MLP_irreps"]).dim,
            envelope_power=int(settings["num_polynomial_cutoff"]),
            distance_transform=None if transform == "None" else transform,
            core_repulsion=settings["pair_repulsion"],
            charges=states[0] if states else None,
            spins=states[1] if states else None,
            read_states=settings["use_embedding_readout"],
            every_layer=not settings["use_last_readout_only"],
            biased=settings["readout_cls"] == "NonLinearBiasReadoutBlock",
        )
    _copy_weights(model, settings, W, head)
    return model


def _check(settings: Mapping[str, Any]) -> None:
    """That our model is made of the same parts."""
    check_settings(
        settings,
        {
            "interaction_cls_first": [INTERACTION],
            "interaction_cls": [INTERACTION],
            "radial_type": ["bessel"],
            "distance_transform": ["None", "Agnesi", "Soft"],
            "apply_cutoff": [False],
            "use_so3": [False],
            "use_agnostic_product": [True],
            "readout_cls": ["NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"],
            "gate": ["silu"],
        },
    )
    specs = settings["embedding_specs"]
    kinds = [(spec["type"], spec["per"]) for spec in (specs or {}).values()]
    if specs is not None and (list(specs), kinds) != (STATES, [("categorical", "graph")] * 2):
        raise UnsupportedModelError(
            f"embedding_specs: expected categories of {STATES} of structures, got {specs}"
        )


def _sent_channels(settings: Mapping[str, Any]) -> tuple[int, int]:
    """How many channels neighbours send, in the first layer and in others."""
    hidden = o3().Irreps(settings["hidden_irreps"])
    sent = hidden if settings["edge_irreps"] is None else o3().Irreps(settings["edge_irreps"])
    if [ir for _, ir in sent] != [ir for _, ir in hidden] or len({mul for mul, _ in sent}) > 1:
        raise UnsupportedModelError(
            f"edge_irreps: expected those of {hidden}, as many channels of each, got {sent}"
        )
    first = sent if settings["use_edge_irreps_first"] else hidden
    return first[0].mul, sent[0].mul


@torch.no_grad()
def _copy_weights(model: NonLinearMACE, settings: Mapping[str, Any], W: Weights, head: int) -> None:
    """Copy all weights but the energies of atoms."""
    copy_basis_and_scale(model, settings, W, head)
    representation: Any = model.representation
    heads = len(settings["heads"])
    if representation.states is not None:
        for key in STATES:
            vectors = representation.states.vectors[key].weight
            vectors.copy_(W[f"joint_embedding.embedders.{key}.weight"])
        representation.states.linear.weight.copy_(W["joint_embedding.project.0.weight"])
    for n, layer in enumerate(representation.layers):
        _copy_interaction(layer.interaction, W, f"interactions.{n}.", settings["atomic_numbers"])
        copy_flat(layer.residual.weights, W[f"interactions.{n}.skip_tp.weight"])
        copy_product(layer, W, n)
    for n, read_out in enumerate(model.read_outs):
        copy = _copy_biased if isinstance(read_out, BiasedReadOut) else copy_read_out
        copy(read_out, W, f"readouts.{n}.", head, heads)
    if model.state_read_out is not None:
        copy_read_out(model.state_read_out, W, "embedding_readout.", head, heads)


def _copy_interaction(
    interaction: NonLinearInteraction, W: Weights, at: str, numbers: list[int]
) -> None:
    copy_elements(interaction.of_neighbour, W[f"{at}source_embedding.weight"], numbers)
    copy_elements(interaction.of_centre, W[f"{at}target_embedding.weight"], numbers)
    copy_flat(interaction.pre_linear.weights, W[f"{at}linear_up.weight"])
    copy_flat(interaction.of_sums.weights, W[f"{at}linear_1.weight"])
    copy_flat(interaction.of_atom.weights, W[f"{at}linear_res.weight"])
    copy_flat(interaction.post_linear.weights, W[f"{at}linear_2.weight"])
    _copy_network(interaction.radial_network, W, f"{at}conv_tp_weights.net.")
    _copy_network(interaction.density_network, W, f"{at}density_fn.net.")
    interaction.alpha.copy_(W[f"{at}alpha"])
    interaction.beta.copy_(W[f"{at}beta"])


def _copy_network(network: PairNetwork, W: Weights, at: str) -> None:
    """Linear layers and norms, each with an activation after it; the first has all inputs."""
    sizes = [network.of_basis.in_features, *[network.of_centre.in_features] * 2]
    parts = W[f"{at}0.weight"].split(sizes, dim=1)
    for linear, part in zip(
        (network.of_basis, network.of_neighbour, network.of_centre), parts, strict=True
    ):
        linear.weight.copy_(part)
    network.of_basis.bias.copy_(W[f"{at}0.bias"])
    places = {3 * n + 1: norm for n, norm in enumerate(network.norms)}
    linears = enumerate([*network.hidden, network.last], start=1)
    for n, module in (places | {3 * n: linear for n, linear in linears}).items():
        for name, parameter in module.named_parameters():
            parameter.copy_(W[f"{at}{n}.{name}"])


def _copy_biased(read_out: Any, W: Weights, at: str, head: int, heads: int) -> None:
    """Copy the weights of one head to a `BiasedReadOut`."""
    first, width = read_out.first.weights[0], read_out.second.in_features
    own = slice(head * width, (head + 1) * width)
    first.copy_(W[f"{at}linear_1.weight"].view(len(first), -1)[:, own])
    # Sums are normalised by the number of terms, those of other heads, which are 0, included.
    scale = SILU_GAIN / math.sqrt(heads * width)
    second = W[f"{at}linear_mid.weight"].view(heads * width, -1)[own, own]
    read_out.second.weight.copy_(second.T * scale)
    read_out.second.bias.copy_(W[f"{at}linear_mid.bias"][own])
    last = W[f"{at}linear_2.weight"].view(heads * width, -1)[own, head]
    read_out.last.weight.copy_(last.unsqueeze(0) * scale)
    read_out.last.bias.copy_(W[f"{at}linear_2.bias"][head : head + 1])
