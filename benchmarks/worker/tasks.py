"""What is timed; each function returns one run of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ase
import numpy as np
import torch
from ase import units
from ase.calculators.calculator import Calculator
from ase.md.verlet import VelocityVerlet

from .packages import Package

Run = Callable[[], object]


def inference(package: Package, structures: Sequence[ase.Atoms]) -> Run:
    """Energy, forces and, where the structures are periodic and the package can, stress."""
    package.module.eval()
    return package.predictor(structures)


def training(package: Package, structures: Sequence[ase.Atoms]) -> Run:
    """A step of Adam on energies and forces of one batch."""
    forces = np.concatenate([0.01 * atoms.positions for atoms in structures])
    target = torch.tensor(forces, dtype=torch.float32, device=package.device)
    optimizer = torch.optim.Adam(package.module.parameters(), lr=1e-6)
    package.module.train()
    predict = package.predictor(structures)

    def step() -> None:
        optimizer.zero_grad()
        predictions = predict()
        loss = ((predictions["energy"] + 1) ** 2).mean()
        loss = loss + ((predictions["forces"] - target) ** 2).mean()
        loss.backward()
        optimizer.step()

    return step


def md(package: Package, structures: Sequence[ase.Atoms]) -> Run:
    """A whole step of molecular dynamics with the calculator of the package."""
    if len(structures) > 1:
        raise ValueError(f"dynamics takes one structure, got {len(structures)}")
    package.module.eval()
    return dynamics(structures[0], package.calculator())


def dynamics(atoms: ase.Atoms, calculator: Calculator) -> Run:
    """Steps of molecular dynamics.

    Atoms have the velocities of 300 K and so large a mass that forces do not change them: weights
    are random, and so structures stay what they are, and the same for every package.
    """
    generator = np.random.default_rng(0)
    speeds = np.sqrt(300 * units.kB / atoms.get_masses())
    velocities = speeds[:, None] * generator.standard_normal((len(atoms), 3))
    atoms.set_masses(np.full(len(atoms), 1e12))
    atoms.set_velocities(velocities)
    atoms.info.update(charge=0, spin=1)  # which TorchMD-Net and Orb ask for
    atoms.calc = calculator
    integrator = VelocityVerlet(atoms, timestep=1.0 * units.fs)
    n_steps = 0

    def step() -> None:
        nonlocal n_steps
        integrator.step()
        n_steps += 1
        if n_steps % 50 == 0:  # back and forth, or atoms would run into each other
            atoms.set_velocities(-atoms.get_velocities())

    return step


def lammps(package: Package, structures: Sequence[ase.Atoms]) -> Run:
    """Energy and forces by the program that the package gives to LAMMPS, without LAMMPS."""
    return package.predictor(structures)


TASKS = {"inference": inference, "training": training, "md": md, "lammps": lammps}
