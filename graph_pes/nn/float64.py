"""Tensors that stay in double precision when the module around them is cast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class Float64Tensors(nn.Module):
    """A module some of whose tensors are float64 whatever it is cast to.

    Energies of free atoms and cutoffs need this: ``model.to(torch.float32)`` would otherwise
    round -2000 eV to 1e-4 eV, and 5.3 Å to a distance that differs from that of the data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.float64_names: set[str] = set()

    def register_float64_buffer(self, name: str, tensor: Tensor, persistent: bool = True) -> None:
        """Register a buffer that stays in double precision; constants need not be saved."""
        self.register_buffer(name, tensor.double(), persistent=persistent)
        self.float64_names.add(name)

    def register_float64_parameter(self, name: str, tensor: Tensor, requires_grad: bool) -> None:
        """Register a parameter that stays in double precision."""
        self.register_parameter(name, nn.Parameter(tensor.double(), requires_grad=requires_grad))
        self.float64_names.add(name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        originals = {name: getattr(self, name).detach().clone() for name in self.float64_names}
        super()._apply(fn, recurse)
        for name, original in originals.items():
            tensor = getattr(self, name)
            if tensor.dtype != torch.float64:  # cast: only follow it to the new device
                tensor.data = original.to(tensor.device)
                if tensor.grad is not None:
                    tensor.grad = tensor.grad.double()
        return self
