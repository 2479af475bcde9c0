"""What benchmarks run on."""

from __future__ import annotations

import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.worker.structures import CUTOFF, ELEMENTS, box, structures_of


@given(st.integers(1, 3000), st.sampled_from([5, 8]))
def test_boxes_hold_all_cells(n: int, per_cell: int) -> None:
    a, b, c = box(n * per_cell, per_cell)
    assert a * b * c == n
    assert a <= b <= c


def test_boxes_are_cubic_where_they_can_be() -> None:
    assert box(8 * 18**3, 8) == (18, 18, 18)
    assert box(50_000, 8) == (10, 25, 25)


@pytest.mark.parametrize("name", ["Si:64", "oxide:480", "molecules:10"])
def test_elements_are_those_of_the_models(name: str) -> None:
    found = {symbol for atoms in structures_of(name) for symbol in atoms.symbols}
    assert found == set(ELEMENTS[name.partition(":")[0]])


def test_the_oxide_is_a_ragged_slab() -> None:
    (atoms,) = structures_of("oxide:480")
    assert len(atoms) == 480 - 24
    counts = np.bincount(neighbor_list("i", atoms, CUTOFF), minlength=len(atoms))
    assert counts.min() < 2 / 3 * counts.mean()
    assert counts.max() > 1.2 * counts.mean()
    assert atoms.cell.lengths().min() > 2 * CUTOFF  # some packages want no more than one image
    assert min(neighbor_list("d", atoms, 1.9), default=1.9) > 1.6


def test_molecules_differ_in_size() -> None:
    structures = structures_of("molecules:10")
    assert len({len(atoms) for atoms in structures}) > 4
    for atoms in structures:
        assert min(neighbor_list("d", atoms, 2.0)) > 0.8


@pytest.mark.parametrize("name", ["Si", "Ge:64", "Si:many", "Si:63", "oxide:0"])
def test_wrong_names(name: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        structures_of(name)
