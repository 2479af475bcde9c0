"""Weights of mace-torch in our own `MACE`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.models.mace import MACE
from graph_pes.nn.couplings import dense, symmetric_couplings
from graph_pes.nn.distance_transforms import TransformedExpansion
from graph_pes.nn.equivariant import SILU_GAIN
from graph_pes.nn.irreps import o3
from graph_pes.nn.mace_interactions import NeighbourDensity
from graph_pes.nn.screened_repulsion import (
    SCREENING_EXPONENT,
    SCREENING_FUNCTION,
    SCREENING_LENGTH,
)
from graph_pes.nn.symmetric_contraction import SymmetricContraction
from graph_pes.periodic_table import COVALENT_RADII, SYMBOLS

from .foreign import UnsupportedModelError, default_dtype

#: What our first layer does in place of each of theirs.
FIRST_LAYERS = {
    "RealAgnosticInteractionBlock": "mixing",
    "RealAgnosticResidualInteractionBlock": "residual",
    "RealAgnosticDensityInteractionBlock": "mixing",
    "RealAgnosticDensityResidualInteractionBlock": "residual",
}

Weights = Mapping[str, Tensor]


def native_mace(settings: Mapping[str, Any], state: Weights, head: int = 0) -> MACE:
    """Our model with the weights of a ``ScaleShiftMACE``, in double precision.

    Energies of atoms, and the shift that is added to them, are left out.

    Parameters
    ----------
    settings
        As ``mace.settings_of`` gives them.
    state
        Its state.
    head
        Which of its heads.

    Raises
    ------
    UnsupportedModelError
        If it has parts that our model does not have.
    """
    W = {key: tensor.double() for key, tensor in state.items()}
    _check(settings)
    check_repulsion(settings, W)
    hidden = o3().Irreps(settings["hidden_irreps"])
    transform = settings.get("distance_transform", "None")
    with default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        mace = MACE(
            elements=[SYMBOLS[Z] for Z in settings["atomic_numbers"]],
            cutoff=settings["r_max"],
            n_radial=settings["num_bessel"],
            envelope_power=int(settings["num_polynomial_cutoff"]),
            weights_mlp={"hidden_features": list(settings["radial_MLP"] or [64, 64, 64])},
            channels=hidden[0].mul,
            hidden_irreps=[str(ir) for _, ir in hidden],
            l_max=settings["max_ell"],
            layers=settings["num_interactions"],
            correlation=settings["correlation"],
            readout_width=o3().Irreps(settings["MLP_irreps"]).dim,
            first_layer=FIRST_LAYERS[settings["interaction_cls_first"]],  # type: ignore[arg-type]
            aggregation="density" if _has_density(settings) else "constant_fixed",
            distance_transform=None if transform == "None" else transform,
            core_repulsion=settings.get("pair_repulsion", False),
        )
    copy_weights(mace, settings, W, head)
    return mace


def _has_density(settings: Mapping[str, Any]) -> bool:
    """Whether sums over neighbours are divided by a density."""
    return "Density" in settings["interaction_cls_first"]


def _check(settings: Mapping[str, Any]) -> None:
    """That our model is made of the same parts."""
    check_settings(
        settings,
        {
            "interaction_cls_first": list(FIRST_LAYERS),
            "interaction_cls": [
                f"RealAgnostic{'Density' if _has_density(settings) else ''}ResidualInteractionBlock"
            ],
            "radial_type": ["bessel"],
            "distance_transform": ["None", "Agnesi", "Soft"],
            "apply_cutoff": [True],
            "use_so3": [False],
            "use_agnostic_product": [False],
            "use_last_readout_only": [False],
            "embedding_specs": [None],
            "edge_irreps": [None],
            "readout_cls": ["NonLinearReadoutBlock"],
            "gate": ["silu"],
        },
    )


def check_settings(settings: Mapping[str, Any], expected: Mapping[str, Sequence[Any]]) -> None:
    """That settings are among those that our model has, and that all irreps have C channels.

    Raises
    ------
    UnsupportedModelError
        If not.
    """
    for key, allowed in expected.items():
        if settings.get(key, allowed[0]) not in allowed:
            raise UnsupportedModelError(
                f"our MACE has no {key}={settings[key]!r}, only {allowed}: use native=False"
            )
    if len({mul for mul, _ in o3().Irreps(settings["hidden_irreps"])}) > 1:
        raise UnsupportedModelError(
            f"hidden_irreps: expected as many channels of each, got {settings['hidden_irreps']}"
        )


def check_repulsion(settings: Mapping[str, Any], W: Weights) -> None:
    """That the repulsion of nuclei, if there is one, is ours: it has no weights to copy."""
    if not settings.get("pair_repulsion", False):
        return
    longest = 2 * max(COVALENT_RADII[Z] for Z in settings["atomic_numbers"])
    if longest > settings["r_max"]:
        raise UnsupportedModelError(
            f"pair_repulsion: it is cut off at {settings['r_max']} Å, but goes on to {longest} Å"
        )
    expected = {
        "c": [c for c, _ in SCREENING_FUNCTION],
        "a_exp": SCREENING_EXPONENT,
        "a_prefactor": SCREENING_LENGTH / 0.529,
        "p": settings["num_polynomial_cutoff"],
    }
    for name, value in expected.items():
        found = W[f"pair_repulsion_fn.{name}"]
        if not torch.allclose(found, torch.tensor(value, dtype=found.dtype), rtol=1e-6, atol=0):
            raise UnsupportedModelError(
                f"pair_repulsion: expected {name} = {value}, got {found.tolist()}"
            )


@torch.no_grad()
def copy_weights(mace: MACE, settings: Mapping[str, Any], W: Weights, head: int) -> None:
    """Copy all weights but the energies of atoms; ours are in double precision, as are theirs."""
    copy_basis_and_scale(mace, settings, W, head)
    representation: Any = mace.representation
    for n, layer in enumerate(representation.layers):
        copy_layer(layer, W, n, settings["avg_num_neighbors"])
    for n, read_out in enumerate(mace.read_outs):
        copy_read_out(read_out, W, f"readouts.{n}.", head, len(settings["heads"]))


@torch.no_grad()
def copy_basis_and_scale(model: Any, settings: Mapping[str, Any], W: Weights, head: int) -> None:
    """Copy what comes before the layers, and the scale of local energies."""
    numbers, representation = settings["atomic_numbers"], model.representation
    copy_elements(representation.embedding, W["node_embedding.linear.weight"], numbers)
    # They are no parameters there.
    radial = representation.radial
    if isinstance(radial, TransformedExpansion):
        for name, constant in radial.transform.named_buffers():
            constant.copy_(W[f"radial_embedding.distance_transform.{name}"])
        radial = radial.expansion
    radial.frequencies.copy_(W["radial_embedding.bessel_fn.bessel_weights"])
    radial.frequencies.requires_grad_(False)
    scales = W["scale_shift.scale"].reshape(-1)
    model.scaler.per_element_scaling.values.fill_(scales[min(head, len(scales) - 1)])


@torch.no_grad()
def copy_elements(embedding: Any, flat: Tensor, numbers: Sequence[int]) -> None:
    """Copy a linear map of unit vectors to a `PerElementEmbedding`."""
    embedding.embeddings.values[numbers] = flat.view(len(numbers), -1) / math.sqrt(len(numbers))


@torch.no_grad()
def copy_read_out(read_out: Any, W: Weights, at: str, head: int, heads: int) -> None:
    """Copy the weights of one head to a `ReadOut`."""
    if len(read_out.layers) == 1:
        (linear,) = read_out.layers
        linear.weights[0].copy_(W[f"{at}linear.weight"].view(-1, heads)[:, head : head + 1])
        return
    first, last = (linear.weights[0] for linear in read_out.layers)
    width = first.shape[1]
    own = slice(head * width, (head + 1) * width)
    first.copy_(W[f"{at}linear_1.weight"].view(len(first), -1)[:, own])
    # Sums are normalised by the number of terms, those of other heads, which are 0, included.
    of_head = W[f"{at}linear_2.weight"].view(-1, heads)[own, head : head + 1]
    last.copy_(of_head * (SILU_GAIN / math.sqrt(heads)))


@torch.no_grad()
def copy_layer(layer: Any, W: Weights, n: int, neighbours: float) -> None:
    """Copy the weights of interaction and product number n to a `MACELayer`."""
    interaction, at = layer.interaction, f"interactions.{n}."
    copy_flat(interaction.pre_linear.weights, W[f"{at}linear_up.weight"])
    copy_flat(interaction.post_linear.weights, W[f"{at}linear.weight"])
    copy_radial_network(interaction.radial_network, W, f"{at}conv_tp_weights.")
    if isinstance(interaction.aggregation, NeighbourDensity):
        copy_radial_network(interaction.aggregation.radial_network, W, f"{at}density_fn.")
    else:
        interaction.aggregation.scale.fill_(neighbours)
    mixed = layer.mixing if layer.mixing is not None else layer.residual
    copy_flat(mixed.weights, W[f"{at}skip_tp.weight"])
    copy_product(layer, W, n)


@torch.no_grad()
def copy_product(layer: Any, W: Weights, n: int) -> None:
    """Copy the weights of product number n to a `MACELayer`."""
    copy_flat(layer.linear.weights, W[f"products.{n}.linear.weight"])
    contraction = layer.contraction
    for target, (_, ir) in enumerate(contraction.irreps_out):
        at = f"products.{n}.symmetric_contractions.contractions.{target}."
        # The highest order comes first.
        for order in range(1, contraction.correlation + 1):
            below = contraction.correlation - order
            key = "weights_max" if below == 0 else f"weights.{below - 1}"
            U = W[f"{at}U_matrix_{order}"].movedim(-1, 0)
            U = U if ir.l > 0 else U.unsqueeze(1)
            ours = in_our_couplings(W[at + key], U, contraction, target, order)
            contraction.weights[f"{ir}_{order}"].copy_(ours)


@torch.no_grad()
def copy_radial_network(network: Any, W: Weights, at: str) -> None:
    """Copy the weights of a `RadialNetwork`."""
    for k, linear in enumerate(network.mlp.linear_layers):
        matrix = W[f"{at}layer{k}.weight"]
        gain = SILU_GAIN if k > 0 else 1.0
        linear.weight.copy_(matrix.T * (gain / math.sqrt(len(matrix))))


@torch.no_grad()
def copy_flat(parameters: nn.ParameterList, flat: Tensor) -> None:
    """Matrices one after the other; those with a first dimension for attributes have it second."""
    parts = flat.flatten().split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        if parameter.dim() == 3:
            n, C, D = parameter.shape
            parameter.copy_(part.view(C, n, D).transpose(0, 1))
        else:
            parameter.copy_(part.view_as(parameter))


def in_our_couplings(
    W: Tensor, U: Tensor, contraction: SymmetricContraction, target: int, order: int
) -> Tensor:
    """From weights (attributes, paths, C) of couplings U to those of ours.

    Parameters
    ----------
    W, U
        Weights, and couplings of shape (paths, 2L + 1, d, ..., d).
    contraction
        That is to have the weights.
    target, order
        Which of its results, and of which order.

    Raises
    ------
    UnsupportedModelError
        If there are couplings that we do not have.
    """
    irreps = o3().Irreps([(1, ir) for _, ir in contraction.irreps_in])
    ir = contraction.irreps_out[target].ir
    ours = dense(symmetric_couplings(irreps, ir, order), irreps).flatten(2)
    theirs = symmetrised(U).flatten(2)
    M = torch.einsum("pma,qma->pq", theirs, ours) / ir.dim
    rebuilt = torch.einsum("pq,qma->pma", M, ours)
    # Files in single precision have couplings in single precision.
    if (rebuilt - theirs).abs().max() > 1e-5 * theirs.abs().max():
        raise UnsupportedModelError(f"couplings of order {order} to {ir} are not ours")
    return torch.einsum("apc,pq->aqc", W, M)


def symmetrised(U: Tensor) -> Tensor:
    """The part of couplings (paths, 2L + 1, d, ..., d) that counts."""
    orders = list(itertools.permutations(range(U.dim() - 2)))
    return sum(
        (U.permute(0, 1, *(2 + n for n in order)) for order in orders), torch.zeros_like(U)
    ) / len(orders)
