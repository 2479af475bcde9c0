"""Runs of LAMMPS, and what they are compared with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
import torch
from ase.build import bulk, surface
from ase.data import atomic_masses, atomic_numbers

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.deploy.engine import EngineModel, atomic_virials_from, engine_inputs
from graph_pes.models import GraphPESModel
from graph_pes_lammps.doctor import program_path

ELEMENTS = ("Si", "O")

#: eV/Å^3 in bar, to the digits that LAMMPS has for units metal.
BAR = 1.6021765e6


class LAMMPSError(AssertionError):
    """LAMMPS ended with an error."""


def run_lammps(folder: Path, commands: str, ranks: int = 1, timeout: float = 600) -> str:
    """Run LAMMPS in a folder; what it printed."""
    (folder / "in.lammps").write_text(commands)
    done = subprocess.run(
        [
            *(program_path("mpiexec"), "-n", str(ranks)),
            *(program_path("lmp"), "-in", "in.lammps", "-log", "log.lammps"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise LAMMPSError(done.stdout + done.stderr)
    return done.stdout


# --- structures ---------------------------------------------------------------------------


def triclinic() -> ase.Atoms:
    """Smaller than twice the cutoff of the models: atoms see several images of others."""
    atoms = bulk("SiO", "zincblende", a=4.6, cubic=True)
    atoms.set_cell([[4.6, 0, 0], [1.3, 4.7, 0], [-0.9, 0.8, 4.5]], scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def slab() -> ase.Atoms:
    """In the lowest part of a high cell, most of which is empty."""
    atoms = surface(bulk("SiO", "zincblende", a=4.6, cubic=True), (0, 0, 1), 1)
    atoms.set_cell(np.diag([4.6, 4.6, 40.0]))
    atoms.set_pbc(True)
    atoms.rattle(0.1, seed=2)
    atoms.positions[:, 2] += 1.0
    return atoms


STRUCTURES = {"triclinic": triclinic, "slab": slab}


def write_data(path: Path, atoms: ase.Atoms, elements: Sequence[str] = ELEMENTS) -> None:
    """A data file, of all digits; the cell must be as LAMMPS wants it."""
    cell = np.asarray(atoms.cell)
    assert cell[0, 1] == cell[0, 2] == cell[1, 2] == 0
    lines = ["# data", f"{len(atoms)} atoms", f"{len(elements)} atom types"]
    lines += [f"0 {float(cell[k, k])!r} {x}lo {x}hi" for k, x in enumerate("xyz")]
    lines += [f"{float(cell[1, 0])!r} {float(cell[2, 0])!r} {float(cell[2, 1])!r} xy xz yz"]
    lines += ["", "Masses", ""]
    lines += [f"{n} {atomic_masses[atomic_numbers[x]]}" for n, x in enumerate(elements, 1)]
    lines += ["", "Atoms # atomic", ""]
    for n, (symbol, position) in enumerate(zip(atoms.symbols, atoms.positions, strict=True), 1):
        x, y, z = map(repr, map(float, position))
        lines.append(f"{n} {elements.index(symbol) + 1} {x} {y} {z}")
    path.write_text("\n".join(lines) + "\n")


# --- results ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """Of one structure, in eV and Å."""

    energy: float
    energies: np.ndarray  # (N,)
    forces: np.ndarray  # (N, 3)
    virial: np.ndarray  # (6,), in LAMMPS' order xx, yy, zz, xy, xz, yz
    virials: np.ndarray  # (N, 6)

    def assert_equal(self, other: Results, tolerance: float) -> None:
        """No number differs by more than the tolerance."""
        for name in ("energy", "energies", "forces", "virial", "virials"):
            a, b = getattr(self, name), getattr(other, name)
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=name)


#: Computes that make the output which `read_results` reads.
OUTPUT = """\
compute energies all pe/atom pair
compute virials all stress/atom NULL pair
compute virial all pressure NULL pair
thermo_style custom step pe c_virial[1] c_virial[2] c_virial[3] c_virial[4] c_virial[5] c_virial[6]
thermo_modify format float %.16g
dump results all custom 1 {name}.dump id fx fy fz c_energies c_virials[*]
dump_modify results sort id format float %.16g
run 0
print "RESULTS {name} $(pe:%.16g) $(vol:%.16g) $(c_virial[1]:%.16g) $(c_virial[2]:%.16g) &
$(c_virial[3]:%.16g) $(c_virial[4]:%.16g) $(c_virial[5]:%.16g) $(c_virial[6]:%.16g)"
"""


def single_points(
    potential: str, names: Sequence[str] = tuple(STRUCTURES), newton: str = "on"
) -> str:
    """Commands that evaluate structures, one after the other."""
    parts = []
    for name in names:
        grid = "processors 1 1 *\n" if name == "slab" else ""
        parts.append(
            f"clear\nunits metal\natom_style atomic\nnewton {newton}\nbox tilt large\n{grid}"
            f"read_data {name}.data\n{potential}\nneighbor 0.5 bin\n{OUTPUT.format(name=name)}"
        )
    return "\n".join(parts)


def read_results(folder: Path, name: str, printed: str) -> Results:
    """What the commands of `single_points` wrote."""
    (line,) = (line for line in printed.split("\n") if line.startswith(f"RESULTS {name}"))
    numbers = [float(word) for word in line.split()[2:]]
    table = np.loadtxt(folder / f"{name}.dump", skiprows=9, ndmin=2)
    return Results(
        energy=numbers[0],
        energies=table[:, 4],
        forces=table[:, 1:4],
        virial=np.array(numbers[2:]) * numbers[1] / BAR,
        virials=-table[:, 5:] / BAR,
    )


def expected_results(model: GraphPESModel, atoms: ase.Atoms) -> Results:
    """By ASE; and by edges, what ASE does not know."""
    atoms = atoms.copy()
    atoms.calc = model.ase_calculator()
    graph = to_batch([AtomicGraph.from_ase(atoms, model.cutoff_value, dtype=torch.float64)])
    inputs = engine_inputs(graph, torch.float64)
    _, gradients = EngineModel(model)(*inputs)
    order = ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])
    return Results(
        energy=atoms.get_potential_energy(),
        energies=atoms.get_potential_energies(),
        forces=atoms.get_forces(),
        virial=-atoms.get_volume() * atoms.get_stress(voigt=False)[order],
        virials=atomic_virials_from(inputs, gradients).numpy()[:, order[0], order[1]],
    )
