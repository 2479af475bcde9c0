"""The last layers of networks: what they read energies of atoms from, and committees of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, sum_per_structure
from graph_pes.nn.equivariant import EquivariantLinear
from graph_pes.nn.mace_nonlinear import PairNetwork
from graph_pes.nn.radial_network import RadialNetwork

from .base import GraphPESModel, GraphPropertyModel, in_precision_of
from .derivatives import Predictions


@dataclass(frozen=True)
class LayerCall:
    """What a linear layer was given for N atoms, and what it made of it.

    Attributes
    ----------
    features
        Numbers that the output is a weighted sum of, one of them 1 if there is a bias: (N, P).
    output
        Shape (N, 1), part of what the model computes.
    """

    features: Tensor
    output: Tensor


def last_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers of a model that have one output for each atom.

    Examples
    --------
    >>> from graph_pes.models import LennardJones, SchNet
    >>> last_layers(SchNet(layers=1, channels=4)), last_layers(LennardJones())
    (['read_out.linear_layers.1'], [])
    """
    # Those of edges are none.
    radial = tuple(
        f"{n}." for n, m in model.named_modules() if isinstance(m, RadialNetwork | PairNetwork)
    )
    names = [name for name, module in model.named_modules() if _n_outputs(module) == 1]
    return [name for name in names if not name.startswith(radial)]


def _n_outputs(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, EquivariantLinear) and str(module.irreps_out) == "1x0e":
        return 1
    return 0


@contextmanager
def recorded(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, LayerCall]]:
    """For the time of a block, note what layers are given and what they make of it."""
    calls: dict[str, LayerCall] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        blocks = output if isinstance(output, list) else [output]
        (u,) = blocks
        if torch.is_grad_enabled() and not u.requires_grad:
            u = u.detach().requires_grad_()
        calls[name] = LayerCall(features_of(module, inputs[0]), u)
        return [u] if isinstance(output, list) else u

    handles = []
    for name in layers:
        module = model.get_submodule(name)
        handles.append(module.register_forward_hook(lambda m, x, y, name=name: note(name, m, x, y)))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def features_of(layer: nn.Module, x: Any) -> Tensor:
    """The numbers (N, P) whose weighted sum a linear layer computes."""
    if isinstance(layer, EquivariantLinear):
        features = x[layer.sources[0]].flatten(1)
        return features / math.sqrt(features.shape[1])
    features = x.flatten(1)
    bias = cast(nn.Linear, layer).bias
    return features if bias is None else torch.cat([features, torch.ones_like(x[:, :1])], dim=1)


def weights_of(layer: nn.Module) -> Tensor:
    """The weights (P,) of `features_of` a linear layer."""
    if isinstance(layer, EquivariantLinear):
        return layer.weights[0].detach().flatten()
    linear = cast(nn.Linear, layer)
    parts = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
    return torch.cat([part.detach().flatten() for part in parts])


class LastLayerCommittee(GraphPESModel):
    r"""A committee whose members differ in the weights of the last layers only.

    The energies of atoms are linear in these weights w: the network is evaluated once, and the
    energy of atom i by member m is

    .. math::  e_{im} = e_i + s \sum_p \frac{\partial e_i}{\partial w_p} \delta_{mp}

    `last_layer_committee` draws the deviations :math:`\delta` from what training data leave
    open. The mean is what the model itself predicts. Properties and the factor s are those of
    `Committee`; uncertainties of energies cost next to nothing, and those of forces a backward
    pass through the network for each member.

    Parameters
    ----------
    model
        The model, in evaluation mode or not.
    members
        How many there are, M, at least two.
    layers
        Names of linear layers with one output for each atom; by default all there are.

    Raises
    ------
    ValueError
        If there are no such layers, fewer than two members, or forces are no derivatives.

    Examples
    --------
    >>> from graph_pes.models import SchNet
    >>> LastLayerCommittee(SchNet(layers=1, channels=4), members=8).layers
    ['read_out.linear_layers.1']
    """

    scale: Tensor

    def __init__(
        self, model: GraphPESModel, members: int = 16, layers: Sequence[str] | None = None
    ):
        known = last_layers(model)
        chosen = known if layers is None else list(layers)
        if wrong := [name for name in chosen if name not in known]:
            raise ValueError(
                f"LastLayerCommittee: {wrong} are no linear layers with one output for each atom: "
                f"expected some of {known}"
            )
        if not chosen or members < 2:
            raise ValueError(
                f"LastLayerCommittee: expected at least one last layer and two members, got "
                f"{chosen} of {type(model).__name__} and {members}"
            )
        if set(model.implemented_properties) != {"local_energies"}:
            raise ValueError(
                "LastLayerCommittee: expected a model that predicts local energies alone, got one "
                f"that predicts {model.implemented_properties}"
            )
        super().__init__(
            model.cutoff_value,
            ["local_energies", "local_energies_ensemble"],
            float(model.three_body_cutoff) or None,
        )
        self.model, self.layers = model, chosen
        self.register_float64_buffer("scale", torch.ones(()))
        for n, name in enumerate(self.layers):
            weights = weights_of(model.get_submodule(name))
            self.register_buffer(f"deviations_{n}", weights.new_zeros(members, len(weights)))
        self._has_been_pre_fit.fill_(bool(model._has_been_pre_fit))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,), and those of the members (N, M)."""
        energies, derivatives = derivatives_of_atoms(self.model, self.layers, graph)
        parts = [x @ d.T for x, d in zip(derivatives, self.deviations(), strict=True)]
        members = energies.unsqueeze(1) + self.scale * sum(parts).double()  # type: ignore[union-attr]
        return {"local_energies": energies, "local_energies_ensemble": members}

    def deviations(self) -> list[Tensor]:
        """Of the weights (M, P) of each layer from their mean, which is that of the model."""
        stored = [getattr(self, f"deviations_{n}") for n in range(len(self.layers))]
        return [d - d.mean(0) for d in stored]


def derivatives_of_atoms(
    model: GraphPESModel, layers: Sequence[str], graph: AtomicGraph
) -> tuple[Tensor, list[Tensor]]:
    """Local energies (N,), and their derivatives (N, P) by the weights of each layer."""
    with torch.enable_grad(), recorded(model, layers) as calls:
        energies = model(in_precision_of(model, graph))["local_energies"].double()
        outputs = [calls[name].output for name in layers]
        slopes = torch.autograd.grad(energies.sum(), outputs, create_graph=True)
    pairs = zip(layers, slopes, strict=True)
    return energies, [calls[name].features * slope.view(-1, 1) for name, slope in pairs]


def derivatives_of_structures(
    model: GraphPESModel, layers: Sequence[str], batch: AtomicGraph
) -> tuple[Tensor, Tensor]:
    """Energies (S,) of a batch, and derivatives (S, P) by the weights of all layers; detached."""
    energies, of_atoms = derivatives_of_atoms(model, layers, batch)
    sums = sum_per_structure(torch.cat(of_atoms, dim=1).detach().double(), batch)
    return sum_per_structure(energies.detach(), batch), sums


def check_linear(committee: LastLayerCommittee, graph: AtomicGraph) -> None:
    """Compare the first member with the model that has its weights.

    Raises
    ------
    ValueError
        If the energies of atoms are not linear in the weights of the layers.
    """
    model = copy.deepcopy(committee.model)
    with torch.no_grad():
        for name, deviations in zip(committee.layers, committee.deviations(), strict=True):
            layer = model.get_submodule(name)
            deviation = committee.scale * deviations[0]
            parts = [*layer.weights] if isinstance(layer, EquivariantLinear) else layer.parameters()
            for weight in parts:
                weight += deviation[: weight.numel()].view_as(weight)
                deviation = deviation[weight.numel() :]
        expected = model(in_precision_of(model, graph))["local_energies"].double()
        predictions = committee(in_precision_of(committee, graph))
    found = predictions["local_energies_ensemble"][:, 0]
    change = (expected - predictions["local_energies"]).abs().max()
    if (found - expected).abs().max() > 1e-3 * change + 1e-5 * expected.abs().max():
        raise ValueError(
            f"the energies of atoms are not linear in the weights of {committee.layers}: choose "
            "some of them, layers=[...], that nothing but a sum, or a factor, comes after"
        )


def mean_features(model: GraphPropertyModel, layers: Sequence[str], batch: AtomicGraph) -> Tensor:
    """Means over the atoms of each structure of what the last layers are given: shape (S, P)."""
    with torch.no_grad(), recorded(model, layers) as calls:
        _: Predictions = model(in_precision_of(model, batch))
    features = torch.cat([calls[name].features for name in layers], dim=1)
    counts = sum_per_structure(torch.ones_like(features[:, :1]), batch)
    return sum_per_structure(features, batch) / counts.clamp(min=1)
