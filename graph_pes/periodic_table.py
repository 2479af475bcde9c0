"""Chemical elements: symbols, atomic numbers and covalent radii.

Index 0 is the placeholder ``X`` (as in ASE), so ``SYMBOLS[Z]`` is the symbol of element ``Z``.
"""

from __future__ import annotations

from collections.abc import Iterable

from .spelling import nearest

MAX_Z = 118

SYMBOLS: tuple[str, ...] = tuple(
    """
    X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge
    As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm
    Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U
    Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
    """.split()
)

ATOMIC_NUMBERS: dict[str, int] = {symbol: Z for Z, symbol in enumerate(SYMBOLS)}

#: Covalent radii in Å (Cordero et al., doi:10.1039/b801115j); 2.00 beyond curium, 0.20 for X.
COVALENT_RADII: tuple[float, ...] = (
    0.20,
    0.31,
    0.28,
    1.28,
    0.96,
    0.84,
    0.76,
    0.71,
    0.66,
    0.57,
    0.58,
    1.66,
    1.41,
    1.21,
    1.11,
    1.07,
    1.05,
    1.02,
    1.06,
    2.03,
    1.76,
    1.70,
    1.60,
    1.53,
    1.39,
    1.39,
    1.32,
    1.26,
    1.24,
    1.32,
    1.22,
    1.22,
    1.20,
    1.19,
    1.20,
    1.20,
    1.16,
    2.20,
    1.95,
    1.90,
    1.75,
    1.64,
    1.54,
    1.47,
    1.46,
    1.42,
    1.39,
    1.45,
    1.44,
    1.42,
    1.39,
    1.39,
    1.38,
    1.39,
    1.40,
    2.44,
    2.15,
    2.07,
    2.04,
    2.03,
    2.01,
    1.99,
    1.98,
    1.98,
    1.96,
    1.94,
    1.92,
    1.92,
    1.89,
    1.90,
    1.87,
    1.87,
    1.75,
    1.70,
    1.62,
    1.51,
    1.44,
    1.41,
    1.36,
    1.36,
    1.32,
    1.45,
    1.46,
    1.48,
    1.40,
    1.50,
    1.50,
    2.60,
    2.21,
    2.15,
    2.06,
    2.00,
    1.96,
    1.90,
    1.87,
    1.80,
    1.69,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
    2.00,
)


def atomic_number(symbol: str) -> int:
    """Atomic number of an element given by its symbol.

    Raises
    ------
    ValueError
        If there is no such element; the message names the closest symbol.

    Examples
    --------
    >>> atomic_number("Si")
    14
    """
    if symbol in ATOMIC_NUMBERS:
        return ATOMIC_NUMBERS[symbol]
    hint = nearest(symbol, SYMBOLS[1:])
    raise ValueError(f"Unknown element: expected a chemical symbol, got {symbol!r}{hint}")


def check_atomic_numbers(numbers: Iterable[int]) -> None:
    """Make sure that numbers are those of elements.

    Raises
    ------
    ValueError
        If one of them is not.

    Examples
    --------
    >>> check_atomic_numbers([1, 0])
    Traceback (most recent call last):
    ValueError: expected atomic numbers from 1 (H) to 118 (Og), got 0 (ASE's placeholder X?)
    """
    for Z in numbers:
        if not 1 <= Z <= MAX_Z:
            what = " (ASE's placeholder X?)" if Z == 0 else ""
            raise ValueError(
                f"expected atomic numbers from 1 (H) to {MAX_Z} ({SYMBOLS[MAX_Z]}), got {Z}{what}"
            )


def symbols_of(numbers: Iterable[int]) -> list[str]:
    """Distinct chemical symbols, in order of atomic number.

    Examples
    --------
    >>> symbols_of([8, 1, 1])
    ['H', 'O']
    """
    return [SYMBOLS[Z] for Z in sorted(set(numbers))]
