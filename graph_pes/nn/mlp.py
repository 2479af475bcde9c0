"""Multi-layer perceptrons and activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F


class ShiftedSoftplus(nn.Module):
    r"""Softplus through the origin, :math:`\ln(1 + e^x) - \ln 2`.

    Schütt et al., doi:10.1063/1.5019779.
    """

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return F.softplus(x) - math.log(2.0)


def parse_activation(name: str | nn.Module) -> nn.Module:
    """An activation function, which may be given by name: one of ``torch.nn``, or an alias.

    Raises
    ------
    ValueError
        If there is no activation of that name.
    """
    if isinstance(name, nn.Module):
        return name
    aliases = {"ssp": ShiftedSoftplus, "shiftedsoftplus": ShiftedSoftplus, "swish": nn.SiLU}
    known = {
        key.lower(): cls
        for key, cls in vars(nn.modules.activation).items()
        if isinstance(cls, type) and cls.__module__ == nn.modules.activation.__name__
        if cls is not nn.MultiheadAttention
    }
    known |= {"identity": nn.Identity, **aliases}
    if name.lower() not in known:
        raise ValueError(
            f"Activation function {name!r} not found in `torch.nn` (aliases: {sorted(aliases)})"
        )
    return known[name.lower()]()


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Parameters
    ----------
    layers
        Widths, from the input to the output.
    activation
        A module, or the name of one in ``torch.nn``.
    activate_last
        Whether the activation also follows the last layer.
    bias
        Whether the layers have biases.

    Examples
    --------
    >>> import torch
    >>> MLP([10, 64, 1])(torch.rand(5, 10)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        layers: Sequence[int],
        activation: str | nn.Module = "CELU",
        activate_last: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        self.activation = parse_activation(activation)
        self.activate_last = activate_last
        self.linear_layers = nn.ModuleList(
            nn.Linear(n_in, n_out, bias=bias) for n_in, n_out in pairwise(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """From (..., layers[0]) to (..., layers[-1])."""
        return self.after_first(self.first(x))

    @property
    def first(self) -> nn.Linear:
        """The first linear layer."""
        return cast(nn.Linear, self.linear_layers[0])

    def after_first(self, x: Tensor) -> Tensor:
        """From what the first linear layer gives, (..., layers[1]), to (..., layers[-1])."""
        for linear in list(self.linear_layers)[1:]:
            x = linear(self.activation(x))
        return self.activation(x) if self.activate_last else x
