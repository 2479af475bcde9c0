"""Random structures of every kind that models meet: the input of the conformance checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import ase

#: Components of a structure that are at most this flat are still well conditioned.
_FLATTEST_CELL = 0.2


@dataclass(frozen=True)
class StructureKind:
    """What a random structure looks like.

    Attributes
    ----------
    n_atoms
        Number of atoms.
    pbc
        Periodic directions.
    elements
        Chemical symbols to choose from.
    min_distance
        No two atoms (or images) are closer than this, in Å.
    volume_per_atom
        In Å^3; larger where ``min_distance`` requires it. Small values make cells in which
        atoms have several images of each other, and of themselves, as neighbours.
    skew
        How far the cell is from cubic, from 0 (cubic) to 1.
    isolated_atoms
        Put this many atoms 12 Å or more away from all others; needs a direction that is
        not periodic.
    wrapped
        Whether all atoms are in the unit cell, rather than anywhere.
    box
        Whether directions that are not periodic have a lattice vector nevertheless.
    """

    n_atoms: int = 4
    pbc: tuple[bool, bool, bool] = (False, False, False)
    elements: Sequence[str] = ("H", "C", "O")
    min_distance: float = 0.8
    volume_per_atom: float = 10.0
    skew: float = 0.5
    isolated_atoms: int = 0
    wrapped: bool = True
    box: bool = False


def random_structure(kind: StructureKind, seed: int) -> ase.Atoms:
    """A random structure of a given kind.

    Examples
    --------
    >>> random_structure(StructureKind(n_atoms=2, pbc=(True, True, False)), seed=1).pbc
    array([ True,  True, False])
    """
    import ase

    rng = np.random.default_rng(seed)
    pbc = np.array(kind.pbc, dtype=bool)
    n_clustered = kind.n_atoms - (0 if pbc.all() else min(kind.isolated_atoms, kind.n_atoms))
    cell = _random_cell(rng, max(n_clustered, 1) * kind.volume_per_atom, kind.skew)
    while (scaled := _placed(rng, n_clustered, cell, pbc, kind.min_distance)) is None:
        cell = cell * 1.1
    positions = scaled @ cell
    if n_clustered < kind.n_atoms:
        positions = np.concatenate(
            [positions, _far_away(rng, kind.n_atoms - n_clustered, cell, pbc, positions)]
        )
    if not kind.wrapped:
        positions = positions + (rng.integers(-2, 3, positions.shape) * pbc) @ cell
    if not kind.box:
        cell = np.where(pbc[:, None], cell, 0.0)
    symbols = rng.choice(list(kind.elements), kind.n_atoms)
    order = rng.permutation(kind.n_atoms)
    return ase.Atoms(symbols, positions=positions[order], cell=cell, pbc=pbc)


def random_orthogonal_matrix(seed: int, reflection: bool = False) -> np.ndarray:
    """A random orthogonal matrix, shape (3, 3), of determinant 1, or -1 for a reflection.

    Examples
    --------
    >>> round(float(np.linalg.det(random_orthogonal_matrix(0, reflection=True))), 6)
    -1.0
    """
    Q, R = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    Q = Q * np.sign(np.diag(R))
    wanted = -1 if reflection else 1
    return Q if np.linalg.det(Q) * wanted > 0 else -Q


def standard_structures(
    elements: Sequence[str] = ("H", "C", "O"), seed: int = 0
) -> list[ase.Atoms]:
    """Small structures of every kind: what the conformance checks run on by default.

    One atom, atoms without neighbours, molecules, bulk, slabs and wires, in small and skewed
    cells, with atoms outside of the cell.
    """
    yes, no = True, False
    kinds = [
        StructureKind(n_atoms=1),
        StructureKind(n_atoms=3, isolated_atoms=3),
        StructureKind(n_atoms=5),
        StructureKind(n_atoms=6, isolated_atoms=1, box=True),
        StructureKind(n_atoms=1, pbc=(yes, yes, yes), volume_per_atom=8.0),
        StructureKind(n_atoms=4, pbc=(yes, yes, yes), skew=1.0, wrapped=False),
        StructureKind(n_atoms=3, pbc=(yes, yes, no), box=True),
        StructureKind(n_atoms=4, pbc=(no, yes, no), isolated_atoms=1, wrapped=False),
    ]
    return [
        random_structure(StructureKind(**{**vars(kind), "elements": tuple(elements)}), seed + n)
        for n, kind in enumerate(kinds)
    ]


def _random_cell(rng: np.random.Generator, volume: float, skew: float) -> np.ndarray:
    """Lattice vectors (rows) in any orientation, right- or left-handed."""
    while True:
        cell = np.eye(3) + skew * rng.uniform(-0.8, 0.8, (3, 3))
        flatness = abs(np.linalg.det(cell)) / np.prod(np.linalg.norm(cell, axis=1))
        if flatness > _FLATTEST_CELL:
            break
    cell = cell * (volume / abs(np.linalg.det(cell))) ** (1 / 3)
    seed = int(rng.integers(2**31))
    axes = random_orthogonal_matrix(seed, reflection=bool(rng.integers(2)))
    return cell[rng.permutation(3)] @ axes


def _placed(
    rng: np.random.Generator, n: int, cell: np.ndarray, pbc: np.ndarray, min_distance: float
) -> np.ndarray | None:
    """Fractional coordinates (n, 3) of atoms not too close, or None if there is no room."""
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    reach = np.where(pbc, np.ceil(min_distance / heights) + 1, 0).astype(int)
    shifts = np.stack(
        np.meshgrid(*(np.arange(-k, k + 1) for k in reach), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    own_images = np.linalg.norm(shifts[(shifts != 0).any(1)] @ cell, axis=1)
    if (own_images < min_distance).any():
        return None
    placed = np.zeros((0, 3))
    for _ in range(n):
        for _ in range(30):
            new = rng.uniform(size=3)
            vectors = (placed[:, None] + shifts - new) @ cell
            if (np.linalg.norm(vectors, axis=-1) >= min_distance).all():
                placed = np.concatenate([placed, new[None]])
                break
        else:
            return None
    return placed


def _far_away(
    rng: np.random.Generator, n: int, cell: np.ndarray, pbc: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Positions (n, 3) far from all others, in a direction in which nothing is periodic."""
    # Perpendicular to the periodic directions, so that no image comes near.
    free = np.linalg.svd(cell[pbc], full_matrices=True)[2][int(pbc.sum()) :]
    start = (positions @ free[0]).max() if len(positions) else 0.0
    distances = start + 12.0 * (1 + np.arange(n)) + rng.uniform(0, 3) * np.arange(n)
    return distances[:, None] * free[0]
