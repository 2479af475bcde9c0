"""Models whose parameters are in units other than eV and Å."""

from __future__ import annotations

from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, neighbour_vectors, with_edge_vectors
from graph_pes.atomic_graph.graph import TRIPLET_CUTOFF

from .base import GraphPESModel, in_precision_of


class UnitConverter(GraphPESModel):
    """A model in other units of energy and length, seen in eV and Å.

    The wrapped model gets its graphs in its own unit of length, and what it predicts is
    converted; derivatives follow. Graphs that it is pre-fitted to have labels in its units.

    Parameters
    ----------
    model
        The model, in its own units.
    energy_to_eV
        Its unit of energy in eV, positive.
    length_to_A
        Its unit of length in Å, positive.

    Raises
    ------
    ValueError
        If a unit is not positive.

    Examples
    --------
    >>> from graph_pes.models import LennardJones
    >>> in_kcal_mol = LennardJones(cutoff=6.0, epsilon=0.24, sigma=3.4)
    >>> model = UnitConverter(in_kcal_mol, energy_to_eV=0.0433641, length_to_A=1.0)
    """

    def __init__(self, model: GraphPESModel, energy_to_eV: float, length_to_A: float):
        for name, unit in {"energy_to_eV": energy_to_eV, "length_to_A": length_to_A}.items():
            if not unit > 0:
                raise ValueError(f"UnitConverter: expected {name} > 0, got {unit}")
        super().__init__(
            cutoff=model.cutoff_value * length_to_A,
            implemented_properties=model.implemented_properties,
            three_body_cutoff=float(model.three_body_cutoff) * length_to_A,
        )
        self.model = model
        self.energy_to_eV, self.length_to_A = energy_to_eV, length_to_A

    @property
    def units(self) -> dict[PropertyKey, float]:
        """The units of the wrapped model, of those properties that are in eV and Å here."""
        energy, length = self.energy_to_eV, self.length_to_A
        return {
            "local_energies": energy,
            "energy": energy,
            "local_energies_ensemble": energy,
            "energy_ensemble": energy,
            "forces_uncertainty": energy / length,
            "virial": energy,
            "forces": energy / length,
            "stress": energy / length**3,
            "dipole": length,
            "polarizability": length**2,
        }

    def as_seen_by_components(self, graph: AtomicGraph) -> AtomicGraph:
        """The graph, labels included, in the units of the wrapped model."""
        length, units, other = self.length_to_A, self.units, dict(graph.other)
        if TRIPLET_CUTOFF in other:
            other[TRIPLET_CUTOFF] = other[TRIPLET_CUTOFF] / length
        scaled = graph._replace(
            R=graph.R / length,
            cell=graph.cell / length,
            cutoff=graph.cutoff / length,
            properties={key: x / units.get(key, 1.0) for key, x in graph.properties.items()},
            other=other,
        )
        return with_edge_vectors(scaled, neighbour_vectors(graph) / length)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """What the wrapped model predicts, in eV and Å."""
        units = self.units
        scaled = self.as_seen_by_components(graph._replace(properties={}))
        predictions = self.model(in_precision_of(self.model, scaled))
        return {key: value * units.get(key, 1.0) for key, value in predictions.items()}
