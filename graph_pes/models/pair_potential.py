"""Sums of interactions between pairs of atoms."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    neighbour_distances,
    neighbour_Z,
    sum_over_neighbours,
)
from graph_pes.nn.envelopes import SmoothOnsetEnvelope

from .base import GraphPESModel


def logarithm_of(name: str, value: float) -> nn.Parameter:
    """Logarithm of a positive quantity as a parameter: training can't make it negative.

    Parameters
    ----------
    name
        What the quantity is called in the error.
    value
        The quantity itself.

    Raises
    ------
    ValueError
        If the quantity is not positive.
    """
    if not value > 0:
        raise ValueError(f"expected {name} > 0, got {name}={value}")
    return nn.Parameter(torch.tensor(math.log(value), dtype=torch.get_default_dtype()))


class PairPotential(GraphPESModel, ABC):
    r"""A potential that is a sum over pairs of atoms.

    .. math::

        E = \sum_i \varepsilon_i, \qquad
        \varepsilon_i = \frac{1}{2} \sum_{j:\, r_{ij} < r_c} V(r_{ij}, Z_i, Z_j)

    =================== =============================================================
    :math:`r_{ij}`      distance of the neighbour j (an image of an atom) from atom i
    :math:`Z_i, Z_j`    their atomic numbers
    :math:`r_c`         the cutoff
    :math:`V`           `interaction`, the only method a subclass writes
    =================== =============================================================

    The sum is truncated: a pair at or beyond the cutoff contributes exactly zero. Where
    :math:`V(r_c) \ne 0` the energy jumps by that much when a pair crosses the cutoff, which
    spoils the conservation of energy; `SmoothedPairPotential` removes the jump.

    Parameters
    ----------
    cutoff
        In Å.

    Examples
    --------
    >>> class Coulomb(PairPotential):
    ...     def interaction(self, r, Z_i, Z_j):
    ...         return 14.4 * Z_i * Z_j / r
    >>> from ase import Atoms
    >>> protons = AtomicGraph.from_ase(Atoms("H2", [[0, 0, 0], [0, 0, 2]]), cutoff=3.0)
    >>> Coulomb(cutoff=3.0).predict_energy(protons).item()
    7.19999...
    """

    def __init__(self, cutoff: float):
        super().__init__(cutoff, implemented_properties=["local_energies"])

    @abstractmethod
    def interaction(self, r: Tensor, Z_i: Tensor, Z_j: Tensor) -> Tensor:
        """Energy of pairs of atoms, before truncation.

        Parameters
        ----------
        r
            Distances in Å, shape (E,).
        Z_i, Z_j
            Atomic numbers of the central atoms and of their neighbours, shape (E,). The
            energy must not change when the two are swapped.

        Returns
        -------
        Tensor
            In eV, shape (E,).
        """

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Half of the interactions each atom takes part in: shape (N,)."""
        r = neighbour_distances(graph)
        Z_i = graph.Z.index_select(0, graph.neighbour_list[0])
        V = self.interaction(r, Z_i, neighbour_Z(graph)).reshape(r.shape)
        V = torch.where(r < self.cutoff, V, 0.0)
        return {"local_energies": sum_over_neighbours(V, graph) / 2}


class SmoothedPairPotential(PairPotential):
    r"""A pair potential that goes smoothly to zero at its cutoff.

    .. math::

        V(r) = f(r) \, V_\text{wrapped}(r), \qquad
        f(r) = \begin{cases}
            1 & r < r_o \\
            (r_c - r)^2 (r_c + 2r - 3r_o) / (r_c - r_o)^3 & r_o \le r < r_c \\
            0 & r \ge r_c
        \end{cases}

    Energy and forces are continuous. Below the onset :math:`r_o`, nothing changes.

    Parameters
    ----------
    potential
        The potential to wrap, whose cutoff is :math:`r_c`.
    smoothing_onset
        :math:`r_o` in Å, :math:`2 r_c / 3` by default.

    Raises
    ------
    ValueError
        If the onset is not less than the cutoff.

    Examples
    --------
    >>> from graph_pes.models.lennard_jones import LennardJones
    >>> bare = LennardJones(cutoff=3.0)
    >>> smooth = SmoothedPairPotential(bare)
    >>> r, Z = torch.tensor([1.2, 2.9, 3.0]), torch.tensor([1, 1, 1])
    >>> (smooth.interaction(r, Z, Z) / bare.interaction(r, Z, Z)).tolist()
    [1.0, 0.027..., 0.0]
    """

    def __init__(self, potential: PairPotential, smoothing_onset: float | None = None):
        cutoff = potential.cutoff_value
        super().__init__(cutoff)
        onset = 2 * cutoff / 3 if smoothing_onset is None else smoothing_onset
        self.potential = potential
        self.envelope = SmoothOnsetEnvelope(cutoff, onset)

    def interaction(self, r: Tensor, Z_i: Tensor, Z_j: Tensor) -> Tensor:
        """The wrapped interaction times the envelope: shape (E,)."""
        return self.potential.interaction(r, Z_i, Z_j).reshape(r.shape) * self.envelope(r)
