"""Models as engines call them: arrays in, energies of atoms and their derivatives out.

This is the one form in which models leave Python. An engine hands over the neighbours of each
of its N atoms as a matrix of D columns, filled up with edges that are longer than the cutoff:

=============== ============ ====================================================================
``vectors``     (N, D, 3)    from each atom to its neighbours, in Å and the model's precision
``neighbours``  (N, D)       index of each neighbour among all atoms; where there is none, that
                             of the atom itself, with a vector longer than the cutoff
``Z``           (M,)         atomic numbers of all atoms, the N first
``mask``        (N,)         1 for atoms whose energy counts, else 0; float64
=============== ============ ====================================================================

and gets

======================= =========== =============================================================
``local_energies``      (N,)        in eV, float64
``gradients``           (N, D, 3)   derivatives of the masked sum of energies with respect to
                                    ``vectors``, in eV/Å
======================= =========== =============================================================

with D ≥ 2. Forces are ``gradients.sum(1)`` less the gradients of the edges that lead to an atom;
the virial is minus the sum of ``vectors ⊗ gradients``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    as_directed,
    as_neighbour_matrix,
    neighbour_matrix,
    neighbour_vectors,
    with_edge_vectors,
)
from graph_pes.atomic_graph.graph import GHOSTS, NEIGHBOUR_COUNTS
from graph_pes.models.base import GraphPESModel, in_precision_of

#: Fewer columns than this are not told from other sizes by compiled code.
MIN_COLUMNS = 2


class EngineInputs(NamedTuple):
    """See the module."""

    vectors: Tensor
    neighbours: Tensor
    Z: Tensor
    mask: Tensor


class EngineModel(nn.Module):
    """A model in the form that engines call.

    Parameters
    ----------
    model
        Any model whose energy depends on positions through `neighbour_vectors` alone.
    """

    def __init__(self, model: GraphPESModel):
        super().__init__()
        self.model = model
        self.cutoff = model.cutoff_value

    def forward(
        self, vectors: Tensor, neighbours: Tensor, Z: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energies (N,) and gradients (N, D, 3)."""
        with torch.enable_grad():
            vectors = vectors.detach().requires_grad_()
            graph = engine_graph(vectors, neighbours, Z, self.cutoff)
            energies = self.model(in_precision_of(self.model, graph))["local_energies"].double()
            total = (energies * mask).sum()
            if not total.requires_grad:  # an offset
                return energies, torch.zeros_like(vectors)
            (gradients,) = torch.autograd.grad(total, vectors, allow_unused=True)
        return energies.detach(), torch.zeros_like(vectors) if gradients is None else gradients


def engine_graph(vectors: Tensor, neighbours: Tensor, Z: Tensor, cutoff: float) -> AtomicGraph:
    """The graph of an engine's atoms; positions are not known (NaN)."""
    N, D = neighbours.shape
    atoms = torch.arange(N, device=Z.device).unsqueeze(1).expand(N, D).reshape(-1)
    flat = vectors.reshape(N * D, 3)
    counts = ((vectors * vectors).sum(-1) <= cutoff**2).sum(dim=1)
    graph = AtomicGraph(
        Z=Z[:N],
        R=torch.full_like(vectors[:, 0], torch.nan),
        cell=vectors.new_zeros(1, 3, 3),
        neighbour_list=torch.stack([atoms, neighbours.reshape(-1)]),
        neighbour_cell_offsets=torch.zeros_like(flat),
        properties={},
        cutoff=cutoff,
        other={NEIGHBOUR_COUNTS: counts, GHOSTS: Z},
        batch=torch.zeros_like(Z[:N]),
        ptr=None,
        pbc=None,
    )
    return with_edge_vectors(as_directed(graph), flat)


def engine_inputs(graph: AtomicGraph, dtype: torch.dtype) -> EngineInputs:
    """What an engine without ghosts would hand over for a batch of structures."""
    matrix = as_neighbour_matrix(graph)
    N = matrix.Z.shape[0]
    vectors = neighbour_vectors(matrix).view(N, -1, 3)
    neighbours = neighbour_matrix(matrix)
    if missing := max(0, MIN_COLUMNS - neighbours.shape[1]):
        beyond = vectors.new_tensor([graph.cutoff + 1, 0, 0]).expand(N, missing, 3)
        atoms = torch.arange(N, device=neighbours.device).unsqueeze(1).expand(N, missing)
        vectors = torch.cat([vectors, beyond], dim=1)
        neighbours = torch.cat([neighbours, atoms], dim=1)
    mask = torch.ones(N, dtype=torch.float64, device=vectors.device)
    return EngineInputs(vectors.to(dtype), neighbours, graph.Z, mask)
