"""One trained model in every driver: how far each is from the model itself in ASE.

For models that are too large for the tests, such as foundation models. In an environment that has
the drivers and, where a file needs it, the package of the model, from the root of the repository::

    python -m benchmarks.drivers model.pt ... --dtype float64

Prints a table of the largest errors of energy, forces and stress of a disordered crystal, each
relative to the largest value, or why the driver refused the model. Those whose package is not
installed are left out. Ends with an error if a model is wrong anywhere.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import ase
import ase.io
import numpy as np
import torch
from ase.build import bulk
from ase.calculators.calculator import Calculator

from graph_pes.cli.export import main as export
from graph_pes.deploy import ExportedModel, ExportError
from graph_pes.deploy.cache import compiled_file
from graph_pes.deploy.trace import known_elements
from graph_pes.drivers.ase import GraphPESCalculator
from graph_pes.models import GraphPESModel, load_model, save_model

#: Energy, forces (N, 3) and stress (6,) in ASE's order; in eV and Å.
Results = dict[str, np.ndarray]

#: In single precision, forces are off by 1e-6 to 1e-5 however they are computed.
TOLERANCES = {"float64": 1e-6, "float32": 2e-5}

#: Pairs of elements, with a lattice constant at which they are not too close.
CRYSTALS = {("Na", "Cl"): 5.6, ("C", "O"): 4.2, ("Si", "O"): 4.6}

#: eV/Å^3 in bar, to the digits that LAMMPS has for units metal.
BAR = 1.6021765e6

IN_LAMMPS = """\
units metal
atom_style atomic
atom_modify map yes
box tilt large
read_data crystal.data
{potential}
neighbor 0.5 bin
thermo_style custom step pe pxx pyy pzz pyz pxz pxy
thermo_modify format float %.16g
dump forces all custom 1 forces.dump id fx fy fz
dump_modify forces sort id format float %.16g
run 0
print "RESULTS $(pe:%.16g) $(pxx:%.16g) $(pyy:%.16g) $(pzz:%.16g) $(pyz:%.16g) $(pxz:%.16g) &
$(pxy:%.16g)"
"""


class Case:
    """A model, and a crystal of elements that it knows, in files of a folder."""

    def __init__(self, model: GraphPESModel, folder: Path):
        self.model, self.folder = model, folder
        known = known_elements(model)
        pairs = [pair for pair in CRYSTALS if not known or set(pair) <= set(known)]
        if not pairs:
            raise ValueError(f"the model knows {' '.join(known)}: add a crystal to CRYSTALS")
        self.elements = pairs[0]
        self.atoms = crystal(*self.elements)
        self.file = folder / "model.pt"
        save_model(model, self.file)
        ase.io.write(
            folder / "crystal.data",
            self.atoms,
            format="lammps-data",
            specorder=self.elements,
            masses=True,
        )
        self.atoms.write(folder / "crystal.xyz")


def crystal(a: str, b: str) -> ase.Atoms:
    """Triclinic and disordered, of 16 atoms."""
    L = CRYSTALS[a, b]
    atoms = bulk(a + b, "zincblende", a=L, cubic=True)
    atoms.set_cell([[L, 0, 0], [0.2 * L, L, 0], [-0.1 * L, 0.15 * L, 0.95 * L]], scale_atoms=True)
    atoms *= (1, 1, 2)
    atoms.rattle(0.1, seed=1)
    return atoms


# --- drivers ------------------------------------------------------------------------------


def by_calculator(calculator: Calculator, atoms: ase.Atoms) -> Results:
    atoms = atoms.copy()
    atoms.calc = calculator
    return {
        "energy": np.array(atoms.get_potential_energy()),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }


def by_ase(case: Case) -> Results:
    return by_calculator(case.model.ase_calculator(skin=0.0), case.atoms)


def compiled(case: Case) -> Results:
    """As ``ase_calculator(compile=True)``, which would go on without if that failed."""
    return by_calculator(GraphPESCalculator(ExportedModel(compiled_file(case.model))), case.atoms)


def exported(case: Case, mode: str = "compiled") -> Results:
    """As made by the command, in the precision of the model, with tables if that is single."""
    file = case.folder / {"compiled": "model.pt2", "portable": "portable.pt2"}[mode]
    try:
        export([str(case.file), str(file), "--mode", mode])
    except SystemExit as error:  # it has printed why
        raise ExportError("by the command") from error
    return by_calculator(GraphPESCalculator(file), case.atoms)


def by_lammps(case: Case, processes: int) -> Results:
    """With ``pair_style graph_pes``, of the file that was exported, or else of the model itself."""
    from graph_pes_lammps.building import build
    from graph_pes_lammps.doctor import program_path

    build()
    file = "model.pt2" if (case.folder / "model.pt2").is_file() else "model.pt"
    potential = f"pair_style graph_pes\npair_coeff * * {file} {' '.join(case.elements)}"
    (case.folder / "in.lammps").write_text(IN_LAMMPS.format(potential=potential))
    done = subprocess.run(
        [program_path("mpiexec"), "-n", str(processes), program_path("lmp"), "-in", "in.lammps"],
        cwd=case.folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        said = done.stdout + done.stderr
        raise ExportError("; ".join(dict.fromkeys(re.findall(r"ERROR[^:]*: (.*)", said))) or said)
    return of_lammps(case.folder, done.stdout)


def of_lammps(folder: Path, printed: str) -> Results:
    (line,) = re.findall(r"^RESULTS (.*)$", printed, re.MULTILINE)
    energy, *pressure = (float(word) for word in line.split())
    forces = np.loadtxt(folder / "forces.dump", skiprows=9)[:, 1:]
    stress = -np.array(pressure) / BAR
    return {"energy": np.array(energy), "forces": forces, "stress": stress}


def by_fix_external(case: Case) -> Results:
    """In LAMMPS without the plugin."""
    from graph_pes.drivers.lammps import ExternalModel, open_lammps

    before = Path.cwd()
    os.chdir(case.folder)
    try:
        lmp = open_lammps("-log", "none", "-screen", "none")
        start, _ = IN_LAMMPS.format(potential="pair_style none").split("dump forces", 1)
        lmp.commands_string(start.replace("neighbor 0.5 bin\n", ""))
        potential = ExternalModel(lmp, case.model, case.elements)
        lmp.command("run 0")
        forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3)
        names = ("pe", "pxx", "pyy", "pzz", "pyz", "pxz", "pxy")
        energy, *pressure = (lmp.get_thermo(name) for name in names)
        del potential
    finally:
        os.chdir(before)
    return {"energy": np.array(energy), "forces": forces, "stress": -np.array(pressure) / BAR}


def by_torch_sim(case: Case) -> Results:
    model = case.model.torch_sim_model(dtype=torch.float64)
    import torch_sim  # after the driver, which hides the warnings of its import

    state = torch_sim.io.atoms_to_state(
        [case.atoms, case.atoms], torch.device("cpu"), torch.float64
    )
    found = {key: value.numpy() for key, value in model(state).items()}
    N = len(case.atoms)
    return {
        "energy": found["energy"][1],
        "forces": found["forces"][N:],
        "stress": found["stress"][1].ravel()[[0, 4, 8, 5, 2, 1]],
    }


def by_ipi(case: Case) -> Results:
    """Two beads, of which one is compared."""
    from ipi.utils.units import unit_to_internal, unit_to_user

    from graph_pes.drivers.ipi import IPIPotential

    potential = IPIPotential(str(case.folder / "crystal.xyz"), str(case.file))
    cell = unit_to_internal("length", "angstrom", case.atoms.cell.array.T)
    R = unit_to_internal("length", "angstrom", case.atoms.positions)
    _, (energy, forces, virial, _) = potential([cell, cell], [R[::-1], R])
    virial = unit_to_user("energy", "electronvolt", virial).ravel()
    return {
        "energy": np.array(unit_to_user("energy", "electronvolt", energy)),
        "forces": unit_to_user("force", "ev/ang", forces),
        "stress": -virial[[0, 4, 8, 5, 2, 1]] / case.atoms.get_volume(),
    }


def by_metatomic(case: Case) -> Results:
    from metatomic_ase import MetatomicCalculator

    from graph_pes.deploy.metatomic import export_metatomic

    file = case.folder / "archive.pt"
    export_metatomic(case.model, file)
    return by_calculator(MetatomicCalculator(file, check_consistency=True), case.atoms)


#: By the name of the driver: how to run it, and the module that it needs.
DRIVERS: dict[str, tuple[Callable[[Case], Results], str]] = {
    "compiled": (compiled, "torch"),
    "exported": (exported, "torch"),
    "portable": (lambda case: exported(case, "portable"), "torch"),
    "LAMMPS, 1": (lambda case: by_lammps(case, 1), "lammps"),
    "LAMMPS, 2": (lambda case: by_lammps(case, 2), "lammps"),
    "fix external": (by_fix_external, "lammps"),
    "torch-sim": (by_torch_sim, "torch_sim"),
    "i-PI": (by_ipi, "ipi"),
    "metatomic": (by_metatomic, "metatomic_ase"),
}


# --- the table ----------------------------------------------------------------------------


def rows(path: Path, dtype: str, names: list[str]) -> tuple[list[str], bool]:
    """Of one model, a row for each driver; and whether all of them are right."""
    found, right = [], True
    with tempfile.TemporaryDirectory() as folder:
        model: GraphPESModel = load_model(path).eval().to(getattr(torch, dtype))
        case = Case(model, Path(folder))
        expected = by_ase(case)
        for name in names:
            run, module = DRIVERS[name]
            if find_spec(module) is None:
                continue
            start = time.perf_counter()
            try:
                errors = errors_of(run(case), expected)
            except ExportError as error:
                text = f"refused: {error}"
            else:
                right = right and max(errors.values()) < TOLERANCES[dtype]
                text = " | ".join(f"{error:.1e}" for error in errors.values())
            seconds = time.perf_counter() - start
            found.append(f"| {path.stem} | {dtype} | {name} | {text} | {seconds:.0f} |")
            print(found[-1], file=sys.stderr, flush=True)
    return found, right


def errors_of(found: Results, expected: Results) -> dict[str, float]:
    """Relative to the largest value."""
    return {key: float(abs(found[key] - x).max() / abs(x).max()) for key, x in expected.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, help="model.pt")
    parser.add_argument("--dtype", nargs="+", choices=sorted(TOLERANCES), default=["float64"])
    parser.add_argument("--drivers", nargs="+", choices=list(DRIVERS), default=list(DRIVERS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| model | precision | driver | energy | forces | stress | seconds |")
    print("|---|---|---|---|---|---|---|")
    everything_right = True
    for path in options.models:
        for dtype in options.dtype:
            found, right = rows(path, dtype, options.drivers)
            print("\n".join(found), flush=True)
            everything_right = everything_right and right
    if not everything_right:
        raise SystemExit(f"errors above {TOLERANCES}")


if __name__ == "__main__":
    main()
