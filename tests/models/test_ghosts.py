"""Engines hold periodic images, or atoms of other processes, as atoms of their own: ghosts."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk

from graph_pes.atomic_graph import AtomicGraph, as_neighbour_matrix, neighbour_matrix, to_batch
from graph_pes.atomic_graph.ghosts import images_of
from graph_pes.deploy.engine import EngineInputs, EngineModel, engine_inputs
from graph_pes.models import GraphPESModel
from graph_pes.tensors import index_sum
from tests.conformance.models import randomised

from .test_networks import NETWORKS

#: Whose messages come from more than the elements of neighbours.
EXCHANGING = sorted(set(NETWORKS) - {"EDDP"})


def with_images_as_ghosts(graph: AtomicGraph) -> tuple[EngineInputs, torch.Tensor]:
    """As an engine does it: periodic images are atoms of their own, of which owners are known."""
    inputs, matrix = engine_inputs(graph, torch.float64), as_neighbour_matrix(graph)
    N, D = neighbour_matrix(matrix).shape
    offsets = matrix.neighbour_cell_offsets.view(N, D, 3)
    owners, seen = list(range(N)), {}
    neighbours = inputs.neighbours.clone()
    for i in range(N):
        for d in range(D):
            key = (int(neighbours[i, d]), *offsets[i, d].tolist())
            if any(key[1:]):
                if key not in seen:
                    seen[key] = len(owners)
                    owners.append(key[0])
                neighbours[i, d] = seen[key]
    Z = inputs.Z[torch.tensor(owners)]
    return inputs._replace(neighbours=neighbours, Z=Z), torch.tensor(owners)


def crystal(model: GraphPESModel) -> AtomicGraph:
    atoms = bulk("SiO", "zincblende", a=4.6, cubic=True)
    atoms.rattle(0.05, seed=0)
    return AtomicGraph.from_ase(atoms, model.cutoff_value, dtype=torch.float64)


@pytest.mark.parametrize("name", EXCHANGING)
def test_ghosts_need_an_engine(name: str) -> None:
    model = NETWORKS[name]().double().eval()
    inputs, _ = with_images_as_ghosts(to_batch([crystal(model)]))
    with pytest.raises(RuntimeError, match="ghost atoms, but this process is no engine"):
        EngineModel(model)(*inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_messages_of_ghosts(name: str) -> None:
    """Ghosts send what their owners know; what they receive is added up by their owners."""
    model = randomised(NETWORKS[name]().double()).eval()
    graph = crystal(model)
    N = len(graph.Z)
    inputs, owners = with_images_as_ghosts(to_batch([graph]))
    assert len(owners) > N
    with images_of(owners):
        energies, gradients = EngineModel(model)(*inputs)
    torch.testing.assert_close(energies, model.predict_local_energies(graph))
    ends = owners[inputs.neighbours].flatten()
    forces = gradients.sum(1) - index_sum(gradients.flatten(0, 1), ends, N)
    torch.testing.assert_close(forces, model.predict_forces(graph))
