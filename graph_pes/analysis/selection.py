"""Which structures to label next: those unlike all others, or those a committee is unsure of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    PROPERTIES,
    AtomicGraph,
    PropertyKey,
    neighbour_distances,
    neighbour_Z,
    number_of_structures,
    structure_sizes,
    to_batch,
    trim_edges,
)
from graph_pes.drivers.predict import check_elements, evaluation_mode, in_groups, predict_all
from graph_pes.models.base import GraphPropertyModel
from graph_pes.models.last_layers import last_layers, mean_features
from graph_pes.nn.radial import SmoothBessel
from graph_pes.tensors import index_sum

#: Radial functions of each pair of elements, for models without features of their own.
RADIAL_FUNCTIONS = 8


def structure_features(
    model: GraphPropertyModel, graphs: Sequence[AtomicGraph], batch_size: int = 5
) -> np.ndarray:
    """What structures are like, in the eyes of a model.

    Means over the atoms of what the last layers of the model are given. Models without such
    layers are asked for nothing but their cutoff: the features are sums over the neighbours, of
    each pair of elements in the data, of smooth radial functions of the distance, as means over
    all atoms.

    Parameters
    ----------
    model
        Any model.
    graphs
        The structures, with edges at least up to the cutoff of the model.
    batch_size
        Number of structures to evaluate at once.

    Returns
    -------
    np.ndarray
        Shape (S, P).

    Examples
    --------
    >>> from ase.build import molecule
    >>> from graph_pes.models import LennardJones, SchNet
    >>> graphs = [AtomicGraph.from_ase(molecule(m), cutoff=5.0) for m in ("H2O", "CH4", "O2")]
    >>> structure_features(SchNet(channels=16), graphs).shape
    (3, 9)
    >>> structure_features(LennardJones(), graphs).shape
    (3, 72)
    """
    layers = last_layers(model)
    elements = torch.cat([graph.Z for graph in graphs]).unique()
    parts = []
    with evaluation_mode(model), torch.no_grad():
        for group in in_groups(graphs, batch_size):
            unlabelled = [graph._replace(properties={}) for graph in group]
            batch = trim_edges(to_batch(unlabelled), model.cutoff_value).to(model.device)
            check_elements(model, batch.Z)
            if layers:
                found = mean_features(model, layers, batch)
            else:
                found = _radial_features(batch, elements.to(batch.Z.device), model.cutoff_value)
            parts.append(found.double().cpu())
    return torch.cat(parts).numpy()


def _radial_features(batch: AtomicGraph, elements: Tensor, cutoff: float) -> Tensor:
    """Sums of radial functions over the edges between each pair of elements, per atom."""
    assert batch.batch is not None
    i = batch.neighbour_list[0]
    ours, theirs = (torch.searchsorted(elements, Z) for Z in (batch.Z[i], neighbour_Z(batch)))
    n_pairs, S = len(elements) ** 2, number_of_structures(batch)
    row = (batch.batch[i] * len(elements) + ours) * len(elements) + theirs
    r = neighbour_distances(batch).unsqueeze(-1)
    values = SmoothBessel(RADIAL_FUNCTIONS, cutoff).to(r.device, r.dtype)(r)
    sums = index_sum(values, row, S * n_pairs).view(S, n_pairs * RADIAL_FUNCTIONS)
    return sums / structure_sizes(batch).unsqueeze(1)


def farthest_points(features: np.ndarray, n: int, known: np.ndarray | None = None) -> list[int]:
    """Choose points one after the other, each the farthest from all chosen ones.

    Distances are of features that are divided by their standard deviation.

    Parameters
    ----------
    features
        Of the candidates, shape (S, P).
    n
        How many to choose.
    known
        Of those that are chosen already, shape (K, P). Without any, the first choice is the
        candidate nearest to the mean.

    Returns
    -------
    list[int]
        Indices of candidates, in the order of choice.

    Raises
    ------
    ValueError
        If there are fewer candidates than wanted.

    Examples
    --------
    >>> farthest_points(np.array([[0.0], [0.1], [0.6], [1.0]]), n=3)
    [2, 0, 3]
    """
    _check_number(n, len(features))
    everyone = features if known is None else np.concatenate([features, known])
    width = everyone.std(axis=0)
    kept = width > 1e-9 * max(float(np.abs(everyone).max(initial=0)), 1e-300)
    x = features[:, kept] / width[kept]
    if known is None or len(known) == 0:
        chosen = [int(np.linalg.norm(x - x.mean(axis=0), axis=1).argmin())] if n else []
        distance = np.full(len(x), np.inf)
        start = [x[k] for k in chosen]
    else:
        chosen, distance = [], np.full(len(x), np.inf)
        start = list(known[:, kept] / width[kept])
    for point in start:
        distance = np.minimum(distance, np.linalg.norm(x - point, axis=1))
    while len(chosen) < n:
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(x - x[chosen[-1]], axis=1))
    return chosen


def most_uncertain(
    model: GraphPropertyModel,
    graphs: Sequence[AtomicGraph],
    n: int,
    property: PropertyKey = "forces_uncertainty",
    batch_size: int = 5,
) -> list[int]:
    """Choose the structures that a committee is least sure of, beginning with the worst.

    Parameters
    ----------
    model
        A committee.
    graphs
        The candidates.
    n
        How many to choose.
    property
        ``forces_uncertainty``, the largest of the atoms, or ``energy_uncertainty``, per atom.
    batch_size
        Number of structures to evaluate at once.

    Raises
    ------
    ValueError
        If the model is no committee, or there are fewer candidates than wanted.
    """
    _check_number(n, len(graphs))
    if property not in model.predictable_properties:
        raise ValueError(
            f"expected a committee, which predicts {property}, got a {type(model).__name__}"
        )
    for graph in graphs:
        check_elements(model, graph.Z)
    found = predict_all(model, graphs, [property], batch_size)
    if PROPERTIES[property].per == "atom":
        worst = [float(p[property].max()) for p in found]
    else:
        worst = [float(p[property]) / len(g.Z) for p, g in zip(found, graphs, strict=True)]
    return np.argsort(worst, kind="stable")[::-1][:n].tolist()


def _check_number(n: int, candidates: int) -> None:
    if not 0 <= n <= candidates:
        raise ValueError(f"expected to choose up to {candidates} structures, got {n}")
