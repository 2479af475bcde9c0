"""Committees: several models of the same, which differ where they should not be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey

from .addition import predictions_of_component
from .base import GraphPESModel
from .derivatives import Predictions, energy_of, spread_of


class Committee(GraphPESModel):
    r"""Several models of the same, such as training runs that differ in their seed.

    What it predicts is the mean of what its members predict. How much these differ,

    .. math::  \sigma = s \sqrt{\frac{1}{M - 1} \sum_m | x_m - \bar x |^2}

    tells how far to trust it: ``energy_uncertainty``, of the energy of each structure, and
    ``forces_uncertainty``, of the force on each atom. The ``energy_ensemble`` (S, M) and the
    ``local_energies_ensemble`` (N, M) are those of each member, moved away from their mean by the
    factor s, which is 1 until `graph_pes.analysis.calibrate` sets it. Behler,
    doi:10.1002/qua.24890; Imbalzano et al., doi:10.1063/5.0036522.

    Uncertainties of energies cost nothing, and those of forces no more than forces do.

    Parameters
    ----------
    models
        The members, at least two.

    Raises
    ------
    TypeError
        If a member is not a `GraphPESModel`.
    ValueError
        If there are fewer than two, or if they do not predict the same properties.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from graph_pes.models import Morse
    >>> model = Committee([Morse(D=0.10), Morse(D=0.12), Morse(D=0.14)])
    >>> graph = AtomicGraph.from_ase(molecule("H2O"), cutoff=5.0)
    >>> found = model.predict(graph, ["energy_uncertainty", "forces_uncertainty"])
    >>> {key: list(value.shape) for key, value in found.items()}
    {'energy_uncertainty': [], 'forces_uncertainty': [3]}
    """

    scale: Tensor

    def __init__(self, models: Sequence[GraphPESModel]):
        for n, model in enumerate(models):
            if not isinstance(model, GraphPESModel):
                raise TypeError(
                    f"Committee: expected member {n} to be a GraphPESModel, got "
                    f"{type(model).__name__}"
                )
        if len(models) < 2:
            raise ValueError(f"Committee: expected at least two models, got {len(models)}")
        properties = [sorted(model.implemented_properties) for model in models]
        if any(keys != properties[0] for keys in properties):
            raise ValueError(
                f"Committee: the members must predict the same properties, got {properties}"
            )
        if any("ensemble" in key for key in properties[0]):
            raise ValueError("Committee: a member can't be a committee: give all members to one")
        super().__init__(
            cutoff=max(model.cutoff_value for model in models),
            implemented_properties=[*properties[0], *spreads_of(properties[0])],
            three_body_cutoff=max(float(model.three_body_cutoff) for model in models),
        )
        self.models = nn.ModuleList(models)
        self.register_float64_buffer("scale", torch.ones(()))
        self._has_been_pre_fit.fill_(all(bool(model._has_been_pre_fit) for model in models))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Means, energies of the members, and the spread of forces if they are not derivatives."""
        of_each: list[Predictions] = []
        for model in self.models:
            of_member = predictions_of_component(cast(GraphPESModel, model), graph)
            if "energy" in self.implemented_properties:
                of_member = {**of_member, "energy": energy_of(of_member, graph)}
            of_each.append(of_member)
        of_all = {key: _side_by_side([x[key] for x in of_each], key) for key in of_each[0]}
        results = {key: members.mean(1) for key, members in of_all.items()}
        for key, source in spreads_of(self.implemented_properties).items():
            members, mean = of_all[source], results[source].unsqueeze(1)
            if key == "forces_uncertainty":
                results[key] = self.scale.to(members.dtype) * spread_of(members)
            else:
                results[key] = mean + self.scale * (members - mean)
        return results


def _side_by_side(values: Sequence[Tensor], key: PropertyKey) -> Tensor:
    """Predictions of the members along the second dimension; energies in double precision."""
    in_double = key in ("local_energies", "energy")
    # not torch.stack, which TorchScript, of metatomic, can't differentiate
    return torch.cat([(x.double() if in_double else x).unsqueeze(1) for x in values], dim=1)


def spreads_of(properties: Sequence[PropertyKey]) -> dict[PropertyKey, PropertyKey]:
    """What a committee implements besides the properties of its members, and of which it is.

    Where energies are of whole structures, there are no energies of atoms to tell apart.
    """
    energies = "energy" if "energy" in properties else "local_energies"
    spreads = {f"{energies}_ensemble": energies}
    if "forces" in properties:
        spreads["forces_uncertainty"] = "forces"
    return spreads
