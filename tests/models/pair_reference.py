"""Energies, forces and stress of pair potentials, from ASE's neighbour lists and numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ase
import numpy as np
import torch
from ase.neighborlist import neighbor_list

from graph_pes import AtomicGraph
from graph_pes.models.pair_potential import PairPotential

#: From r, Z_i, Z_j to the energies of pairs and their derivatives with respect to r.
Interaction = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Reference:
    local_energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    n_pairs: int


def reference(atoms: ase.Atoms, cutoff: float, interaction: Interaction) -> Reference:
    i, j, r, vectors = neighbor_list("ijdD", atoms, cutoff)
    V, dV = interaction(r, atoms.numbers[i], atoms.numbers[j])
    local_energies, forces = np.zeros(len(atoms)), np.zeros((len(atoms), 3))
    np.add.at(local_energies, i, V / 2)
    np.add.at(forces, i, (dV / r)[:, None] * vectors)
    virial = -0.5 * np.einsum("e,ea,eb->ab", dV / r, vectors, vectors)
    return Reference(local_energies, forces, virial, len(r))


def assert_equals_reference(
    model: PairPotential, atoms: ase.Atoms, interaction: Interaction
) -> None:
    """Compare in double precision, to 1e-10 of the largest contribution."""
    graph = AtomicGraph.from_ase(atoms, model.cutoff_value, dtype=torch.float64)
    expected = reference(atoms, model.cutoff_value, interaction)
    keys = ["local_energies", "energy", "forces", "virial"]
    found = {key: x.numpy() for key, x in model.eval().predict(graph, keys).items()}
    scale = max(1.0, np.abs(expected.local_energies).max(), np.abs(expected.virial).max())
    for key, value in {
        "local_energies": expected.local_energies,
        "energy": expected.local_energies.sum(),
        "forces": expected.forces,
        "virial": expected.virial,
    }.items():
        np.testing.assert_allclose(
            found[key], value, rtol=1e-10, atol=1e-10 * scale * (1 + expected.n_pairs)
        )
