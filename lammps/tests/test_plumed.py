"""``fix plumed`` in a LAMMPS without PLUMED."""

from __future__ import annotations

import importlib.metadata
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
from ase.cluster import Octahedron
from lammps_runs import LAMMPSError, run_lammps, write_data

#: A liquid.
START = """\
units {units}
atom_style atomic
lattice fcc {lattice}
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 40
displace_atoms all random 0.1 0.1 0.1 3
write_data start.data nocoeff
"""

RUN = """\
clear
units {units}
atom_style atomic
atom_modify map yes
read_data start.data
pair_style lj/cut {cutoff}
pair_coeff 1 1 {epsilon} {sigma}
timestep {step}
velocity all create {T} 5 loop geom
fix move all nve
fix bias all plumed plumedfile plumed.dat outfile plumed.log
compute w all pressure NULL fix
thermo_style custom step pe f_bias c_w[*]
thermo_modify format float %.16g
thermo 20
dump forces all custom 20 forces.dump id fx fy fz xu yu zu
dump_modify forces sort id format float %.16g
run {steps}
print "RESULTS $(f_bias:%.16g) $(c_w[1]:%.16g) $(c_w[2]:%.16g) $(c_w[3]:%.16g) $(c_w[4]:%.16g) &
$(c_w[5]:%.16g) $(c_w[6]:%.16g) $(vol:%.16g)"
"""

STYLES = {
    "metal": {"lattice": 5.4, "cutoff": 5, "epsilon": 0.01, "sigma": 3.4, "step": 1e-3, "T": 80},
    "lj": {"lattice": 0.8, "cutoff": 2.5, "epsilon": 1, "sigma": 1, "step": 1e-3, "T": 0.7},
}


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of PLUMED: ``pip install --no-deps hillclimber`` brings one."""
    path = os.environ.get("PLUMED_KERNEL")
    if path is None:
        try:
            files = importlib.metadata.files("hillclimber") or []
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("there is no kernel of PLUMED: pip install --no-deps hillclimber")
        (path,) = (str(f.locate()) for f in files if "libplumedKernel" in f.name)
    monkeypatch.setenv("PLUMED_KERNEL", path)
    return Path(path)


def run(folder: Path, units: str, ranks: int, plumed: str, steps: int) -> np.ndarray:
    """Energy of the bias, virial in LAMMPS' order, and volume."""
    (folder / "plumed.dat").write_text(plumed)
    for name in ("HILLS", "COLVAR"):
        (folder / name).unlink(missing_ok=True)
    values = {"units": units, "steps": steps, **STYLES[units]}
    if not (folder / "start.data").exists():
        run_lammps(folder, START.format(**values))
    printed = run_lammps(folder, RUN.format(**values), ranks)
    (line,) = (line for line in printed.split("\n") if line.startswith("RESULTS"))
    return np.array(line.split()[1:], dtype=float)


def forces(folder: Path) -> np.ndarray:
    """Forces and positions in the last frame."""
    return np.loadtxt((folder / "forces.dump").read_text().split("\n")[-109:])[:, 1:]


def test_the_same_on_two_processes(tmp_path: Path) -> None:
    """Metadynamics, in which each step depends on all before."""
    plumed = """\
d: DISTANCE ATOMS=3,90
METAD ARG=d SIGMA=0.02 HEIGHT=0.5 PACE=5 LABEL=mt FILE=HILLS
PRINT ARG=d,mt.bias FILE=COLVAR STRIDE=5 FMT=%14.10f
"""
    results = {}
    for ranks in (1, 2):
        last = run(tmp_path, "metal", ranks, plumed, steps=100)
        colvar = np.loadtxt(tmp_path / "COLVAR")
        results[ranks] = last, forces(tmp_path), colvar
        assert colvar.shape == (21, 3)
        np.testing.assert_allclose(colvar[:, 0], 0.005 * np.arange(21), atol=1e-6)  # in ps
        assert len(np.loadtxt(tmp_path / "HILLS")) == 20
    for one, two in zip(results[1], results[2], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-8)
    assert results[1][2][-1, 2] > 1  # kJ/mol: hills have piled up


@pytest.mark.parametrize("units", list(STYLES))
def test_energy_forces_and_virial(units: str, tmp_path: Path) -> None:
    """Of a spring between two atoms."""
    nm, kJ, pressure = {"metal": (0.1, 96.48533212331, 1.6021765e6), "lj": (1, 1, 1)}[units]
    run(tmp_path, units, 1, "d: DISTANCE ATOMS=3,7\n", steps=0)
    free = forces(tmp_path)
    at, k = 0.3, 50.0
    plumed = f"d: DISTANCE ATOMS=3,7\nRESTRAINT ARG=d AT={at} KAPPA={k}\n"
    for ranks in (1, 2):
        found = run(tmp_path, units, ranks, plumed, steps=0)
        pull = forces(tmp_path)[:, :3] - free[:, :3]
        r = free[6, 3:] - free[2, 3:]
        d = np.linalg.norm(r)
        stretch = d * nm - at
        assert abs(stretch) > 0.01
        np.testing.assert_allclose(found[0], 0.5 * k * stretch**2 / kJ, rtol=1e-6)
        force = -k * stretch * nm / kJ * r / d
        np.testing.assert_allclose(pull[6], force, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(pull[2], -force, rtol=1e-6, atol=1e-9)
        others = np.delete(np.arange(108), [2, 6])
        np.testing.assert_allclose(pull[others], 0, atol=1e-9)
        virial = np.outer(r, force)[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
        wanted = virial * pressure / found[-1]
        np.testing.assert_allclose(found[1:7], wanted, rtol=1e-6, atol=1e-9 * pressure)


def test_without_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMED_KERNEL", "/nowhere/libplumedKernel.so")
    with pytest.raises(LAMMPSError, match="fix plumed can't load PLUMED_KERNEL=/nowhere/lib"):
        run(tmp_path, "metal", 2, "", steps=0)
    monkeypatch.delenv("PLUMED_KERNEL")
    with pytest.raises(LAMMPSError, match="the environment variable PLUMED_KERNEL is not set"):
        run(tmp_path, "metal", 1, "", steps=0)


def test_errors_of_plumed(tmp_path: Path) -> None:
    with pytest.raises(LAMMPSError, match=r"fix plumed:\s+Action .NOSUCHACTION. is not known"):
        run(tmp_path, "metal", 1, "d: NOSUCHACTION ATOMS=1,2\n", steps=0)
    with pytest.raises(LAMMPSError, match=r"plumed\.dat uses ENERGY"):
        run(tmp_path, "metal", 1, "e: ENERGY\nPRINT ARG=e FILE=COLVAR\n", steps=0)


CLUSTER = """\
units metal
atom_style atomic
boundary f f f
read_data cluster.data
pair_style lj/cut 25
pair_coeff * * 0.0104 3.40
mass * 39.948
timestep 0.005
fix move all nve
fix bath all langevin 19.3 19.3 0.5 7
fix bias all plumed plumedfile plumed.dat outfile plumed.log
run 60
"""

#: The variables of examples/lj38/collective_variables.py by actions of PLUMED.
METADYNAMICS = """\
UNITS LENGTH=A
c: COORDINATIONNUMBER SPECIES=1-38 SWITCH={CUBIC D_0=4.4 D_MAX=5.5}
b6: CUSTOM ARG=c FUNC=exp(-2*(x-6)^2) PERIODIC=NO
b8: CUSTOM ARG=c FUNC=exp(-2*(x-8)^2) PERIODIC=NO
n6: SUM ARG=b6 PERIODIC=NO
n8: SUM ARG=b8 PERIODIC=NO
METAD ARG=n6,n8 HEIGHT=0.04 PACE=30 SIGMA=1.0,0.5 GRID_MIN=0,0 GRID_MAX=30,20 GRID_BIN=300,200 &
BIASFACTOR=40 TEMP=19.3 FILE=HILLS
PRINT ARG=n6,n8 FILE=COLVAR STRIDE=30 FMT=%.12f
""".replace("&\n", "")


def test_metadynamics_of_a_cluster(tmp_path: Path) -> None:
    """Two hills, at the values that our functions give."""
    path = Path(__file__).parents[2] / "examples" / "lj38" / "collective_variables.py"
    histogram = runpy.run_path(str(path))["calculate"]
    atoms = Octahedron("Ar", 4, 1, latticeconstant=5.3)
    atoms.positions += 30 - atoms.positions.mean(axis=0)
    atoms.cell = [60, 60, 60]
    write_data(tmp_path / "cluster.data", atoms, elements=("Ar",))
    (tmp_path / "plumed.dat").write_text(METADYNAMICS)
    run_lammps(tmp_path, CLUSTER)
    colvar, hills = np.loadtxt(tmp_path / "COLVAR"), np.loadtxt(tmp_path / "HILLS")
    expected, *_ = histogram.evaluate(atoms.positions, np.zeros((3, 3)))
    np.testing.assert_allclose(colvar[0, 1:], expected, rtol=1e-6)
    np.testing.assert_allclose(hills[:, 1:5], np.c_[colvar[1:, 1:], [[1.0, 0.5]] * 2], rtol=1e-6)
    assert hills[0, 5] == pytest.approx(0.04 * 40 / 39, rel=0.02)
