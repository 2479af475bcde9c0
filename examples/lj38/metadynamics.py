"""Well-tempered metadynamics of a cluster of 38 argon atoms, by ASE and PLUMED.

    pip install --no-deps hillclimber==0.1.8
    python examples/lj38/metadynamics.py --steps 200000
    python examples/lj38/metadynamics.py --steps 200000 --restart
    python examples/lj38/metadynamics.py --plot free_energy.svg

The collective variables are those of `collective_variables.py`, evaluated in Python. ``HILLS``,
``COLVAR`` and ``md.traj`` are written to the present folder, from which a run continues.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.plumed import Plumed, restart_from_trajectory
from ase.cluster import Octahedron
from ase.io import Trajectory
from ase.md.langevin import Langevin
from ase.optimize import BFGS

from graph_pes.models import LennardJones

HERE = Path(__file__).parent
TEMPERATURE = 19.3  # K
TIME_STEP = 5 * units.fs
EPSILON = 0.0104  # eV
GRID_MAX = (30, 20)
BIAS_FACTOR = 40
WRITTEN_EVERY = 100  # steps

#: Heights are in kJ/mol, lengths in Å. Atoms that leave the cluster are brought back.
PLUMED_INPUT = f"""\
UNITS LENGTH=A
LOAD FILE={{plugin}}
cv: PYCVINTERFACE ATOMS=1-38 IMPORT=collective_variables CALCULATE=calculate
mtd: METAD ARG=cv.py-n6,cv.py-n8 HEIGHT=0.04 PACE=30 SIGMA=1.0,0.5 GRID_MIN=0,0 \
GRID_MAX={GRID_MAX[0]},{GRID_MAX[1]} GRID_BIN=300,200 BIASFACTOR={BIAS_FACTOR} TEMP={TEMPERATURE} \
FILE=HILLS
size: GYRATION ATOMS=1-38
UPPER_WALLS ARG=size AT=6.5 KAPPA=100
PRINT ARG=cv.py-n6,cv.py-n8,mtd.bias STRIDE={WRITTEN_EVERY} FILE=COLVAR
"""


def octahedron() -> Atoms:
    """The structure of lowest energy, -173.9284 ε."""
    atoms = Octahedron("Ar", 4, 1, latticeconstant=5.3)
    atoms.calc = potential()
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=300)
    return atoms


def potential() -> object:
    """Lennard-Jones, of all pairs."""
    return LennardJones(cutoff=40.0, epsilon=EPSILON, sigma=3.40).double().ase_calculator(skin=20.0)


def run(steps: int, restart: bool) -> None:
    """Start from the octahedron, or continue from the last frame."""
    import plumed

    sys.path.insert(0, str(HERE))  # where PLUMED finds the variables
    lines = PLUMED_INPUT.format(plugin=plumed.get_pycv_path()).splitlines()
    setup = {"calc": potential(), "input": lines, "timestep": TIME_STEP}
    setup |= {"kT": units.kB * TEMPERATURE, "log": "plumed.log"}
    atoms = octahedron()
    rng = np.random.default_rng(1)
    if restart:
        with Trajectory("md.traj") as frames:
            done = (len(frames) - 1) * WRITTEN_EVERY
        forget_hills_after(done)
        restart_from_trajectory("md.traj", prev_steps=done, atoms=atoms, **setup)
        rng = np.random.default_rng(done)
    else:
        width = np.sqrt(units.kB * TEMPERATURE * atoms.get_masses())
        atoms.set_momenta(width[:, None] * rng.normal(size=(38, 3)))
        atoms.calc = Plumed(atoms=atoms, **setup)
    bath = {"temperature_K": TEMPERATURE, "friction": 0.002 / units.fs, "fixcm": False}
    md = Langevin(atoms, TIME_STEP, **bath, rng=rng)
    with Trajectory("md.traj", "a" if restart else "w", atoms) as trajectory:
        md.attach(
            lambda: trajectory.write() if md.nsteps or not restart else None,
            interval=WRITTEN_EVERY,
        )
        md.run(steps)
    atoms.calc.plumed.finalize()  # which writes the last lines of its files


def forget_hills_after(step: int) -> None:
    """Drop hills that a run which was stopped put down after its last frame."""
    file, time = Path("HILLS"), step * TIME_STEP / (1000 * units.fs)
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.startswith("#") or float(line.split()[0]) <= time]
    file.write_text("".join(kept))


def free_energy(hills: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n6, n8, and the free energy in units of ε, shape (201, 301), from the rows of ``HILLS``."""
    n6, n8 = np.linspace(0, GRID_MAX[0], 301), np.linspace(0, GRID_MAX[1], 201)
    bias = np.zeros((201, 301))
    for _, x, y, width_x, width_y, height, *_ in hills:
        # heights in HILLS are already those of the free energy: times γ / (γ - 1)
        bias += height * np.outer(
            np.exp(-0.5 * ((n8 - y) / width_y) ** 2), np.exp(-0.5 * ((n6 - x) / width_x) ** 2)
        )
    return n6, n8, (bias.max() - bias) * units.kJ / units.mol / EPSILON


def plot(path: str) -> None:
    """Draw the free energy, and where the run has been."""
    import matplotlib.pyplot as plt

    n6, n8, F = free_energy(np.loadtxt("HILLS", ndmin=2))
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    levels = np.arange(0, F.max() + 0.25, 0.25)
    filled = axes.contourf(n6, n8, F, levels, cmap="viridis")
    _, x, y, *_ = np.loadtxt("COLVAR", unpack=True)
    axes.plot(x, y, ",", color="white", alpha=0.5)
    axes.set(xlabel="atoms with 6 neighbours", ylabel="atoms with 8 neighbours")
    figure.colorbar(filled, label="free energy / ε")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--plot", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.steps:
        run(arguments.steps, arguments.restart)
    if arguments.plot:
        plot(arguments.plot)
