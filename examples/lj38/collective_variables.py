"""Two sets of collective variables for a cluster of 38 argon atoms.

    python examples/lj38/collective_variables.py

writes them as archives, ``histogram.pt`` and ``steinhardt.pt``, that PLUMED's action METATOMIC
reads. PLUMED imports this file for its action PYCVINTERFACE.
"""

import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    neighbour_distances,
    neighbour_vectors,
    sum_over_neighbours,
    sum_per_structure,
)
from graph_pes.deploy import export_cv
from graph_pes.drivers.plumed import PlumedVariables
from graph_pes.nn.spherical_harmonics import SphericalHarmonics

#: In Å; an atom counts in full up to four fifths of it.
CUTOFF = 5.5


def nearness(graph: AtomicGraph) -> Tensor:
    """1 for a close neighbour, 0 for one at the cutoff, with continuous slope: shape (E,)."""
    y = ((neighbour_distances(graph) / CUTOFF - 0.8) / 0.2).clamp(0, 1)
    return (y - 1) ** 2 * (1 + 2 * y)


def histogram(graph: AtomicGraph) -> Tensor:
    """How many atoms have 6, and how many have 8 neighbours: shape (S, 2).

    They tell the truncated octahedron from icosahedral clusters: Ceriotti, Tribello and
    Parrinello, doi:10.1021/ct3010563.
    """
    coordination = sum_over_neighbours(nearness(graph), graph)
    bins = torch.stack([coordination - 6, coordination - 8], dim=1)
    return sum_per_structure(torch.exp(-2 * bins**2), graph)


class Steinhardt(torch.nn.Module):
    """Mean order of the directions to neighbours, of degree 4 and 6: shape (S, 2).

    The mean over atoms of |q_l| = |Σ_j f(r_ij) Y_l(r_ij)| / Σ_j f(r_ij), up to a factor that of
    Steinhardt, Nelson and Ronchetti, doi:10.1103/PhysRevB.28.784, but continuous.
    """

    def __init__(self):
        super().__init__()
        self.harmonics = torch.nn.ModuleList(SphericalHarmonics([l]) for l in (4, 6))

    def forward(self, graph: AtomicGraph) -> Tensor:
        near, vectors = nearness(graph), neighbour_vectors(graph)
        total = sum_over_neighbours(near, graph).unsqueeze(1) + 1e-12
        orders = []
        for harmonics in self.harmonics:
            q = sum_over_neighbours(near.unsqueeze(1) * harmonics(vectors), graph) / total
            orders.append((q**2).mean(dim=1) + 1e-12)
        one = torch.ones_like(total[:, 0])
        return sum_per_structure(torch.stack(orders, dim=1).sqrt(), graph) / sum_per_structure(
            one, graph
        ).unsqueeze(1)


# what PLUMED looks for: IMPORT=collective_variables CALCULATE=calculate
calculate = PlumedVariables(histogram, ["n6", "n8"], CUTOFF)
plumedInit = calculate.components

if __name__ == "__main__":
    export_cv(histogram, "histogram.pt", cutoff=CUTOFF)
    export_cv(Steinhardt(), "steinhardt.pt", cutoff=CUTOFF)
