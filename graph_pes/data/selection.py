"""Some of the structures of a file or collection, which remember where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    import ase


@dataclass(frozen=True)
class Selection(Sequence["ase.Atoms"]):
    """Structures chosen from a collection, which is only accessed when they are.

    Attributes
    ----------
    structures
        The collection.
    indices
        Which of its structures, in which order.
    source
        What error messages call the collection, such as the path of a file.

    Examples
    --------
    >>> from ase.build import molecule
    >>> water_and_methane = [molecule("H2O"), molecule("CH4")]
    >>> selection = Selection(water_and_methane, indices=[1], source="molecules.xyz")
    >>> str(selection[0].symbols), selection.name_of(0)
    ('CH4', 'molecules.xyz, structure 1')
    """

    structures: Sequence[ase.Atoms]
    indices: Sequence[int]
    source: str

    @overload
    def __getitem__(self, index: int) -> ase.Atoms: ...
    @overload
    def __getitem__(self, index: slice) -> Selection: ...
    def __getitem__(self, index: int | slice) -> ase.Atoms | Selection:
        if isinstance(index, slice):
            return Selection(self.structures, self.indices[index], self.source)
        return self.structures[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)

    def name_of(self, index: int) -> str:
        """The source of a structure and its (zero-based) index there."""
        return f"{self.source}, structure {self.indices[index]}"


def shuffled_indices(n: int, seed: int) -> list[int]:
    """The numbers 0 to n-1 in an order fixed by the seed (that of graph-pes 1.0.2).

    Examples
    --------
    >>> shuffled_indices(5, seed=42)
    [4, 2, 3, 1, 0]
    """
    indices = list(range(n))
    np.random.default_rng(seed).shuffle(indices)
    return indices


def check_count(name: str, n: int) -> None:
    """Refuse a number of structures that would make an empty data set.

    Raises
    ------
    ValueError
        If ``n`` is not a positive integer.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise ValueError(f"{name} should be a whole number of structures, got {n!r}")
    if n <= 0:
        raise ValueError(f"{name} = {n} makes an empty data set: expected at least one structure")
