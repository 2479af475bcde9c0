"""A correct toy model, and models that are wrong in one way each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    divide_per_atom,
    neighbour_distances,
    neighbour_vectors,
    number_of_edges,
    structure_sizes,
    sum_over_neighbours,
)
from graph_pes.models.base import GraphPESModel
from graph_pes.nn.envelopes import CosineEnvelope


class Toy(GraphPESModel):
    """An embedded-atom model: square and root of a density of neighbours."""

    def __init__(self, cutoff: float = 3.0):
        super().__init__(cutoff, ["local_energies"])
        self.envelope = CosineEnvelope(cutoff)
        self.a = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        return {"local_energies": self.local_energies(graph)}

    def local_energies(self, graph: AtomicGraph) -> Tensor:
        return self.embed(self.density(neighbour_distances(graph), graph))

    def density(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        return sum_over_neighbours(torch.exp(-self.a * r) * self.envelope(r), graph)

    def embed(self, density: Tensor) -> Tensor:
        return self.a * density**2 - torch.sqrt(1 + density)


def _moments(model: Toy, graph: AtomicGraph, n: int) -> list[Tensor]:
    """Sums of neighbour vectors with n different weights, (N, 3) each."""
    vectors, r = neighbour_vectors(graph), neighbour_distances(graph)
    return [
        sum_over_neighbours(vectors * (torch.exp(-k * r) * model.envelope(r))[:, None], graph)
        for k in range(n)
    ]


# --- symmetries ---


class PrefersX(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        return super().local_energies(graph) + _moments(self, graph, 1)[0][:, 0] ** 2


class Chiral(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        a, b, c = _moments(self, graph, 3)
        return super().local_energies(graph) + (a * torch.linalg.cross(b, c)).sum(-1)


class PinnedToOrigin(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        return super().local_energies(graph) + 0.01 * graph.R.square().sum(-1)


class CountsUnitCells(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        r = neighbour_distances(graph)
        inside = (graph.neighbour_cell_offsets == 0).all(-1)
        return super().local_energies(graph) + self.density(r, graph) * sum_over_neighbours(
            inside * self.envelope(r), graph
        )


class PrefersFirstAtom(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        energies = super().local_energies(graph)
        assert graph.ptr is not None
        first = torch.zeros_like(energies).index_fill(0, graph.ptr[:-1], 1.0)
        return energies * (1 + first)


class Intensive(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        assert graph.batch is not None
        return super().local_energies(graph) / structure_sizes(graph)[graph.batch]


class MixesStructures(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        energies = super().local_energies(graph)
        return energies - 0.1 * energies.mean()


# --- cutoff ---


class Truncated(Toy):
    def density(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        return sum_over_neighbours(torch.exp(-self.a * r) * (r < 3), graph)


class TruncatedForce(Toy):
    def density(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        return sum_over_neighbours((3 - r).clamp(min=0), graph)


class TruncatedAtTheLastPercent(Toy):
    def density(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        values = torch.exp(-self.a * r) * self.envelope(r)
        return sum_over_neighbours(torch.where(r < 3.0, values + 1e-4, 0.0), graph)


class SeesBeyondCutoff(Toy):
    def density(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        return sum_over_neighbours((3 - r) ** 3, graph)


class NaNSlopeBeyondCutoff(Toy):
    def density(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        return sum_over_neighbours(torch.where(r < 3, (3 - r) ** 2.5, 0.0), graph)


# --- derivatives ---


class DetachedPart(Toy):
    def density(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        return super().density(r, graph) + 0.1 * super().density(r.detach(), graph)


class IgnoresStrain(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        i, j = graph.neighbour_list
        assert graph.batch is not None
        shifts = graph.neighbour_cell_offsets.unsqueeze(1) @ graph.cell.detach()[graph.batch[i]]
        vectors = graph.R[j] - graph.R[i] + shifts.squeeze(1)
        return self.embed(self.density(vectors.norm(dim=-1), graph))


class UsesPositions(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        i, j = graph.neighbour_list
        assert graph.batch is not None
        shifts = graph.neighbour_cell_offsets.unsqueeze(1) @ graph.cell[graph.batch[i]]
        vectors = graph.R[j] - graph.R[i] + shifts.squeeze(1)
        return self.embed(self.density(vectors.norm(dim=-1), graph))


class WrongVirialSign(Toy):
    def predict(
        self, graph: AtomicGraph, properties: Sequence[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        predictions = super().predict(graph, properties)
        return {k: -x if k == "stress" else x for k, x in predictions.items()}


class SinglePrecisionInside(Toy):
    def density(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        return super().density(r.float().to(r.dtype), graph)


class UnusedParameter(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten = torch.nn.Parameter(torch.tensor(1.0))


class NaNGradientOfParameter(Toy):
    def embed(self, density: Tensor) -> Tensor:
        return super().embed(density) + torch.where(density > 0, density**self.a, 0.0)


# --- use ---


class Squeezes(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        return super().local_energies(graph)[:, None].squeeze()


class NaNForOneAtom(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        energies = super().local_energies(graph)
        return energies + 1e-3 * energies.detach().std()


class FailsWithoutEdges(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        r = neighbour_distances(graph)
        return super().local_energies(graph) + 0 * r.view(number_of_edges(graph), -1).amax()


class DefaultDtype(Toy):
    def embed(self, density: Tensor) -> Tensor:
        return super().embed(density) + (density[:, None] @ torch.ones(1, 1))[:, 0]


class DefaultDevice(Toy):
    def embed(self, density: Tensor) -> Tensor:
        return super().embed(density) + torch.ones(1, dtype=density.dtype)


class StaysBehind(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.one = torch.ones(1)

    def embed(self, density: Tensor) -> Tensor:
        return super().embed(density) + self.one.to(density.dtype)


class RoundsTotalEnergies(Toy):
    def embed(self, density: Tensor) -> Tensor:
        return super().embed(density) - 1e5


class Mutates(Toy):
    def local_energies(self, graph: AtomicGraph) -> Tensor:
        graph.other["density"] = self.density(neighbour_distances(graph), graph)
        return super().local_energies(graph)


class Counts(Toy):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def local_energies(self, graph: AtomicGraph) -> Tensor:
        self.calls += 1
        return super().local_energies(graph)


class Random(Toy):
    def embed(self, density: Tensor) -> Tensor:
        return super().embed(density) * (1 + 1e-12 * torch.rand_like(density))


class NeedsGradMode(Toy):
    def predict(
        self, graph: AtomicGraph, properties: Sequence[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        predictions = super().predict(graph, properties)
        slope = torch.autograd.grad((self.a * graph.R.sum()).exp(), self.a)[0]
        predictions["energy"] = predictions["energy"] + 0 * slope
        return predictions


class NotDetached(Toy):
    def predict(
        self, graph: AtomicGraph, properties: Sequence[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        predictions = super().predict(graph, properties)
        predictions["energy"] = predictions["energy"] * (1 + 0 * self.a)
        return predictions


class HiddenState(Toy):
    """Has state that is neither an argument nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def embed(self, density: Tensor) -> Tensor:
        return super().embed(density) * self.factor

    @classmethod
    def fitted(cls) -> HiddenState:
        model = cls()
        model.factor = 2.0
        return model


class SharesParameters(Toy):
    def __deepcopy__(self, memo: dict[int, Any]) -> SharesParameters:
        copy = SharesParameters()
        copy.a = self.a
        return copy.train(self.training)


class DividesEnergyPerAtom(Toy):
    """Predicts an energy of its own that is not extensive."""

    def __init__(self) -> None:
        super().__init__()
        self.implemented_properties.append("energy")

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        energies = self.local_energies(graph)
        total = torch.zeros(len(graph.cell), dtype=torch.float64).index_add(
            0, graph.batch, energies.double()
        )
        return {"local_energies": energies, "energy": divide_per_atom(total, graph)}
