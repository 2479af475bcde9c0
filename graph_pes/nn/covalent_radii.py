"""Sums of covalent radii."""

from __future__ import annotations

import torch
from torch import Tensor

from graph_pes.periodic_table import COVALENT_RADII

from .float64 import Float64Tensors


class CovalentRadii(Float64Tensors):
    """Sum of the covalent radii of two elements, in Å.

    Cordero et al., doi:10.1039/b801115j.

    Examples
    --------
    >>> CovalentRadii()(torch.tensor([1]), torch.tensor([6]))
    tensor([1.0700], dtype=torch.float64)
    """

    radii: Tensor

    def __init__(self) -> None:
        super().__init__()
        radii = torch.tensor(COVALENT_RADII, dtype=torch.float64)
        self.register_float64_buffer("radii", radii, persistent=False)

    def forward(self, Z_i: Tensor, Z_j: Tensor) -> Tensor:
        """From atomic numbers (E,) to lengths (E,), in double precision."""
        return self.radii.index_select(0, Z_i) + self.radii.index_select(0, Z_j)
