"""Models as engines call them: arrays in, energies of atoms and their derivatives out.

This is the one form in which models leave Python. An engine hands over the neighbours of each
of its N atoms as a matrix of D columns, filled up with edges that are longer than the cutoff:

=============== ============ ====================================================================
``vectors``     (N, D, 3)    from each atom to its neighbours, in Å and the model's precision
``neighbours``  (N, D)       index of each neighbour among all atoms; where there is none, that
                             of the atom itself, with a vector longer than the cutoff
``Z``           (M,)         atomic numbers of all atoms, the N first
``mask``        (N,)         1 for atoms that count, else 0; float64
=============== ============ ====================================================================

with D ≥ 4. Where predictions depend on the whole structure, which is that of the atoms that count,
the engine has to know all of it (M = N), and hands over

=============== ============ ====================================================================
``positions``   (N, 3)       in Å; float64, as the cell
``cell``        (3, 3)       lattice vectors in rows, in Å
``pbc``         (3,)         which of them the structure is periodic along; booleans
=============== ============ ====================================================================

as well, with respect to which nothing is differentiated. It gets

======================= =========== =============================================================
``local_energies``      (N,)        in eV, float64
``gradients``           (N, D, 3)   derivatives of the masked sum of energies with respect to
                                    ``vectors``, in eV/Å; left out by models that predict forces
                                    directly
``forces_uncertainty``  (N,)        of committees, of forces that are derivatives, in eV/Å
======================= =========== =============================================================

and whatever else the model predicts, in the order of `EngineModel.outputs`: what belongs to atoms
as (N, ...), to edges as (N, D, ...), and to structures as (...), for the structure of those atoms
that count. Models of properties alone have no energies and gradients. Forces are
``gradients.sum(1)`` less the gradients of the edges that lead to an atom; the virial is minus the
sum of ``vectors ⊗ gradients``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    PROPERTIES,
    AtomicGraph,
    PropertyKey,
    as_directed,
    as_neighbour_matrix,
    neighbour_matrix,
    neighbour_vectors,
    sum_over_neighbours,
    sum_over_receivers,
    sum_per_structure,
    with_edge_vectors,
)
from graph_pes.atomic_graph.graph import GHOSTS, NEIGHBOUR_COUNTS
from graph_pes.models.base import GraphPropertyModel, in_precision_of
from graph_pes.models.derivatives import spread_of, stress_from_virial, total_energy
from graph_pes.tensors import index_sum

#: Fewer columns than this are not told from other sizes by compiled code.
MIN_COLUMNS = 4


class ExportError(ValueError):
    """A model can't be exported, or a file does not hold an exported model."""


class EngineInputs(NamedTuple):
    """See the module."""

    vectors: Tensor
    neighbours: Tensor
    Z: Tensor
    mask: Tensor


class WholeStructure(NamedTuple):
    """See the module."""

    positions: Tensor
    cell: Tensor
    pbc: Tensor


class EngineModel(nn.Module):
    """A model in the form that engines call.

    Parameters
    ----------
    model
        Any model whose energies depend on positions through `neighbour_vectors` alone.
    other
        What else it is to find in ``graph.other``; engines have nothing to put there.

    Attributes
    ----------
    outputs
        Names of what a call returns.
    whole_structure
        Why the model needs whole structures, if it does: it, or a part of it, says so by
        ``needs_whole_structure``, or it predicts energies and more of structures.

    Raises
    ------
    ExportError
        If the model calls another package.
    """

    def __init__(self, model: GraphPropertyModel, other: Mapping[str, Tensor] | None = None):
        super().__init__()
        check_exportable(model)
        self.model, self.other = model, dict(other or {})
        self.cutoff = model.cutoff_value
        self.has_energies = "local_energies" in model.implemented_properties
        direct = set(model.implemented_properties) - {"local_energies"}
        whole = sorted(key for key in direct if PROPERTIES[key].per == "structure")
        self.whole_structure = why_whole_structure(model)
        if whole and self.has_energies and self.whole_structure is None:
            self.whole_structure = f"{type(model).__name__} predicts {whole} of structures"
        derived: tuple[str, ...] = () if "forces" in direct else ("gradients",)
        if derived and "local_energies_ensemble" in direct:
            derived = ("gradients", "forces_uncertainty")
        energies = ("local_energies", *derived) if self.has_energies else ()
        self.outputs = (*energies, *sorted(direct))
        self.of_structures = whole

    def forward(
        self, vectors: Tensor, neighbours: Tensor, Z: Tensor, mask: Tensor, *structure: Tensor
    ) -> tuple[Tensor, ...]:
        """The outputs, in order, from `EngineInputs` and `WholeStructure`, if that is needed."""
        with torch.enable_grad():
            vectors = vectors.detach().requires_grad_()
            results = self.predictions(vectors, neighbours, Z, mask, *structure)
            if "gradients" in self.outputs:
                results |= self.derivatives(results, vectors, neighbours, Z, mask)
        return tuple(results[name].detach() for name in self.outputs)

    def derivatives(
        self,
        results: dict[PropertyKey, Tensor],
        vectors: Tensor,
        neighbours: Tensor,
        Z: Tensor,
        mask: Tensor,
    ) -> dict[PropertyKey, Tensor]:
        """Gradients of the energy; of a committee's, the mean of those of its members."""
        if "local_energies_ensemble" not in results:
            energy = (results["local_energies"] * mask).sum()
            return {"gradients": gradient_of(energy, vectors)}
        energies = (results["local_energies_ensemble"].double() * mask.unsqueeze(1)).sum(0)
        gradients = [gradient_of(E, vectors, retain_graph=True) for E in energies.unbind()]
        graph = self.graph(vectors, neighbours, Z)
        of_edges = torch.stack([g.reshape(-1, 3) for g in gradients], dim=1)  # (N D, M, 3)
        forces = sum_over_neighbours(of_edges, graph) - sum_over_receivers(of_edges, graph)
        return {
            "gradients": torch.stack(gradients).mean(0),
            "forces_uncertainty": spread_of(forces),
        }

    def predictions(
        self, vectors: Tensor, neighbours: Tensor, Z: Tensor, mask: Tensor, *structure: Tensor
    ) -> dict[PropertyKey, Tensor]:
        """What the model itself predicts, which can be differentiated."""
        graph = self.graph(vectors, neighbours, Z)
        if self.whole_structure is not None:
            R, cell, pbc = structure
            graph = graph._replace(R=R, cell=cell.unsqueeze(0), pbc=pbc.expand(2, 3))
        if self.whole_structure is not None or self.of_structures:
            graph = _split(graph, mask)
        results = dict(self.model(in_precision_of(self.model, graph)))
        if self.has_energies:
            results["local_energies"] = results["local_energies"].double()
        for name, value in results.items():
            if PROPERTIES[name].per == "edge":
                results[name] = value.reshape(*neighbours.shape, *value.shape[1:])
            elif name in self.of_structures:
                results[name] = value[0]
        return results

    def graph(self, vectors: Tensor, neighbours: Tensor, Z: Tensor) -> AtomicGraph:
        """The graph of an engine's own atoms, whose neighbours may be ghosts."""
        graph = engine_graph(vectors, neighbours, Z, self.cutoff)
        return graph._replace(other={**graph.other, **self.other, GHOSTS: Z})


def check_exportable(model: GraphPropertyModel) -> None:
    """Make sure that no part of a model calls another package.

    Raises
    ------
    ExportError
        Naming the part, and the package.
    """
    for module in model.modules():
        package = getattr(module, "calls_package", None)
        if package is not None:
            raise ExportError(
                f"{type(module).__name__} calls the package {package} and runs from Python only: "
                "it can't be compiled or exported, as models made with native=True can"
            )


def why_whole_structure(model: GraphPropertyModel) -> str | None:
    """Why a part of a structure is not enough for a model, as a part of it says; or None.

    Examples
    --------
    >>> from graph_pes.models import Orb, LennardJones
    >>> why_whole_structure(Orb())
    'Orb: the mean of all forces is removed'
    >>> why_whole_structure(LennardJones())
    """
    for module in model.modules():
        reason = getattr(module, "needs_whole_structure", None)
        if reason is not None:
            return f"{type(module).__name__}: {reason}"
    return None


def _split(graph: AtomicGraph, mask: Tensor) -> AtomicGraph:
    """A batch of the atoms that count, and of all others, which remain neighbours."""
    others = (mask == 0).long()
    N = others.shape[0]
    further = others.sum()
    ptr = torch.stack([torch.zeros_like(further), N - further, torch.zeros_like(further) + N])
    return graph._replace(cell=graph.cell.expand(2, 3, 3), batch=others, ptr=ptr)


def gradient_of(
    energy: Tensor, vectors: Tensor, create_graph: bool = False, retain_graph: bool = False
) -> Tensor:
    """dE/d(vectors); zero for an offset, which does not depend on them."""
    if not energy.requires_grad:
        return torch.zeros_like(vectors)
    return torch.autograd.grad(
        energy,
        vectors,
        create_graph=create_graph,
        retain_graph=create_graph or retain_graph,
        allow_unused=True,
        materialize_grads=True,
    )[0]


def engine_graph(vectors: Tensor, neighbours: Tensor, Z: Tensor, cutoff: float) -> AtomicGraph:
    """The graph of an engine's own atoms; positions are not known (NaN)."""
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
        other={NEIGHBOUR_COUNTS: counts},
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


def predictions_from(
    inputs: EngineInputs,
    energies: Tensor,
    gradients: Tensor,
    batch: AtomicGraph,
    properties: Sequence[PropertyKey],
) -> dict[PropertyKey, Tensor]:
    """Energies of a batch, and what of its derivatives was asked for."""
    results = {"local_energies": energies, "energy": total_energy(energies, batch)}
    if "forces" in properties:
        results["forces"] = forces_from(inputs, gradients)
    if {"stress", "virial"} & set(properties):
        results["virial"] = sum_per_structure(atomic_virials_from(inputs, gradients), batch)
    if "stress" in properties:
        results["stress"] = stress_from_virial(results["virial"], batch)
    return results


def forces_from(inputs: EngineInputs, gradients: Tensor) -> Tensor:
    """Forces (N, 3): each edge pulls its two atoms in opposite directions."""
    N = inputs.Z.shape[0]
    pulled = index_sum(gradients.reshape(-1, 3), inputs.neighbours.reshape(-1), N)
    return gradients.sum(dim=1) - pulled


def atomic_virials_from(inputs: EngineInputs, gradients: Tensor) -> Tensor:
    """Virials (N, 3, 3) of the edges of each atom, which sum to that of the structure."""
    W = -inputs.vectors.transpose(1, 2) @ gradients
    return (W + W.transpose(1, 2)) / 2
