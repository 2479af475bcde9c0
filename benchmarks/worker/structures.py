"""What the benchmarks run on; needs ase only."""

from __future__ import annotations

from itertools import pairwise

import ase
import ase.build
import numpy as np

#: In Å, for all models.
CUTOFF = 5.0

#: What a model of each kind of structure has to know.
ELEMENTS = {"Si": ["Si"], "molecules": ["H", "C", "O"], "oxide": ["O", "Ti", "Sr"]}

#: Beside benzene, one after the other: 15 to 26 atoms in all.
PARTNERS = (
    "C6H6",
    "CH3CH2OH",
    "CH3COOH",
    "H2O2",
    "isobutane",
    "C4H4O",
    "CH3COCH3",
    "HCOOH",
    "CH3CH2OCH3",
    "CO2",
)


def structures_of(name: str) -> list[ase.Atoms]:
    """``Si:512``, ``oxide:480`` or ``molecules:10``: a kind, and how many atoms or structures."""
    kind, _, number = name.partition(":")
    if kind not in ELEMENTS or not number.isdigit():
        raise ValueError(f"expected {' or '.join(ELEMENTS)}, a colon and a number, got {name!r}")
    n = int(number)
    if kind == "molecules":
        return [pair_of_molecules(seed) for seed in range(n)]
    return [silicon(n) if kind == "Si" else oxide(n)]


def silicon(n_atoms: int) -> ase.Atoms:
    """A rattled diamond crystal, as cubic as may be."""
    atoms = ase.build.bulk("Si", cubic=True) * box(n_atoms, 8)
    atoms.rattle(0.05, seed=0)
    return atoms


def oxide(n_atoms: int) -> ase.Atoms:
    """A rattled slab of SrTiO3 in which one in twenty of so many atoms is missing."""
    a = 3.905
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    thickness, *area = box(n_atoms, 5)
    atoms = ase.Atoms("SrTiO3", scaled_positions=sites, cell=[a, a, a], pbc=True)
    atoms *= (*area, thickness)
    atoms.center(vacuum=6.0, axis=2)
    generator = np.random.default_rng(0)
    del atoms[generator.choice(n_atoms, n_atoms // 20, replace=False)]
    atoms.rattle(0.05, seed=0)
    return atoms


def pair_of_molecules(seed: int) -> ase.Atoms:
    """Benzene with another molecule above it, rattled."""
    atoms = ase.build.molecule("C6H6")
    partner = ase.build.molecule(PARTNERS[seed % len(PARTNERS)])
    partner.positions += [0, 0, 3.5 - partner.positions[:, 2].min()]
    atoms.extend(partner)
    atoms.rattle(0.05, seed=seed)
    return atoms


def box(n_atoms: int, per_cell: int) -> tuple[int, int, int]:
    """Cells along each direction, the fewest first, that differ as little as possible."""
    n, rest = divmod(n_atoms, per_cell)
    if rest or n < 1:
        raise ValueError(f"expected a multiple of {per_cell} atoms, got {n_atoms}")
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    shapes = [(a, b, n // a // b) for a in divisors for b in divisors if n % (a * b) == 0]
    return min((s for s in shapes if all(x <= y for x, y in pairwise(s))), key=lambda s: s[2])
