"""Molecular dynamics of ethanol with a trained model.

    python examples/ethanol/md.py graph-pes-results/ethanol-painn

Takes the folder of a training run, and runs from a test frame

1. 1 ps at 300 K (Langevin), which writes ``md.xyz`` to the same folder,
2. 0.5 ps at constant energy, which shows how well the forces conserve it.
"""

import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

import graph_pes

START = Path(__file__).parent / "data" / "test_300K.xyz"
TEMPERATURE = 300  # K
TIME_STEP = 0.5  # fs
FRICTION = 0.01  # 1/fs
STEPS_PER_PS = round(1000 / TIME_STEP)
SEED = 42


def thermal_momenta(atoms: Atoms, temperature: float) -> np.ndarray:
    """Momenta from the Maxwell-Boltzmann distribution, shape (N, 3)."""
    width = np.sqrt(units.kB * temperature * atoms.get_masses())
    return width[:, None] * np.random.default_rng(SEED).normal(size=(len(atoms), 3))


def table_row(time: float, atoms: Atoms) -> str:
    """Time in ps, energies in eV and temperature in K."""
    potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
    return (
        f"{time:8.1f} {potential:14.4f} {kinetic:10.4f} "
        f"{potential + kinetic:14.4f} {atoms.get_temperature():8.0f}"
    )


def langevin(atoms: Atoms, picoseconds: float, output: Path) -> None:
    """Run at constant temperature; print a row and keep a frame each 0.1 ps."""
    md = Langevin(
        atoms,
        TIME_STEP * units.fs,
        temperature_K=TEMPERATURE,
        friction=FRICTION / units.fs,
        fixcm=False,
        rng=np.random.default_rng(SEED),
    )
    frames = []

    def report() -> None:
        frames.append(atoms.copy())
        frames[-1].info = {"time_ps": md.get_time() / (1000 * units.fs)}
        print(table_row(frames[-1].info["time_ps"], atoms), flush=True)

    md.attach(report, interval=STEPS_PER_PS // 10)
    md.run(round(picoseconds * STEPS_PER_PS))
    write(output, frames)


def energy_drift(atoms: Atoms, picoseconds: float) -> float:
    """Slope of the total energy at constant energy, in meV per atom and ps."""
    md = VelocityVerlet(atoms, TIME_STEP * units.fs)
    times, energies = [], []

    def record() -> None:
        times.append(md.get_time() / (1000 * units.fs))
        energies.append(atoms.get_total_energy())

    md.attach(record, interval=5)
    md.run(round(picoseconds * STEPS_PER_PS))
    slope, _ = np.polyfit(times, np.array(energies) - energies[0], deg=1)
    return 1000 * slope / len(atoms)


def main(run: Path) -> None:
    """Load the model of a run and use it."""
    model = graph_pes.load_model(run / "model.pt")
    atoms = read(START, index=0)
    atoms.calc = model.ase_calculator()
    atoms.set_momenta(thermal_momenta(atoms, TEMPERATURE))

    print(f"\nLangevin dynamics at {TEMPERATURE} K")
    print(f"{'t/ps':>8} {'E_pot/eV':>14} {'E_kin/eV':>10} {'E_total/eV':>14} {'T/K':>8}")
    langevin(atoms, picoseconds=1, output=run / "md.xyz")

    drift = energy_drift(atoms, picoseconds=0.5)
    print(f"\nDrift of the total energy at constant energy: {drift:+.3f} meV/atom/ps")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python md.py RUN_FOLDER")
    main(Path(sys.argv[1]))
