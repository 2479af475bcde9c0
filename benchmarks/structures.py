"""What the benchmarks run on; needs ase only."""

from __future__ import annotations

import ase.build

CUTOFF = 5.0


def silicon(n_atoms: int) -> ase.Atoms:
    """A rattled diamond crystal of 64 or 512 atoms."""
    repeats = {64: (2, 2, 2), 512: (4, 4, 4)}[n_atoms]
    atoms = ase.build.bulk("Si", cubic=True) * repeats
    atoms.rattle(0.05, seed=0)
    return atoms


def benzene_dimers(n_structures: int) -> list[ase.Atoms]:
    """Rattled pairs of benzene molecules, 24 atoms each."""
    structures = []
    for seed in range(n_structures):
        atoms = ase.build.molecule("C6H6")
        atoms.extend(ase.Atoms(atoms.numbers, atoms.positions + [0, 1.0, 3.5]))
        atoms.rattle(0.05, seed=seed)
        structures.append(atoms)
    return structures
