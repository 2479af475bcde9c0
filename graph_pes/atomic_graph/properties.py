"""The one table of labels: what each property is, its shape, unit and how it rotates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch

PropertyKey: TypeAlias = str


@dataclass(frozen=True)
class Property:
    """Description of a labelled quantity.

    Attributes
    ----------
    per
        Whether there is one value per atom, per edge (of the edges within a model's cutoff; not
        for labels), or per structure.
    shape
        Shape of one value: ``()`` for a scalar, ``(3,)`` for a Cartesian vector, ``(3, 3)``
        for a Cartesian tensor; ``None`` where it is up to the data.
    unit
        Unit of the value.
    parity
        +1 if the value keeps its sign under reflection of all space as a proper tensor of
        its rank does, -1 for pseudo-tensors.
    float64
        Keep the value in double precision whatever the precision of the graph. Total
        energies need this: 1e5 eV in single precision is only good to 4 meV.
    """

    per: Literal["atom", "edge", "structure"]
    shape: tuple[int, ...] | None
    unit: str
    parity: Literal[1, -1] = 1
    float64: bool = False


#: Every property that graphs are labelled with and models predict. Add a row to declare
#: another one: batching, reading files, losses and rotations follow this table.
PROPERTIES: dict[str, Property] = {
    "local_energies": Property("atom", (), "eV"),
    "forces": Property("atom", (3,), "eV/Å"),
    "energy": Property("structure", (), "eV", float64=True),
    "stress": Property("structure", (3, 3), "eV/Å^3"),
    "virial": Property("structure", (3, 3), "eV"),
    "tensor": Property("atom", None, ""),
    "dipole": Property("structure", (3,), "e Å"),
    "polarizability": Property("structure", (3, 3), "e Å^2/V"),
    "charges": Property("atom", (), "e"),
    "magnetic_moments": Property("atom", (), "μ_B"),
    "total_charge": Property("structure", (), "e"),
    "total_spin": Property("structure", (), "2S + 1"),
    # of committees of M members: (N, M) and (S, M), and standard deviations over the members
    "local_energies_ensemble": Property("atom", None, "eV"),
    "energy_ensemble": Property("structure", None, "eV", float64=True),
    "energy_uncertainty": Property("structure", (), "eV", float64=True),
    "forces_uncertainty": Property("atom", (), "eV/Å"),
    "mobility_self": Property("atom", (3, 3), "Å/(eV ps)^½"),
    "mobility_pairs": Property("edge", (3, 3), "Å/(eV ps)^½"),
}

#: Labels that are read from a structure if nothing else is asked for.
DEFAULT_LABELS: Final[tuple[str, ...]] = ("energy", "forces", "stress", "virial", "tensor")

ALL_PROPERTY_KEYS: Final[list[PropertyKey]] = [
    "local_energies",
    "forces",
    "energy",
    "stress",
    "virial",
    "tensor",
    "dipole",
    "polarizability",
    "charges",
]


def expected_shape(key: PropertyKey, n_atoms: int) -> tuple[int, ...] | None:
    """Shape of a property of one structure, or None where the table leaves it open.

    Examples
    --------
    >>> expected_shape("forces", n_atoms=5)
    (5, 3)
    """
    property = PROPERTIES[key]
    if property.shape is None:
        return None
    return (n_atoms, *property.shape) if property.per == "atom" else property.shape


def label_dtype(key: PropertyKey, default: torch.dtype) -> torch.dtype:
    """Precision in which a label is held by a graph of precision ``default``."""
    return torch.float64 if PROPERTIES[key].float64 else default
