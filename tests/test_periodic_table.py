from __future__ import annotations

import ase.data
import pytest

from graph_pes.periodic_table import (
    ATOMIC_NUMBERS,
    COVALENT_RADII,
    MAX_Z,
    SYMBOLS,
    atomic_number,
    check_atomic_numbers,
    symbols_of,
)


def test_symbols_are_those_of_ase() -> None:
    assert list(SYMBOLS) == ase.data.chemical_symbols
    assert ase.data.atomic_numbers == ATOMIC_NUMBERS
    assert SYMBOLS[MAX_Z] == "Og"


def test_covalent_radii() -> None:
    assert len(COVALENT_RADII) == MAX_Z + 1
    known = slice(1, 97)  # ASE has a placeholder beyond curium
    assert COVALENT_RADII[known] == pytest.approx(ase.data.covalent_radii[known].tolist())


@pytest.mark.parametrize(("symbol", "Z"), [("H", 1), ("Si", 14), ("Og", 118), ("X", 0)])
def test_atomic_number(symbol: str, Z: int) -> None:
    assert atomic_number(symbol) == Z


@pytest.mark.parametrize(("wrong", "hint"), [("si", "Si"), ("CL", "Cl"), ("Hee", "He")])
def test_unknown_symbol(wrong: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"got '{wrong}': did you mean '{hint}'\?$"):
        atomic_number(wrong)


def test_unknown_symbol_without_a_hint() -> None:
    with pytest.raises(ValueError, match=r"expected a chemical symbol, got '42'\.$"):
        atomic_number("42")


@pytest.mark.parametrize("Z", [0, -1, 119, 1000])
def test_numbers_that_are_no_elements(Z: int) -> None:
    check_atomic_numbers([1, MAX_Z])
    with pytest.raises(ValueError, match=rf"expected atomic numbers from 1 .* to 118 .*, got {Z}"):
        check_atomic_numbers([1, Z])


def test_symbols_of() -> None:
    assert symbols_of([8, 1, 1, 14]) == ["H", "O", "Si"]
    assert symbols_of([]) == []
