"""Weights of Orb-v3 in our own implementation, which needs no orb-models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.models import Orb
from graph_pes.nn.mlp import MLP
from graph_pes.periodic_table import SYMBOLS

from . import foreign
from .foreign import UnsupportedModelError

#: Parts of a state that nothing here is predicted from, by how their names begin or end.
UNUSED_PARTS = ("model._decoder.", "grad_", "pair_repulsion_fn.")
UNUSED_BUFFERS = (".num_batches_tracked", "rbf_transform.r_max", "rbf_transform.prefactor")
#: Of the standard deviation of force components: a smaller mean of them is rounding.
NO_MEAN = 1e-6


class Weights:
    """Tensors of a state, in double precision, of which each is to be copied once."""

    def __init__(self, state: Mapping[str, Tensor]):
        self.left = {key: x.detach().cpu().double() for key, x in state.items() if _is_used(key)}

    def pop(self, name: str) -> Tensor:
        """The tensor of a name, which is not left then."""
        if name not in self.left:
            raise UnsupportedModelError(f"expected weights of Orb-v3, which have {name}")
        return self.left.pop(name)

    def copy(self, to: Tensor, *names: str) -> None:
        """Several tensors of equal shapes, one after the other, to one of ours."""
        for part, name in zip(to.chunk(len(names)), names, strict=True):
            value = self.pop(name)
            if part.shape != value.shape:
                raise UnsupportedModelError(
                    f"{name}: expected shape {tuple(part.shape)}, got {tuple(value.shape)}"
                )
            part.copy_(value)

    def layer(self, to: Any, name: str) -> None:
        """All parameters of a layer."""
        for kind, parameter in to.named_parameters():
            self.copy(parameter, f"{name}.{kind}")

    def mlp(self, to: MLP, name: str) -> None:
        """A perceptron."""
        for n, linear in enumerate(to.linear_layers):
            self.layer(linear, f"{name}.NN-{n}")

    def mlp_and_norm(self, mlp: MLP, norm: nn.Module, name: str) -> None:
        """A perceptron, and the normalisation that follows it."""
        self.mlp(mlp, f"{name}.mlp")
        self.layer(norm, f"{name}.layer_norm")

    def normaliser(self, name: str) -> tuple[float, float]:
        """Standard deviation and mean of what a head predicts."""
        mean, variance = (self.pop(f"heads.{name}.bn.running_{of}") for of in ("mean", "var"))
        return math.sqrt(variance.item()), mean.item()


def _is_used(key: str) -> bool:
    return not (key.startswith(UNUSED_PARTS) or key.endswith(UNUSED_BUFFERS))


def arguments_of(
    state: Mapping[str, Tensor],
    *,
    conservative: bool,
    stress: bool,
    max_neighbours: int,
    activation: str = "silu",
) -> dict[str, Any]:
    """Arguments of `Orb` that make a network of Orb-v3, as far as its state tells.

    Parameters
    ----------
    state
        Of a regressor of orb-models.
    conservative
        Whether forces are derivatives of the energy.
    stress
        Whether, in models that are not, the stress has a head.
    max_neighbours
        That messages go to.
    activation
        Of all perceptrons.

    Raises
    ------
    UnsupportedModelError
        If it is the state of something else.
    """

    def widths(name: str) -> list[int]:
        """Of the layers of a perceptron, from its input on."""
        layers = sum(key.startswith(f"{name}.NN-") for key in state) // 2
        shapes = [state[f"{name}.NN-{n}.weight"].shape for n in range(layers)]
        return [shapes[0][1], *(shape[0] for shape in shapes)]

    try:
        node, edge = (widths(f"model._encoder._{part}_fn.mlp") for part in ("node", "edge"))
        head = widths("heads.energy.mlp")
        radial = len(state["model.rbf_transform.bessel_weights"])
    except (IndexError, KeyError) as error:
        raise UnsupportedModelError(f"expected the weights of Orb-v3 ({error!r})") from error
    layer_norm = "model._encoder._node_fn.layer_norm.bias" in state
    stacks = [key.split(".")[2] for key in state if key.startswith("model.gnn_stacks.")]
    return {
        "cutoff": 6.0,
        "conservative": conservative,
        "channels": node[-1],
        "layers": len(set(stacks)),
        "radial_features": radial,
        "mlp_layers": len(node) - 2,
        "mlp_hidden_dim": node[1],
        "l_max": math.isqrt(edge[0] // radial) - 1,
        "activation": activation,
        "norm_type": "layer" if layer_norm else "rms",
        "max_neighbours": max_neighbours,
        "element_mlp": True,
        "read_out": {
            "layers": len(head) - 2,
            "hidden_dim": head[1],
            "activation": activation,
            "force_bias": True,
            "energy": "mean",
        },
        "direct_stress": stress and not conservative,
        "core_repulsion": "mean" if conservative else "sum",
        "charge_and_spin": "model.conditioner.charge_embedding.W" in state,
    }


@torch.no_grad()
def native_orb(
    state: Mapping[str, Tensor], arguments: Mapping[str, Any]
) -> tuple[Orb, dict[str, float]]:
    """Our `Orb` with the weights of orb-models, in double precision, and the energies of atoms.

    Parameters
    ----------
    state
        Of a regressor of orb-models. Heads that our model has not are left out.
    arguments
        Of `Orb`: see `arguments_of`.

    Returns
    -------
    tuple[Orb, dict[str, float]]
        The network, and energies of atoms in eV by chemical symbol, the mean of what the
        network predicts per atom included.

    Raises
    ------
    UnsupportedModelError
        If the weights are others than those of our model.
    """
    with foreign.default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        model = Orb(**arguments)
    heads = [f"heads.{kind}." for kind in ("energy", *model.implemented_properties)]
    own = {k: x for k, x in state.items() if not k.startswith("heads.") or k.startswith((*heads,))}
    weights = Weights(own)
    _copy_network(model, weights)
    std, mean = weights.normaliser("energy.normalizer")
    weights.mlp(model.energy_head, "heads.energy.mlp")
    energies = (weights.pop("heads.energy.reference.linear.weight").flatten() + mean).tolist()
    of_atoms = dict(zip(SYMBOLS[1:], energies[1:], strict=False))
    scaling = model.scaler.per_element_scaling
    scaling.values[1 : len(energies)] = std
    scaling.register_elements(range(1, len(energies)))
    _copy_direct_heads(model, weights)
    if weights.left:
        raise UnsupportedModelError(f"our Orb lacks {sorted(weights.left)[:5]} of this model")
    return model, of_atoms


def _copy_network(model: Orb, weights: Weights) -> None:
    """All between the elements and the heads."""
    weights.copy(model.embedding.embeddings.values, "model.atom_emb.embeddings.weight")
    weights.copy(model.edges.radial.frequencies, "model.rbf_transform.bessel_weights")
    mlp: Any = model.element_mlp
    weights.mlp_and_norm(mlp, model.element_norm, "model._encoder._node_fn")
    weights.mlp_and_norm(model.edges.mlp, model.edges.norm, "model._encoder._edge_fn")
    for n, module in enumerate(model.interactions):
        layer: Any = module
        at = f"model.gnn_stacks.{n}"
        for kind in ("weight", "bias"):
            logits = (f"{at}._{end}_attn.{kind}" for end in ("send", "receive"))
            weights.copy(getattr(layer.attention.logits, kind), *logits)
        weights.mlp_and_norm(layer.edge_mlp, layer.edge_norm, f"{at}._edge_mlp")
        weights.mlp_and_norm(layer.node_mlp, layer.node_norm, f"{at}._node_mlp")
        # There, what was received comes before what was sent.
        first = layer.node_mlp.first.weight
        of_atom, received, sent = first.chunk(3, dim=1)
        first.copy_(torch.cat([of_atom, sent, received], dim=1))
    if model.charge_and_spin is not None:
        conditioning = model.charge_and_spin
        weights.copy(conditioning.of_charge, "model.conditioner.charge_embedding.W")
        weights.copy(conditioning.of_spin, "model.conditioner.spin_embedding.W")
        for n, linear in enumerate(conditioning.linears):
            weights.layer(linear, f"model.gnn_stacks.{n}._cond_node_proj")


def _copy_direct_heads(model: Orb, weights: Weights) -> None:
    """Heads of forces and stress, whose last layers do what normalisers do there."""
    if model.force_head is not None:
        weights.mlp(model.force_head, "heads.forces.mlp")
        std, mean = weights.normaliser("forces.normalizer")
        if abs(mean) > NO_MEAN * std:
            raise UnsupportedModelError(
                f"forces with a net force: expected a mean of zero, got {mean} eV/Å per component"
            )
        _scale_last_layer(model.force_head, [std] * 3, [0.0] * 3)
    if model.stress_head is not None:
        weights.mlp(model.stress_head, "heads.stress.mlp")
        kinds = [weights.normaliser(f"stress.{kind}_normalizer") for kind in ("diag", "offdiag")]
        stds, means = zip(*(kind for kind in kinds for _ in range(3)), strict=True)
        _scale_last_layer(model.stress_head, stds, means)


def _scale_last_layer(mlp: MLP, std: Sequence[float], mean: Sequence[float]) -> None:
    last: Any = mlp.linear_layers[-1]
    scale = torch.tensor(std, dtype=torch.float64)
    last.weight.mul_(scale.unsqueeze(1))
    last.bias.mul_(scale).add_(torch.tensor(mean, dtype=torch.float64))
