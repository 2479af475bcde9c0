r"""Networks from distances to the weights of messages.

Each gives the weights :math:`w(r)` of every edge in two factors, :math:`w = \phi V`, of which
:math:`\phi(r)`, of shape (E, Q), vanishes at the cutoff: whoever uses the weights multiplies
them out where they are needed (`NeighbourTensorProduct`), as they are many. Q is ``n_factors``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mlp import MLP


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

    It keeps zeros: the activation has to be 0 at 0.

    Parameters
    ----------
    layers
        Widths, from the radial basis to the weights.
    activation
        Between the layers.
    """

    def __init__(self, layers: Sequence[int], activation: str = "SiLU"):
        super().__init__()
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
