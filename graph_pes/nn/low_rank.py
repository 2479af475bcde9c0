"""Corrections of low rank to the matrices of linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .cartesian import MatrixLinear
from .equivariant import EquivariantBilinear, EquivariantLinear


class LowRank(nn.Module):
    r"""A matrix with a correction, :math:`W + s \, U V`, which is zero to begin with.

    Parameters
    ----------
    W
        Shape (..., n, m): one matrix, or several with a correction each.
    rank
        Columns of U, and rows of V; no more than n or m.
    scale
        s.
    """

    def __init__(self, W: Tensor, rank: int, scale: float):
        super().__init__()
        *several, n, m = W.shape
        rank = min(rank, n, m)
        self.scale = scale
        # As large as what is corrected, whatever the convention for its size.
        size = W.detach().square().mean().sqrt()
        V = torch.randn(*several, rank, m, dtype=W.dtype, device=W.device)
        self.lora_left = nn.Parameter(W.new_zeros(*several, n, rank))
        self.lora_right = nn.Parameter(V * torch.where(size > 0, size, 1.0))

    def forward(self, W: Tensor) -> Tensor:
        """The corrected matrix, shape (..., n, m)."""
        return W + self.scale * (self.lora_left @ self.lora_right)

    def extra_repr(self) -> str:  # noqa: D102
        return f"rank={self.lora_left.shape[-1]}, scale={self.scale:g}"


def linear_matrices(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Matrices of linear layers by name, with the module that holds each and its name there.

    Examples
    --------
    >>> from graph_pes.nn import MLP
    >>> list(linear_matrices(MLP([4, 8, 1])))
    ['linear_layers.0.weight', 'linear_layers.1.weight']
    """
    found: dict[str, tuple[nn.Module, str]] = {}
    for name, module in model.named_modules():
        start = f"{name}." if name else ""
        if isinstance(module, nn.Linear | MatrixLinear):
            found[f"{start}weight"] = (module, "weight")
        elif isinstance(module, EquivariantLinear | EquivariantBilinear):
            for n in range(len(module.weights)):
                found[f"{start}weights.{n}"] = (module.weights, str(n))
    return found


def corrections_of(module: nn.Module) -> dict[str, LowRank]:
    """The corrections of matrices that a module itself holds, by their names there."""
    if not parametrize.is_parametrized(module):
        return {}
    found: Mapping[str, Any] = module.parametrizations  # type: ignore[assignment]
    return {name: parts[0] for name, parts in found.items() if isinstance(parts[0], LowRank)}


def has_corrections(model: nn.Module) -> bool:
    """Whether any matrix of a model is corrected."""
    return any(corrections_of(module) for module in model.modules())


def correct(module: nn.Module, name: str, correction: LowRank) -> None:
    """Correct a matrix that a module holds under this name, wherever it is used."""
    parametrize.register_parametrization(module, name, correction)


def merge_corrections(model: nn.Module) -> None:
    """Add all corrections to the matrices, in place."""
    for module in list(model.modules()):
        sums = {name: getattr(module, name).detach() for name in corrections_of(module)}
        if sums:
            # torch's own remove_parametrizations would change the class, which copies share.
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
        for name, W in sums.items():
            module.register_parameter(name, nn.Parameter(W, requires_grad=False))
