"""A model that predicts forces directly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    neighbour_distances,
    neighbour_vectors,
    sum_over_neighbours,
)
from graph_pes.models import GraphPESModel


class DirectForces(GraphPESModel):
    """Predicts the forces themselves, which are no derivatives of its energies."""

    def __init__(self) -> None:
        super().__init__(3.0, ["local_energies", "forces"])
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        """Local energies, and forces towards the neighbours."""
        near = (1 - (neighbour_distances(graph) / self.cutoff).clamp(max=1) ** 2) ** 3
        forces = sum_over_neighbours(near.unsqueeze(1) * neighbour_vectors(graph), graph)
        return {
            "local_energies": sum_over_neighbours(near, graph) * self.weight,
            "forces": forces * self.weight,
        }
