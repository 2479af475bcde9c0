r"""Networks from distances to the weights of messages.

Each gives the weights :math:`w(r)` of every edge in two factors, :math:`w = \phi V`, of which
:math:`\phi(r)`, of shape (E, Q), vanishes at the cutoff: whoever uses the weights multiplies
them out where they are needed (`NeighbourTensorProduct`), as they are many. Q is ``n_factors``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .mlp import MLP, parse_activation


def _linear_layers(mlp: MLP) -> list[nn.Linear]:
    return [layer for layer in mlp.linear_layers if isinstance(layer, nn.Linear)]


class DampedRadialNetwork(nn.Module):
    r"""An MLP with biases of the radial basis, times the envelope: :math:`w = c f(r) \, n(b(r))`.

    Parameters
    ----------
    layers
        Widths, from the radial basis to the weights.
    activation
        Between the layers.
    scale
        c.
    """

    def __init__(self, layers: Sequence[int], activation: str = "SiLU", scale: float = 1.0):
        super().__init__()
        self.mlp, self.scale = MLP(layers, activation), scale
        self.n_factors = layers[-2] + 1

    def forward(self, basis: Tensor, envelope: Tensor) -> tuple[Tensor, Tensor]:
        """From the basis (E, B) and envelope (E, 1) to the factors (E, Q) and (Q, weights)."""
        *hidden, last = _linear_layers(self.mlp)
        for linear in hidden:
            basis = self.mlp.activation(linear(basis))
        # The envelope itself multiplies the bias.
        V = torch.cat([last.weight, last.bias.unsqueeze(1)], dim=1).T
        return torch.cat([basis * envelope, envelope], dim=1), V * self.scale


class RadialNetwork(nn.Module):
    r"""An MLP without biases of the enveloped radial basis: :math:`w = n(f(r) \, b(r))`.

    It keeps zeros, so that messages end at the cutoff.

    Parameters
    ----------
    layers
        Widths, from the radial basis to the weights.
    activation
        Between the layers.

    Raises
    ------
    ValueError
        If the activation is not 0 at 0.
    """

    def __init__(self, layers: Sequence[int], activation: str = "SiLU"):
        super().__init__()
        if parse_activation(activation)(torch.zeros(1)).item() != 0:
            raise ValueError(f"expected an activation that is 0 at 0, got {activation}")
        self.mlp = MLP(layers, activation, bias=False)
        self.n_factors = layers[-2]
        for n, linear in enumerate(_linear_layers(self.mlp)):
            # Unit variance throughout; about half of it passes an activation.
            gain = 1.0 if n == 0 else math.sqrt(2)
            nn.init.normal_(linear.weight, std=gain / math.sqrt(linear.in_features))

    def forward(self, basis: Tensor, envelope: Tensor) -> tuple[Tensor, Tensor]:
        """From the basis (E, B) and envelope (E, 1) to the factors (E, Q) and (Q, weights)."""
        *hidden, last = _linear_layers(self.mlp)
        phi = basis * envelope
        for linear in hidden:
            phi = self.mlp.activation(linear(phi))
        return phi, last.weight.T


def radial_network(
    n_radial: int, n_weights: int, settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> RadialNetwork:
    """The network of an argument ``weights_mlp``.

    Parameters
    ----------
    n_radial, n_weights
        Numbers of radial functions and of weights.
    settings
        Any of ``hidden_depth``, ``hidden_features`` (a number, or a list) and ``activation``.
    defaults
        All of them.

    Raises
    ------
    ValueError
        For unknown keys, an activation that is not 0 at 0, or a list of widths that is not as
        long as the depth that is given too.

    Examples
    --------
    >>> defaults = {"hidden_depth": 2, "hidden_features": 16, "activation": "SiLU"}
    >>> network = radial_network(8, 32, {"hidden_features": 64}, defaults)
    >>> [layer.out_features for layer in network.mlp.linear_layers]
    [64, 64, 32]
    """
    if unknown := sorted(set(settings) - set(defaults)):
        raise ValueError(f"weights_mlp: expected some of {list(defaults)}, got {unknown}")
    chosen = {**defaults, **settings}
    width = chosen["hidden_features"]
    hidden = [width] * chosen["hidden_depth"] if isinstance(width, int) else list(width)
    if settings.get("hidden_depth", len(hidden)) != len(hidden):
        raise ValueError(
            f"weights_mlp: expected hidden_depth={settings['hidden_depth']} widths, got {hidden}"
        )
    return RadialNetwork([n_radial, *hidden, n_weights], chosen["activation"])
