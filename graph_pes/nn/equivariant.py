"""Maps of features of each atom that commute with rotations and reflections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .irreps import Blocks, merged, o3, parse_irreps

if TYPE_CHECKING:
    from e3nn.o3 import Irreps


#: Up to how many attributes atoms are multiplied by all their weights, rather than by their own.
FEW_ATTRIBUTES = 8


def of_atoms(weights: Tensor, attributes: Tensor) -> Tensor:
    """Weights (Z, ...) that are linear in Z attributes, for each atom: shape (N, ...).

    Parameters
    ----------
    attributes
        Shape (N, Z). Integers are taken for unit vectors, of which weights are looked up.
    """
    if attributes.is_floating_point():
        return torch.tensordot(attributes, weights, dims=1)
    return weights.index_select(0, attributes.argmax(1))


class EquivariantLinear(nn.Module):
    r"""Mixes the channels of each irrep, :math:`y = x W / \sqrt{n}` for n channels of x.

    As ``e3nn.o3.Linear``, without biases. Irreps that only one side has are left out: they
    are ignored on input, and absent from the output.

    Parameters
    ----------
    irreps_in
        Irreps of the input, each occurring once.
    irreps_out
        Irreps that are wanted; ``self.irreps_out`` are those of them that the input allows.
    """

    def __init__(self, irreps_in: str | Irreps, irreps_out: str | Irreps):
        super().__init__()
        self.irreps_in = checked_unique(parse_irreps(irreps_in))
        wanted = checked_unique(parse_irreps(irreps_out))
        channels = {ir: (index, mul) for index, (mul, ir) in enumerate(self.irreps_in)}
        self.irreps_out = o3().Irreps([(mul, ir) for mul, ir in wanted if ir in channels])
        self.sources = [channels[ir][0] for _, ir in self.irreps_out]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(channels[ir][1], mul)) for mul, ir in self.irreps_out
        )

    def forward(self, x: Sequence[Tensor]) -> Blocks:
        """From blocks of ``irreps_in`` to blocks of ``irreps_out``."""
        return [
            x[source] @ (weight * (1 / math.sqrt(weight.shape[0])))
            for source, weight in zip(self.sources, self.weights, strict=True)
        ]

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.irreps_in} -> {self.irreps_out}"


class EquivariantBilinear(nn.Module):
    r"""Mixes channels in a way that depends on attributes of the atom.

    .. math::  y = \frac{1}{\sqrt{n Z}} \sum_z a_z \, x W_z

    for n channels of x and Z attributes, such as a one-hot vector of the element. As
    ``e3nn.o3.FullyConnectedTensorProduct`` with even scalars.

    Parameters
    ----------
    irreps_in
        Irreps of the input, each occurring once.
    n_attributes
        Z.
    irreps_out
        Irreps that are wanted; ``self.irreps_out`` are those of them that the input allows.
    """

    def __init__(self, irreps_in: str | Irreps, n_attributes: int, irreps_out: str | Irreps):
        super().__init__()
        self.n_attributes = n_attributes
        self.irreps_in = checked_unique(parse_irreps(irreps_in))
        wanted = checked_unique(parse_irreps(irreps_out))
        channels = {ir: (index, mul) for index, (mul, ir) in enumerate(self.irreps_in)}
        self.irreps_out = o3().Irreps([(mul, ir) for mul, ir in wanted if ir in channels])
        self.sources = [channels[ir][0] for _, ir in self.irreps_out]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(n_attributes, channels[ir][1], mul))
            for mul, ir in self.irreps_out
        )
        # What makes weights of unit variance keep it.
        self.scales = [1 / math.sqrt(n_attributes * W.shape[1]) for W in self.weights]

    def forward(self, x: Sequence[Tensor], attributes: Tensor) -> Blocks:
        """From blocks of ``irreps_in`` and attributes (N, Z) to blocks of ``irreps_out``.

        Attributes that are integers are taken for unit vectors.
        """
        return [
            self._mixed(x[source], attributes, weight, scale)
            for source, weight, scale in zip(self.sources, self.weights, self.scales, strict=True)
        ]

    def _mixed(self, x: Tensor, attributes: Tensor, weight: Tensor, scale: float) -> Tensor:
        if self.n_attributes > FEW_ATTRIBUTES:  # a matrix for each atom is cheaper
            return torch.bmm(x * scale, of_atoms(weight, attributes))
        products = x.unsqueeze(2) * attributes[:, None, :, None]  # (N, 2l + 1, Z, n)
        return products.flatten(2) @ (weight.flatten(0, 1) * scale)

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.irreps_in} x {self.n_attributes} -> {self.irreps_out}"


def checked_unique(irreps: Irreps) -> Irreps:
    """The irreps, none of which may occur twice."""
    if len({ir for _, ir in irreps}) < len(irreps):
        raise ValueError(f"expected every irrep once, got {irreps}: use {merged(irreps)}")
    return irreps


class EquivariantRMSNorm(nn.Module):
    r"""Divides the features of an atom by their root mean square, then scales each channel.

    .. math::

        x_{k c m} \leftarrow w_{k c} \, x_{k c m} \Big/ \sqrt{\frac{1}{K} \sum_{k'} \big\langle
        x_{k' c' m'}^2 \big\rangle_{c' m'} + 10^{-12}}

    with the mean over channels and components of each of K irreps, so that all irreps count the
    same. Liao et al., doi:10.48550/arXiv.2306.12059, without centring, as in Nequix.

    Parameters
    ----------
    irreps
        Irreps of the features, each occurring once.
    """

    def __init__(self, irreps: str | Irreps):
        super().__init__()
        self.irreps = checked_unique(parse_irreps(irreps))
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(mul)) for mul, _ in self.irreps)

    def forward(self, x: Sequence[Tensor]) -> Blocks:
        """From blocks of the irreps to blocks of the same shapes."""
        means = [(block**2).mean(dim=(1, 2), keepdim=True) for block in x]
        factor = torch.rsqrt(torch.cat(means, dim=1).mean(dim=1, keepdim=True) + 1e-12)
        return [block * (weight * factor) for block, weight in zip(x, self.weights, strict=True)]

    def non_decayable_parameters(self) -> list[nn.Parameter]:
        """Scales must not decay to zero."""
        return list(self.weights)

    def extra_repr(self) -> str:  # noqa: D102
        return str(self.irreps)


# Activations are divided by their root mean square for normally distributed input. These are
# the numbers of e3nn, which are averages over a sample; the exact ones differ by up to 0.2 %.
SILU_GAIN, TANH_GAIN = 1.6791767923989418, 1.5937334472592695
SIGMOID_GAIN = 1.8467055342154763


def normalised_silu(x: Tensor) -> Tensor:
    """SiLU of about unit variance, for scalars that do not change under reflection."""
    return F.silu(x) * SILU_GAIN


def normalised_tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent of about unit variance; odd, as pseudoscalars need."""
    return torch.tanh(x) * TANH_GAIN


def normalised_sigmoid(x: Tensor) -> Tensor:
    """Sigmoid of a mean square of about 1."""
    return torch.sigmoid(x) * SIGMOID_GAIN


class Gate(nn.Module):
    r"""Non-linearity: activated scalars, and tensors multiplied by activated scalars.

    Even scalars go through SiLU, odd ones through tanh. Each channel of higher degree is
    multiplied by an even scalar of its own, a gate, which has gone through SiLU by default.

    Weiler et al., doi:10.48550/arXiv.1807.02547; as ``e3nn.nn.Gate``.

    Parameters
    ----------
    irreps_out
        Irreps of the result. ``self.irreps_in`` are those of the input, in which the even
        scalars are followed by the gates, in the order of the irreps that they belong to.
    activation
        Of the gates.
    """

    def __init__(
        self,
        irreps_out: str | Irreps,
        activation: Callable[[Tensor], Tensor] = normalised_silu,
    ):
        super().__init__()
        self.activation = activation
        self.irreps_out = checked_unique(parse_irreps(irreps_out))
        even = o3().Irrep("0e")
        gates = [mul for mul, ir in self.irreps_out if ir.l > 0]
        scalars = self.irreps_out.count(even)
        self.degrees = [ir.l for _, ir in self.irreps_out if ir != even]
        self.sizes = [scalars, *gates]
        n_even = scalars + sum(gates)
        others = [(mul, ir) for mul, ir in self.irreps_out if ir != even]
        self.irreps_in = o3().Irreps(([(n_even, even)] if n_even > 0 else []) + others)
        self.where_even = [ir for _, ir in self.irreps_out].index(even) if scalars > 0 else None

    def forward(self, x: Sequence[Tensor]) -> Blocks:
        """From blocks of ``irreps_in`` to blocks of ``irreps_out``."""
        result, others = [], list(x)
        if sum(self.sizes) > 0:
            n, *of_gates = self.sizes
            scalars, gated = others.pop(0).split([n, sum(of_gates)], dim=-1)
            scalars = normalised_silu(scalars)
            gates = list(self.activation(gated).split(of_gates, dim=-1))
        for block, l in zip(others, self.degrees, strict=True):
            result.append(block * gates.pop(0) if l > 0 else normalised_tanh(block))
        if self.where_even is not None:
            result.insert(self.where_even, scalars)
        return result

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.irreps_in} -> {self.irreps_out}"
