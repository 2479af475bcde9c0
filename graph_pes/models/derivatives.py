r"""Forces, stress and virial from energies: the only place where gradients are taken.

There are two routes, which agree for any model that sees positions through
`neighbour_vectors` alone:

- **strain** (`energy_and_derivatives`): the structure is strained by a symmetric
  :math:`\epsilon` (3×3, zero), and the energy :math:`E` is differentiated with respect to
  positions and strain. Always right, also for models that use positions directly.
- **edge vectors** (`edge_derivatives`): the energy is differentiated with respect to the
  vector :math:`\mathbf{r}_e` of each edge. Forces and virials, per atom too, are sums of
  these. It needs no cell, which is what an engine with ghost atoms wants.

================== ==================================================================
forces             :math:`\mathbf{F}_i = -\partial E / \partial \mathbf{R}_i`
virial             :math:`W = -\partial E / \partial \epsilon`
stress             :math:`\sigma = \frac{1}{V} \partial E / \partial \epsilon = -W/V`
================== ==================================================================

Committees have several energies, of which each is differentiated: see `spread_of`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    get_cell_volume,
    neighbour_vectors,
    number_of_atoms,
    number_of_structures,
    sum_per_structure,
    with_edge_vectors,
)
from graph_pes.tensors import index_sum, safe_norm

Predictions = dict[str, Tensor]


def total_energy(local_energies: Tensor, graph: AtomicGraph) -> Tensor:
    """Sum of local energies (N,) in double precision: shape (S,) for a batch."""
    return sum_per_structure(local_energies.double(), graph)


def energy_of(predictions: Predictions, graph: AtomicGraph) -> Tensor:
    """The energy (S,) that was predicted, or else the sum of local ones; in double precision."""
    if "energy" in predictions:
        return predictions["energy"].double()
    return total_energy(predictions["local_energies"], graph)


def energy_and_derivatives(
    forward: Callable[[AtomicGraph], Predictions],
    graph: AtomicGraph,
    *,
    forces: bool,
    virial: bool,
    keep_graph: bool,
    spread: bool = False,
) -> Predictions:
    """Predictions of a model together with the derivatives of its energy.

    Parameters
    ----------
    forward
        From a batch to predictions that include ``local_energies`` or ``energy``.
    graph
        A batch of structures.
    forces, virial
        Which derivatives to take.
    keep_graph
        Keep the derivatives differentiable, as training needs.
    spread
        Differentiate the energy of each member of a committee, rather than their mean, and add
        ``forces_uncertainty`` (N,). One backward pass for each member: where they share nothing,
        these take no longer than that of the mean.

    Returns
    -------
    dict[str, Tensor]
        What ``forward`` returned, with ``energy`` (S,), ``forces`` (N, 3) and ``virial``
        (S, 3, 3) added as asked for; of committees also ``energy_ensemble`` (S, M) and
        ``energy_uncertainty`` (S,).
    """
    leaves: dict[str, Tensor] = {}
    R, cell = graph.R, graph.cell
    if forces or spread:
        # Positions that require a gradient are part of someone else's calculation: stay in it.
        R = R if R.requires_grad else R.detach().clone().requires_grad_()
        leaves["forces"] = R
    vectors = neighbour_vectors(graph._replace(R=R))
    if virial:
        leaves["virial"] = displacement = torch.zeros_like(cell).requires_grad_()
        strain = (displacement + displacement.transpose(-1, -2)) / 2
        assert graph.batch is not None
        structure_of_edge = graph.batch[graph.neighbour_list[0]]
        vectors = vectors + _strained(vectors, strain, structure_of_edge)
        R = R + _strained(R, strain, graph.batch)
        cell = cell + cell @ strain
    predictions = dict(forward(with_edge_vectors(graph._replace(R=R, cell=cell), vectors)))
    predictions["energy"] = energy_of(predictions, graph)
    predictions = {**energies_of_members(predictions, graph), **predictions}
    inputs = list(leaves.values())
    if not spread:
        gradients = _gradients(predictions["energy"], inputs, keep_graph)
    else:
        members = predictions["energy_ensemble"].unbind(1)
        of_each = [_gradients(E, inputs, keep_graph, retain=True) for E in members]
        predictions["forces_uncertainty"] = spread_of(torch.stack([g[0] for g in of_each], dim=1))
        gradients = [torch.stack(g).mean(0) for g in zip(*of_each, strict=True)]
    predictions.update({key: -g for key, g in zip(leaves, gradients, strict=True)})
    return predictions


def energies_of_members(predictions: Predictions, graph: AtomicGraph) -> Predictions:
    """``energy_ensemble`` (S, M) and ``energy_uncertainty`` (S,) of a committee, else nothing."""
    if "energy_ensemble" in predictions:
        energies = predictions["energy_ensemble"].double()
    elif "local_energies_ensemble" in predictions:
        energies = total_energy(predictions["local_energies_ensemble"], graph)
    else:
        return {}
    return {"energy_ensemble": energies, "energy_uncertainty": spread_of(energies.unsqueeze(-1))}


def spread_of(values: Tensor) -> Tensor:
    r"""How much the members of a committee differ.

    .. math::  \sigma = \sqrt{\frac{1}{M - 1} \sum_m | x_m - \bar x |^2}

    of numbers, a standard deviation; of vectors, the root of the sum of those of the components,
    squared, which compares with the length of an error.

    Parameters
    ----------
    values
        x, of M members and D components: shape (..., M, D).

    Returns
    -------
    Tensor
        Shape (...), with finite derivatives also where all members agree.

    Examples
    --------
    >>> spread_of(torch.tensor([[[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]]]))
    tensor([1.])
    """
    deviations = (values - values.mean(-2, keepdim=True)).flatten(-2)
    return safe_norm(deviations) / math.sqrt(values.shape[-2] - 1)


def _strained(x: Tensor, strain: Tensor, structure: Tensor) -> Tensor:
    """Displacements (K, 3) of vectors (K, 3) under the strain (S, 3, 3) of their structures."""
    if strain.shape[0] == 1:
        return x @ strain[0]
    rows = strain.reshape(-1, 9).index_select(0, structure)
    return (x.unsqueeze(1) @ rows.view(-1, 3, 3)).squeeze(1)


def _gradients(
    energy: Tensor, inputs: Sequence[Tensor], keep_graph: bool, retain: bool = False
) -> list[Tensor]:
    """Gradients of the summed energy; zero for an energy that does not depend on an input.

    Of several energies that share what they are made of, ``retain`` that for the next one.
    """
    if not inputs:
        return []
    if not energy.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    gradients = torch.autograd.grad(
        energy.sum(),
        inputs,
        create_graph=keep_graph,
        retain_graph=keep_graph or retain,
        allow_unused=True,
    )
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True)]


def stress_from_virial(virial: Tensor, graph: AtomicGraph) -> Tensor:
    """Stress (S, 3, 3), in eV/Å^3 and positive under tension: minus the virial per volume.

    Raises
    ------
    ValueError
        If a structure has no cell, or one of zero volume; the message says which.
    """
    return -virial / checked_volumes(graph).view(-1, 1, 1).to(virial.dtype)


def virial_from_stress(stress: Tensor, graph: AtomicGraph) -> Tensor:
    """Virial (S, 3, 3), in eV: minus the stress times the volume."""
    return -stress * get_cell_volume(graph).view(-1, 1, 1).to(stress.dtype)


def has_volume(graph: AtomicGraph) -> Tensor:
    """Whether the lattice vectors span a volume: booleans of shape (), or (S,) for a batch."""
    return get_cell_volume(graph) > 1e-6 * graph.cell.norm(dim=-1).prod(-1)


def checked_volumes(graph: AtomicGraph) -> Tensor:
    """Volumes (S,) of the cells of a batch, none of them zero."""
    flat = ~has_volume(graph)
    if flat.any():
        which = flat.nonzero()[:, 0].tolist()
        name = f"structure {which[0]} of the batch" if len(flat) > 1 else "the structure"
        raise ValueError(
            f"Can't predict stress: {name} has no cell, or one of zero volume "
            f"({graph.cell[which[0]].tolist()}). Predict the virial instead, or leave out "
            "structures without a cell."
        )
    return get_cell_volume(graph)


@dataclass(frozen=True)
class EdgeDerivatives:
    """Derivatives of an energy with respect to the edge vectors.

    Attributes
    ----------
    local_energies
        Shape (N,), eV.
    gradients
        dE/d(edge vector), shape (E, 3), eV/Å.
    vectors
        The edge vectors, shape (E, 3), Å.
    """

    local_energies: Tensor
    gradients: Tensor
    vectors: Tensor

    def forces(self, graph: AtomicGraph) -> Tensor:
        """Forces, shape (N, 3): each edge pulls its two atoms in opposite directions."""
        i, j = graph.neighbour_list
        N = number_of_atoms(graph)
        return index_sum(self.gradients, i, N) - index_sum(self.gradients, j, N)

    def atomic_virials(self, graph: AtomicGraph) -> Tensor:
        """Virial of each atom, shape (N, 3, 3): half of that of each edge it is part of.

        They sum to the virial of the structure.
        """
        i, j = graph.neighbour_list
        N = number_of_atoms(graph)
        per_edge = -self.vectors[:, :, None] * self.gradients[:, None, :]
        per_edge = (per_edge + per_edge.transpose(1, 2)) / 2
        return (index_sum(per_edge, i, N) + index_sum(per_edge, j, N)) / 2

    def virial(self, graph: AtomicGraph) -> Tensor:
        """Virial, shape (S, 3, 3)."""
        S = number_of_structures(graph)
        return sum_per_structure(self.atomic_virials(graph), graph).view(S, 3, 3)


def edge_derivatives(
    forward: Callable[[AtomicGraph], Predictions], graph: AtomicGraph, keep_graph: bool = False
) -> EdgeDerivatives:
    """Local energies of a model, and the derivatives of their sum with respect to edge vectors.

    Positions are hidden (NaN) from the model: one that uses them other than through
    `neighbour_vectors` can't be differentiated in this way, and gives NaN rather than wrong
    forces.

    Parameters
    ----------
    forward
        From a graph to predictions that include ``local_energies``.
    graph
        One structure or a batch.
    keep_graph
        Keep the derivatives differentiable.
    """
    with torch.enable_grad():
        vectors = neighbour_vectors(graph).detach().clone().requires_grad_()
        hidden = graph._replace(R=torch.full_like(graph.R, torch.nan))
        local_energies = forward(with_edge_vectors(hidden, vectors))["local_energies"]
        (gradients,) = _gradients(local_energies.double().sum(), [vectors], keep_graph)
    if not keep_graph:
        local_energies, vectors = local_energies.detach(), vectors.detach()
    return EdgeDerivatives(local_energies, gradients, vectors)
