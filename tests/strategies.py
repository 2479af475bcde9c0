"""Hypothesis strategies: random structures, graphs and rotations.

Sizes, periodicity and shapes are drawn by hypothesis, so that it can shrink them; positions
come from a drawn seed, which is fast.
"""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
from hypothesis import strategies as st

from graph_pes.testing.structures import StructureKind, random_orthogonal_matrix, random_structure

ELEMENTS = ("H", "C", "O", "Si")

seeds = st.integers(0, 2**16)


@st.composite
def structures(
    draw: st.DrawFn,
    elements: Sequence[str] = ELEMENTS,
    min_distance: float = 0.6,
    min_atoms: int = 1,
    max_atoms: int = 12,
    pbc: bool | tuple[bool, bool, bool] | None = None,
) -> ase.Atoms:
    """Any structure: a molecule, wire, slab or bulk; cells may be small, skewed, left-handed.

    Atoms may be isolated, so that some structures have no edge at all, and may be outside of
    the cell. ``pbc=None`` draws any combination.
    """
    if pbc is None:
        pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    elif isinstance(pbc, bool):
        pbc = (pbc, pbc, pbc)
    n_atoms = draw(st.integers(min_atoms, max_atoms))
    kind = StructureKind(
        n_atoms=n_atoms,
        pbc=pbc,
        elements=elements,
        min_distance=min_distance,
        volume_per_atom=draw(st.sampled_from([10.0, 5.0, 20.0, 60.0])),
        skew=draw(st.sampled_from([0.0, 0.5, 1.0])),
        isolated_atoms=draw(st.sampled_from([0, 0, 1, 3])),
        wrapped=draw(st.sampled_from([True, False])),
        box=draw(st.booleans()),
    )
    return random_structure(kind, draw(seeds))


def molecules(**options: object) -> st.SearchStrategy[ase.Atoms]:
    """Structures without any periodic direction; options as for `structures`."""
    return structures(pbc=False, **options)  # type: ignore[arg-type]


def periodic_structures(**options: object) -> st.SearchStrategy[ase.Atoms]:
    """Structures that are periodic in all directions; options as for `structures`."""
    return structures(pbc=True, **options)  # type: ignore[arg-type]


def structure_lists(
    min_size: int = 1, max_size: int = 4, max_atoms: int = 6, **options: object
) -> st.SearchStrategy[list[ase.Atoms]]:
    """A few structures, to be batched; options as for `structures`."""
    return st.lists(
        structures(max_atoms=max_atoms, **options),  # type: ignore[arg-type]
        min_size=min_size,
        max_size=max_size,
    )


def rotations(reflections: bool = False) -> st.SearchStrategy[np.ndarray]:
    """Orthogonal matrices (3, 3), proper rotations unless ``reflections`` are asked for too."""
    signs = st.booleans() if reflections else st.just(False)
    return st.builds(random_orthogonal_matrix, seeds, signs)
