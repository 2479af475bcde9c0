"""Tiny models of properties other than energies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    index_over_neighbours,
    neighbour_distances,
    neighbour_vectors,
    structure_sizes,
    sum_over_neighbours,
    sum_per_structure,
)
from graph_pes.models.base import GraphTensorModel


class Charged(GraphTensorModel):
    """Charges of atoms, and what they make of it: a vector of each, a sum, and a mean."""

    def __init__(self, properties: list[str]) -> None:
        super().__init__(3.0, properties)
        self.weight = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        """Charges, and dipoles by the charges of neighbours."""
        near = (1 - (neighbour_distances(graph) / self.cutoff).clamp(max=1) ** 2) ** 3
        charges = self.weight * graph.Z * sum_over_neighbours(near, graph)
        pulls = near * index_over_neighbours(charges, graph)
        dipoles = sum_over_neighbours(pulls.unsqueeze(1) * neighbour_vectors(graph), graph)
        total = sum_per_structure(charges, graph)
        results = {
            "charges": charges,
            "tensor": dipoles,
            "dipole": sum_per_structure(dipoles * dipoles.abs(), graph),
            "total_charge": total,
            "total_spin": total / structure_sizes(graph),
        }
        return {name: results[name] for name in self.implemented_properties}
