"""How far energies reach, and whether models run on parts of structures, is found out by trying."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    index_over_neighbours,
    neighbour_distances,
    sum_over_neighbours,
)
from graph_pes.deploy import ExportError
from graph_pes.deploy.reach import GROUPS, exchanges_ghosts, layers_of
from graph_pes.models import (
    AdditionModel,
    FixedOffset,
    GraphPESModel,
    LennardJones,
    PaiNN,
    SchNet,
    StillingerWeber,
)


class Layers(GraphPESModel):
    """Passes messages several times; looks up neighbours as a user may, or as is advised."""

    def __init__(self, layers: int, exchange: bool, active: Callable[[Tensor], Tensor]):
        super().__init__(3.0, ["local_energies"])
        self.weight = nn.Parameter(torch.tensor(0.3))
        self.layers, self.exchange, self.active = layers, exchange, active

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        near = (1 - (neighbour_distances(graph) / self.cutoff).clamp(max=1) ** 2) ** 3
        x = graph.Z.to(near) / 10
        for _ in range(self.layers):
            j = graph.neighbour_list[1]
            messages = index_over_neighbours(x, graph) if self.exchange else x[j]
            x = x + self.active(sum_over_neighbours(near * messages * self.weight, graph))
        return {"local_energies": x}


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (lambda: LennardJones(), 1),
        (lambda: StillingerWeber(), 1),
        (lambda: FixedOffset(H=1.0), 1),
        (lambda: SchNet(layers=4, channels=4), 4),
        (lambda: Layers(5, exchange=True, active=torch.tanh), 5),
        (lambda: Layers(5, exchange=False, active=torch.tanh), 5),
        (lambda: Layers(3, exchange=False, active=torch.relu), 3),
        (
            lambda: AdditionModel(
                long=SchNet(cutoff=5.0, layers=2, channels=4),
                short=PaiNN(cutoff=3.0, layers=3, channels=4),
            ),
            3,
        ),
    ],
)
def test_layers(model: Callable[[], GraphPESModel], layers: int) -> None:
    assert layers_of(model()) == layers
    assert layers_of(model().double()) == layers


def test_energies_without_end_are_an_error() -> None:
    assert layers_of(Layers(GROUPS - 1, exchange=True, active=torch.tanh)) == GROUPS - 1
    with pytest.raises(ExportError, match="may depend on the whole structure"):
        layers_of(Layers(GROUPS + 3, exchange=True, active=torch.tanh))


@pytest.mark.parametrize("layers", [1, 3])
def test_who_exchanges_ghosts(layers: int) -> None:
    assert exchanges_ghosts(Layers(layers, exchange=True, active=torch.tanh))
    assert not exchanges_ghosts(Layers(layers, exchange=False, active=torch.tanh))
    both = AdditionModel(
        hook=Layers(layers, exchange=True, active=torch.tanh),
        none=Layers(layers, exchange=False, active=torch.tanh),
    )
    assert not exchanges_ghosts(both)


def test_models_are_compared_not_only_run() -> None:
    class Wrong(Layers):
        def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
            clamped = graph.neighbour_list.clamp(max=len(graph.Z) - 1)
            return super().forward(graph._replace(neighbour_list=clamped))

    assert not exchanges_ghosts(Wrong(2, exchange=False, active=torch.tanh))
