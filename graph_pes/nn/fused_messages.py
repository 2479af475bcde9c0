"""Sums of messages by kernels of the package cuEquivariance, for GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graph_pes.extras import optional_package

from .irreps import Blocks
from .paths import Paths

if TYPE_CHECKING:
    from e3nn.o3 import Irreps


class FusedMessages:
    """`NeighbourTensorProduct` of the same arguments as one operation, differentiable twice.

    On a GPU it is a kernel of ``cuequivariance_ops_torch``, which stores nothing of the size of
    edges times components of the result. Elsewhere it is the plain implementation that the package
    has to compare with, which is slow.

    Parameters
    ----------
    irreps_in
        Of the features, all of as many channels.
    paths
        Of the tensor product.

    Raises
    ------
    ImportError
        If the package is not installed.
    ValueError
        If the features have different numbers of channels.
    """

    def __init__(self, irreps_in: Irreps, paths: Paths):
        if len({mul for mul, _ in irreps_in}) != 1:
            raise ValueError(
                "kernels of cuEquivariance need as many channels of every irrep, got features "
                f"{irreps_in}"
            )
        self.paths = paths
        self.polynomial = _polynomial([ir.dim for _, ir in irreps_in], paths)
        self._kernels: dict[tuple[torch.device, torch.dtype], nn.Module] = {}

    def __call__(
        self, x: Sequence[Tensor], Y: Tensor, phi: Tensor, V: Tensor, neighbours: Tensor
    ) -> Blocks:
        """See `NeighbourTensorProduct.forward`."""
        N, D = neighbours.shape
        features = torch.cat([block.flatten(1) for block in x], dim=1)
        atoms = torch.arange(N, device=Y.device)
        (sums,) = self._kernel(Y)(
            [phi @ V, features, Y],
            {1: neighbours.reshape(-1)},
            {0: atoms.unsqueeze(1)},  # whose length is that of the result
            {0: atoms.repeat_interleave(D)},
        )
        sizes = [self.paths.targets[p.target][0] * p.channels for p in self.paths.paths]
        blocks: list[list[Tensor]] = [[] for _ in self.paths.targets]
        for path, part in zip(self.paths.paths, sums.split(sizes, dim=1), strict=True):
            blocks[path.target].append(part.view(N, -1, path.channels))
        return [torch.cat(block, dim=2) for block in blocks]

    def _kernel(self, Y: Tensor) -> nn.Module:
        key = (Y.device, Y.dtype)
        if key not in self._kernels:
            kernel = _package("cuequivariance_torch").SegmentedPolynomial(
                self.polynomial, "uniform_1d" if Y.is_cuda else "naive", math_dtype=Y.dtype
            )
            self._kernels[key] = kernel.to(Y.device)
        return self._kernels[key]


def _polynomial(components: Sequence[int], paths: Paths) -> Any:
    """From weights, features and harmonics of edges to messages, in the terms of cuEquivariance.

    Features and messages are in the order of irreps or paths, components, and channels.
    """
    package = _package("cuequivariance")
    product = package.SegmentedTensorProduct.from_subscripts("u,u,,u")
    channels = (paths.paths[0].channels,)
    first_feature, first_harmonic = ([0, *accumulate(n)] for n in (components, paths.harmonics))
    for operand, shape, n in ((1, channels, first_feature[-1]), (2, (), first_harmonic[-1])):
        for _ in range(n):
            product.add_segment(operand, shape)
    first_message = 0
    for n, path in enumerate(paths.paths):
        product.add_segment(0, channels)
        coefficients = paths.couplings[path.coupling].coefficients()  # (m2, m1, m3)
        for _ in range(coefficients.shape[2]):
            product.add_segment(3, channels)
        for m2, m1, m3 in coefficients.nonzero().tolist():
            product.add_path(
                n,
                first_feature[path.source] + m1,
                first_harmonic[path.harmonic] + m2,
                first_message + m3,
                c=float(coefficients[m2, m1, m3]),
            )
        first_message += coefficients.shape[2]
    return package.SegmentedPolynomial.eval_last_operand(product)


def _package(name: str) -> Any:
    what = "kernels of cuEquivariance need the package cuequivariance-torch"
    return optional_package(name, "cuequivariance", what)
