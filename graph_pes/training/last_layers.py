"""Committees of last layers, drawn from what training data leave open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, structure_sizes, to_batch, trim_edges
from graph_pes.drivers.predict import evaluation_mode, in_groups
from graph_pes.models.base import GraphPESModel
from graph_pes.models.last_layers import (
    LastLayerCommittee,
    check_linear,
    derivatives_of_structures,
    weights_of,
)


def last_layer_committee(
    model: GraphPESModel,
    graphs: Iterable[AtomicGraph],
    members: int = 16,
    layers: Sequence[str] | None = None,
    batch_size: int = 20,
    seed: int = 0,
) -> LastLayerCommittee:
    r"""A committee of a trained model, without another training.

    The weights w of the last layers are drawn from their distribution given the energies per atom
    of the training data (Bayesian linear regression; Bigi et al., doi:10.1088/2632-2153/ad805f),
    whose covariance is

    .. math::  \Big( \frac{\Phi^T \Phi}{\epsilon^2} + \frac{1}{\tau^2} \Big)^{-1}

    =================  ==========================================================
    :math:`\Phi`       derivatives (S, P) of the energies per atom by the weights
    :math:`\epsilon`   root mean square error of the energies per atom
    :math:`\tau`       root mean square weight of each layer
    =================  ==========================================================

    How wide it is, is to be fitted to further data: see `graph_pes.analysis.calibrate`.

    Parameters
    ----------
    model
        Trained; it is part of the committee, not copied.
    graphs
        Training structures, labelled with energies.
    members
        How many to draw.
    layers
        Names of last layers; by default all: see `graph_pes.models.last_layers.last_layers`.
    batch_size
        Number of structures to evaluate at once.
    seed
        Of the random numbers.

    Raises
    ------
    ValueError
        If no structure has an energy, the model has no such layers, or its energies are not
        linear in their weights.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from graph_pes.models import SchNet
    >>> water = molecule("H2O")
    >>> water.info["energy"] = -14.2
    >>> graph = AtomicGraph.from_ase(water, cutoff=4.0)
    >>> committee = last_layer_committee(SchNet(cutoff=4.0, channels=4, layers=1), [graph])
    >>> bool(committee.predict(graph, ["energy_uncertainty"])["energy_uncertainty"] > 0)
    True
    """
    committee = LastLayerCommittee(model, members, layers)
    labelled = [graph for graph in graphs if "energy" in graph.properties]
    if not labelled:
        raise ValueError("last_layer_committee: expected structures with energies, got none")
    cutoff, names = model.cutoff_value, committee.layers
    rows: list[Tensor] = []
    errors: list[Tensor] = []
    with evaluation_mode(committee):
        for group in in_groups(labelled, batch_size):
            batch = to_batch([trim_edges(graph, cutoff) for graph in group]).to(model.device)
            energies, derivatives = derivatives_of_structures(model, names, batch)
            sizes = structure_sizes(batch)
            rows.append(derivatives / sizes.unsqueeze(1))
            errors.append((energies - batch.properties["energy"]) / sizes)
        weights = [weights_of(model.get_submodule(name)) for name in names]
        variances = [w.double().square().mean().expand(len(w)) for w in weights]
        noise = torch.cat(errors).square().mean()
        deviations = _drawn(torch.cat(rows), noise, torch.cat(variances), members, seed)
        for n, part in enumerate(deviations.split([len(w) for w in weights], dim=1)):
            getattr(committee, f"deviations_{n}").copy_(part)
        check_linear(committee, batch)
    return committee


def _drawn(phi: Tensor, noise: Tensor, variances: Tensor, members: int, seed: int) -> Tensor:
    """Deviations (M, P) of weights from their mean, which sum to zero over the members."""
    # in units of the prior, in which no eigenvalue is below 1
    scaled = phi * variances.sqrt()
    identity = torch.eye(len(variances), dtype=phi.dtype, device=phi.device)
    precision = scaled.T @ scaled / noise.clamp(min=1e-16) + identity
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(members, len(variances), generator=generator, dtype=phi.dtype).to(phi.device)
    z = z - z.mean(0)
    # precision = L Lᵀ: the covariance of z L⁻¹ is its inverse
    L = torch.linalg.cholesky(precision)
    return torch.linalg.solve_triangular(L, z, upper=False, left=False) * variances.sqrt()
