"""The present graph-pes, with kernels of cuEquivariance."""

from __future__ import annotations

from typing import Any

from graph_pes.nn.tensor_product import use_cuequivariance

from . import graph_pes


class Package(graph_pes.Package):
    """See the protocol."""

    def __init__(self, entry: dict[str, Any], elements: list[str], device: str, stress: bool):
        super().__init__(entry, elements, device, stress)
        use_cuequivariance(self.module)
