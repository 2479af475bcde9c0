r"""Tensors of atoms, read from equivariant features.

A tensor is given by its irreps, such as ``"0e + 1e + 2e"`` for a shielding tensor, and its
components are in e3nn's order: a vector is x, y, z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import PROPERTIES, AtomicGraph

from .equivariant import EquivariantLinear
from .float64 import Float64Tensors
from .irreps import Blocks, clebsch_gordan, merged, parse_irreps, to_e3nn_rows
from .per_element import PerElementParameter

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

Method = Literal["direct", "tensor_product"]


@dataclass(frozen=True)
class TensorTarget:
    """Which tensor to predict, and how.

    Attributes
    ----------
    label
        Name of the property, one value of which belongs to each atom.
    method
        ``"direct"`` reads the irreps from the features; ``"tensor_product"`` couples pairs of
        tensors that are read from them, which also gives irreps that the features lack.
    number_of_tps
        Number of tensors that are coupled, even; by default two for every channel.
    irreps
        Irreps of the tensor.
    irrep_tp
        The irrep of the tensors that are coupled.

    Raises
    ------
    ValueError
        If the method is unknown, the number not even and positive, the property not one of
        atoms, or if a coupling can't give the irreps.

    Examples
    --------
    >>> TensorTarget("tensor", "tensor_product", None, "0e + 1e + 2e", "1o").wanted
    1x1o
    """

    label: str
    method: Method
    number_of_tps: int | None
    irreps: str | Irreps
    irrep_tp: str

    def __post_init__(self) -> None:
        if self.method not in ("direct", "tensor_product"):
            raise ValueError(
                f"target_method: expected 'direct' or 'tensor_product', got {self.method!r}"
            )
        if self.label in PROPERTIES and PROPERTIES[self.label].per != "atom":
            raise ValueError(f"props: expected a property of atoms, got {self.label!r}")
        n = self.number_of_tps
        if n is not None and (n < 2 or n % 2):
            raise ValueError(f"number_of_tps: expected an even number of tensors, got {n}")
        if self.method == "tensor_product":
            factors = parse_irreps(self.irrep_tp)
            if len(factors) != 1:
                raise ValueError(f"irrep_tp: expected one irrep, got {self.irrep_tp!r}")
            factor = factors[0].ir
            possible = list(factor * factor)
            if any(ir not in possible for _, ir in parse_irreps(self.irreps)):
                raise ValueError(
                    f"target_tensor_irreps: {factor} x {factor} gives {possible} only, but the "
                    f"target is {self.irreps}: choose another irrep_tp, or target_method: direct"
                )

    @property
    def wanted(self) -> Irreps:
        """Irreps that features must have."""
        return merged(parse_irreps(self.irreps if self.method == "direct" else self.irrep_tp))


class EquivariantProduct(Float64Tensors):
    r"""Couples the channels of two equal irreps, all with all, to other irreps.

    .. math::

        z_{m w} = \sqrt{\frac{2l + 1}{U^2}} \sum_{u v} W_{u v w} \sum_{m_1 m_2} C_{m_1 m_2 m}
        x_{m_1 u} y_{m_2 v}

    as ``e3nn.o3.FullyConnectedTensorProduct``.

    Parameters
    ----------
    irrep_in
        Irrep of both factors.
    channels
        Their number of channels, U.
    irreps_out
        Irreps of the result.
    """

    def __init__(self, irrep_in: str | Irreps, channels: int, irreps_out: Irreps):
        super().__init__()
        self.channels, self.irreps_out = channels, irreps_out
        ((_, factor),) = parse_irreps(irrep_in)
        self.weights = nn.ParameterList()
        for n, (mul, ir) in enumerate(irreps_out):
            C = clebsch_gordan(factor.l, factor.l, ir.l) * (math.sqrt(ir.dim) / channels)
            self.register_float64_buffer(f"coupling_{n}", C.flatten(0, 1).T, persistent=False)
            self.weights.append(nn.Parameter(torch.randn(channels, channels, mul)))

    def forward(self, x: Tensor, y: Tensor) -> Blocks:
        """From two blocks (N, d, U) to those of ``irreps_out``."""
        N, d, U = x.shape
        blocks = []
        for n, weight in enumerate(self.weights):
            mixed = (y @ weight.transpose(0, 1).flatten(1)).view(N, d, U, -1)
            pairs = torch.bmm(x, mixed.transpose(1, 2).flatten(2))  # (N, d, d w)
            coupling = getattr(self, f"coupling_{n}").to(x.dtype)  # (2l + 1, d d)
            blocks.append(coupling @ pairs.view(N, d * d, -1))
        return blocks


class TensorScaler(nn.Module):
    """Multiplies the irreps of a tensor by learnt scales of each element.

    All components of an irrep have the same scale, so that the tensor still transforms as it
    should. ``pre_fit`` sets the scales to the root mean square of each irrep in the training
    data; that of scalars after subtraction of their means.

    Parameters
    ----------
    irreps
        Irreps of the tensor.
    label
        Name of the property.
    """

    index: Tensor

    def __init__(self, irreps: Irreps, label: str):
        super().__init__()
        self.irreps, self.label = irreps, label
        dimensions = [ir.dim for mul, ir in irreps for _ in range(mul)]
        index = torch.arange(len(dimensions)).repeat_interleave(torch.tensor(dimensions))
        self.register_buffer("index", index, persistent=False)
        self.scales = PerElementParameter.full((len(dimensions),), 1.0)

    def forward(self, tensors: Tensor, graph: AtomicGraph) -> Tensor:
        """Scale tensors of shape (N, irreps.dim)."""
        return tensors * self.scales(graph.Z).index_select(1, self.index)

    @torch.no_grad()
    def pre_fit(self, graphs: AtomicGraph) -> None:
        """Set the scales from the tensors of a batch, if it has any."""
        labels = graphs.properties.get(self.label)
        if labels is None:
            return
        if labels.shape[1:] != (self.irreps.dim,):
            raise ValueError(
                f"{self.label}: expected {self.irreps.dim} components of each atom, those of "
                f"{self.irreps}, got labels of shape {tuple(labels.shape)}"
            )
        scalar = torch.tensor([ir.l == 0 for mul, ir in self.irreps for _ in range(mul)])
        index, counts = self.index.cpu(), torch.bincount(self.index.cpu())
        for Z in graphs.Z.unique().tolist():
            values = labels[graphs.Z == Z].double().cpu()
            values = values[~values.isnan().any(1)]
            if len(values) == 0:
                continue
            means = torch.where(scalar[index], values.mean(0), 0.0)
            squares = ((values - means) ** 2).mean(0)
            variances = torch.zeros(len(counts)).double().index_add(0, index, squares) / counts
            # What does not vary in the data keeps its scale.
            self.scales[Z] = torch.where(variances > 1e-10, variances, 1.0).sqrt()

    def non_decayable_parameters(self) -> list[nn.Parameter]:
        """Scales must not decay to zero."""
        return list(self.scales.parameters())


class TensorHead(nn.Module):
    """Reads a tensor of each atom from features.

    Parameters
    ----------
    irreps_in
        Irreps of the features.
    target
        Which tensor, and how.

    Raises
    ------
    ValueError
        If the features lack an irrep that is needed.
    """

    def __init__(self, irreps_in: Irreps, target: TensorTarget):
        super().__init__()
        self.irreps = parse_irreps(target.irreps)
        available = {ir for _, ir in irreps_in}
        if missing := [str(ir) for _, ir in target.wanted if ir not in available]:
            raise ValueError(
                f"the features, {irreps_in}, have no {', '.join(missing)} to read the tensor "
                "from: use more layers, other irreps of features, or another target_method"
            )
        self.linear: EquivariantLinear
        self.product: EquivariantProduct | None = None
        self.made = merged(self.irreps)
        if target.method == "direct":
            self.linear = EquivariantLinear(irreps_in, self.made)
        else:
            ((_, factor),) = target.wanted
            n = target.number_of_tps or 2 * irreps_in.count(factor)
            self.linear = EquivariantLinear(irreps_in, f"{n}x{factor}")
            self.product = EquivariantProduct(str(factor), n // 2, self.made)
        self.scaler = TensorScaler(self.irreps, target.label)

    def forward(self, x: Sequence[Tensor], graph: AtomicGraph) -> Tensor:
        """From blocks of ``irreps_in`` to tensors, shape (N, irreps.dim)."""
        blocks = self.linear(x)
        if self.product is not None:
            blocks = self.product(*blocks[0].chunk(2, dim=-1))
        # In the order of the target, in which an irrep may occur more than once.
        parts = {
            ir: iter(block.split([mul for mul, other in self.irreps if other == ir], dim=-1))
            for (_, ir), block in zip(self.made, blocks, strict=True)
        }
        tensors = to_e3nn_rows([next(parts[ir]) for _, ir in self.irreps])
        return self.scaler(tensors, graph)
