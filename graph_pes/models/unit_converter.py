"""Models whose parameters are in units other than eV and Å."""

from __future__ import annotations

from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, neighbour_vectors, with_edge_vectors

from .base import GraphPESModel, in_precision_of


class UnitConverter(GraphPESModel):
    """A model in other units of energy and length, seen in eV and Å.

    The wrapped model gets its graphs in its own unit of length, and what it predicts is
    converted; derivatives follow.

    Parameters
    ----------
    model
        The model, in its own units.
    energy_to_eV
        Its unit of energy in eV.
    length_to_A
        Its unit of length in Å.

    Examples
    --------
    >>> from graph_pes.models import LennardJones
    >>> in_kcal_mol = LennardJones(cutoff=6.0, epsilon=0.24, sigma=3.4)
    >>> model = UnitConverter(in_kcal_mol, energy_to_eV=0.0433641, length_to_A=1.0)
    """

    def __init__(self, model: GraphPESModel, energy_to_eV: float, length_to_A: float):
        super().__init__(
            cutoff=model.cutoff_value * length_to_A,
            implemented_properties=model.implemented_properties,
            three_body_cutoff=float(model.three_body_cutoff) * length_to_A,
        )
        self.model = model
        self.energy_to_eV, self.length_to_A = energy_to_eV, length_to_A

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """What the wrapped model predicts, in eV and Å."""
        energy, length = self.energy_to_eV, self.length_to_A
        factors = {
            "local_energies": energy,
            "energy": energy,
            "virial": energy,
            "forces": energy / length,
            "stress": energy / length**3,
        }
        scaled = with_edge_vectors(
            graph._replace(
                R=graph.R / length, cell=graph.cell / length, cutoff=graph.cutoff / length
            ),
            neighbour_vectors(graph) / length,
        )
        predictions = self.model(in_precision_of(self.model, scaled))
        return {key: value * factors.get(key, 1.0) for key, value in predictions.items()}
