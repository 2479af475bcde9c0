"""Dynamics that end where a committee should no longer be trusted."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.md import MolecularDynamics

logger = logging.getLogger("graph_pes")

_UNITS = {"forces_uncertainty": "eV/Å", "energy_uncertainty": "eV"}


class StopWhenUncertain:
    """Ends a run of ASE when an uncertainty exceeds a threshold, and saves the structure.

    Attach it to the dynamics: after a step with too large an uncertainty, of any atom or of the
    structure, the structure is added to a file, a warning says so, and ``run`` returns.

    Parameters
    ----------
    dynamics
        The run, of atoms with the calculator of a committee.
    threshold
        In eV/Å, of forces, or eV.
    property
        ``"forces_uncertainty"`` or ``"energy_uncertainty"``.
    path
        A file that ASE can append to; None saves nothing.

    Attributes
    ----------
    structure
        The structure at which the run was ended, with the uncertainty in ``info`` or ``arrays``;
        None as long as it was not.

    Raises
    ------
    ValueError
        If the threshold is not positive, or the calculator has no such property.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from ase.md.verlet import VelocityVerlet
    >>> from graph_pes.models import Committee, Morse
    >>> atoms = molecule("H2O")
    >>> atoms.calc = Committee([Morse(D=0.1), Morse(D=0.2)]).ase_calculator()
    >>> md = VelocityVerlet(atoms, timestep=0.1)
    >>> stop = StopWhenUncertain(md, threshold=0.01, path=None)
    >>> md.attach(stop, interval=5)
    >>> _ = md.run(100)
    >>> md.nsteps, stop.structure
    (0, Atoms(symbols='OH2', pbc=False, forces_uncertainty=...))
    """

    def __init__(
        self,
        dynamics: MolecularDynamics,
        threshold: float,
        property: Literal["forces_uncertainty", "energy_uncertainty"] = "forces_uncertainty",
        path: str | os.PathLike[str] | None = "uncertain.xyz",
    ):
        if not threshold > 0:
            raise ValueError(f"StopWhenUncertain: expected a threshold above 0, got {threshold}")
        known = getattr(dynamics.atoms.calc, "implemented_properties", [])
        if property not in known:
            raise ValueError(
                f"StopWhenUncertain: expected a calculator of a committee, which has {property}, "
                f"got one that has {list(known)}"
            )
        self.dynamics, self.threshold = dynamics, threshold
        self.property, self.path = property, path
        self.structure: Atoms | None = None

    def __call__(self) -> None:
        """Compare the present uncertainty with the threshold."""
        atoms = self.dynamics.atoms
        sigma = atoms.calc.get_property(self.property, atoms)
        if sigma is None:
            raise PropertyNotImplementedError(self.property)
        largest = float(np.max(sigma))
        # NaN is no reason to go on
        if largest <= self.threshold:
            return
        self.structure = atoms.copy()
        if np.ndim(sigma):
            self.structure.arrays[self.property] = np.array(sigma)
        else:
            self.structure.info[self.property] = sigma
        where = ""
        if self.path is not None:
            ase.io.write(Path(self.path), self.structure, append=True)
            where = f"; the structure was added to {os.fspath(self.path)}"
        of_atom = f" of atom {int(np.argmax(sigma))}" if np.ndim(sigma) else ""
        logger.warning(
            "Stopped at step %d: %s%s is %.3g %s, above the threshold of %.3g %s%s",
            *(self.dynamics.nsteps, self.property, of_atom, largest, _UNITS[self.property]),
            *(self.threshold, _UNITS[self.property], where),
        )
        self.dynamics.max_steps = self.dynamics.nsteps
