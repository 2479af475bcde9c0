"""Per-element scales of what a network predicts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph

from .per_element import PerElementParameter
from .regression import fit_per_element


class LocalEnergiesScaler(nn.Module):
    """Multiplies local energies by a learnt scale of each element.

    ``pre_fit`` sets the scales to the standard deviations of the contributions of the elements
    to the training energies, so that the network itself predicts numbers of order one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.per_element_scaling = PerElementParameter.full((), 1.0)

    def forward(self, local_energies: Tensor, graph: AtomicGraph) -> Tensor:
        """Scale local energies of shape (N,) or (N, 1): result (N,)."""
        return local_energies.view(-1) * self.per_element_scaling(graph.Z)

    @torch.no_grad()
    def pre_fit(self, graphs: AtomicGraph) -> None:
        """Set the scales from the energies of a batch, if it has any."""
        if "energy" not in graphs.properties:
            return
        for Z, variance in fit_per_element(graphs.properties["energy"], graphs).variances.items():
            self.per_element_scaling[Z] = variance.sqrt()

    def non_decayable_parameters(self) -> list[nn.Parameter]:
        """Scales must not decay to zero."""
        return list(self.per_element_scaling.parameters())
