"""Models of properties, rather than energies, as files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase.build import molecule
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    neighbour_distances,
    neighbour_vectors,
    number_of_neighbours,
    structure_sizes,
    sum_over_neighbours,
    sum_per_structure,
    to_batch,
)
from graph_pes.deploy import ExportedModel, ExportError, export_model
from graph_pes.models import LennardJones
from graph_pes.models.base import GraphTensorModel

torch.set_num_threads(1)


class Dipole(GraphTensorModel):
    """A property of structures that is a sum, and one of atoms."""

    def __init__(self) -> None:
        super().__init__(3.0, ["dipole", "charges"])
        self.weight = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        near = (1 - (neighbour_distances(graph) / self.cutoff).clamp(max=1) ** 2) ** 3
        vectors = sum_over_neighbours(near.unsqueeze(1) * neighbour_vectors(graph), graph)
        charges = self.weight * sum_over_neighbours(near, graph) * graph.Z
        dipoles = charges.unsqueeze(1) * vectors
        return {"dipole": sum_per_structure(dipoles, graph), "charges": charges}


class Mean(GraphTensorModel):
    """A property of structures that is no sum."""

    def __init__(self) -> None:
        super().__init__(3.0, ["total_charge"])

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        near = (1 - (neighbour_distances(graph) / self.cutoff).clamp(max=1) ** 2) ** 3
        total = sum_per_structure(sum_over_neighbours(near, graph), graph)
        return {"total_charge": total / structure_sizes(graph)}


class FromPositions(GraphTensorModel):
    def __init__(self) -> None:
        super().__init__(3.0, ["tensor"])

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        return {"tensor": graph.R}


class OfEdges(GraphTensorModel):
    def __init__(self) -> None:
        super().__init__(3.0, ["mobility_pairs", "tensor"])

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        v = neighbour_vectors(graph)
        count = number_of_neighbours(graph, include_central_atom=False)
        return {"mobility_pairs": v.unsqueeze(1) * v.unsqueeze(2), "tensor": count.to(v)}


def batch() -> AtomicGraph:
    structures = [molecule(name) for name in ("CH4", "H2O", "CO2")]
    return to_batch([AtomicGraph.from_ase(x, 5.0, dtype=torch.float64) for x in structures])


@pytest.mark.parametrize(
    ("make", "kinds", "widths"),
    [
        (Dipole, ["atom", "sum"], [1, 3]),
        (Mean, ["structure"], [1]),
        (OfEdges, ["edge", "atom"], [9, 1]),
        (LennardJones, ["atom", "edge"], [1, 3]),
    ],
)
def test_outputs(make: type, kinds: list[str], widths: list[int], tmp_path: Path) -> None:
    """The file says what its outputs are, and gives in Python what the model gives."""
    model = make().double().eval()
    metadata = export_model(model, tmp_path / "model.pt2", mode="portable")
    assert (metadata.kinds, metadata.widths) == (kinds, widths)
    assert metadata.layers == 1
    exported = ExportedModel(tmp_path / "model.pt2")
    assert set(exported.implemented_properties) == set(model.implemented_properties)
    for graph in (batch(), AtomicGraph.from_ase(molecule("H2O"), 5.0, dtype=torch.float64)):
        names = model.implemented_properties
        expected, found = model.predict(graph, names), exported.predict(graph, names)
        for name in names:
            torch.testing.assert_close(found[name], expected[name])
            assert expected[name].abs().max() > 0


def test_positions_are_not_for_engines(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="positions rather than neighbour_vectors"):
        export_model(FromPositions(), tmp_path / "model.pt2", mode="portable")
