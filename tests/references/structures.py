"""Structures of which original implementations predicted energies, forces and stress.

Needs ase and numpy only: scripts import this in environments without graph_pes.
"""

from __future__ import annotations

import ase
import numpy as np
from ase.build import bulk, molecule


def structures() -> list[ase.Atoms]:
    """Ten of H, C, O and Si: molecules, bulk in skewed and in small cells, a slab, a wire."""
    rng = np.random.default_rng(0)
    skewed = ase.Atoms("COH2", rng.uniform(0, 3, (4, 3)), pbc=True)
    skewed.cell = [[4.0, 0.3, 0.0], [1.5, 3.6, -0.2], [-0.7, 1.1, 4.4]]
    oxide = ase.Atoms("SiO2Si", [[0, 0, 0], [1.6, 0.3, 0.1], [2.9, 1.7, 1.4], [0.6, 2.1, 2.5]])
    oxide.set_cell([[4.4, 0.1, 0.0], [-0.9, 4.1, 0.3], [0.4, -0.6, 4.7]])
    oxide.pbc = True
    one_atom = bulk("Si")[:1]
    one_atom.set_cell([[2.5, 0.2, 0.0], [0.7, 2.7, 0.0], [-0.4, 0.5, 2.9]])
    slab = ase.Atoms("SiOC", [[0, 0, 0], [1.6, 0.2, 0.4], [0.2, 1.7, -0.3]], pbc=[1, 1, 0])
    slab.cell = [[2.9, 0, 0], [0.8, 3.1, 0], [0, 0, 12.0]]
    wire = ase.Atoms("CH2", [[0, 0, 0], [0.9, 0.6, 0.1], [-0.9, 0.5, 0.2]], pbc=[0, 0, 1])
    wire.cell = [[9.0, 0, 0], [0, 9.0, 0], [0, 0, 1.8]]
    found = [molecule(name) for name in ("H2O", "CH3CH2OH", "CO2", "SiH4")]
    found += [bulk("Si", cubic=True), skewed, oxide, one_atom, slab, wire]
    for atoms in found:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    return found
