"""Models do in LAMMPS what potentials do: dynamics, relaxation, sums with other potentials."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk
from lammps_runs import (
    STRUCTURES,
    Results,
    read_results,
    run_lammps,
    single_points,
    triclinic,
    write_data,
)

from graph_pes.models import GraphPESModel

Compiled = Callable[[str], tuple[GraphPESModel, Path]]

START = """\
units metal
atom_style atomic
atom_modify map yes
box tilt large
read_data {name}.data
{potential}
neighbor 0.5 bin
neigh_modify every 1 delay 0 check yes
"""

ALONE = "pair_style graph_pes\npair_coeff * * {file} Si O"

#: A network of random weights, and what keeps atoms apart.
WITH_CORE = """\
pair_style hybrid/overlay graph_pes lj/smooth/linear 3.5
pair_coeff * * graph_pes {file} Si O
pair_coeff * * lj/smooth/linear 0.5 1.9"""


def start(name: str, file: Path, potential: str = ALONE) -> str:
    """Commands that everything begins with."""
    return START.format(name=name, potential=potential.format(file=file))


def numbers(printed: str, name: str) -> list[float]:
    """Of a line that the commands print: its name, and numbers."""
    (line,) = re.findall(rf"^{name} (.*)$", printed, re.MULTILINE)
    return [float(word) for word in line.split()]


def test_agrees_with_lj_cut(data: Path, compiled: Compiled) -> None:
    _, file = compiled("pair")
    commands = [
        single_points(f"pair_style graph_pes\npair_coeff * * {file} Si O"),
        single_points("pair_style lj/cut 3.5\npair_coeff * * 0.1 1.9"),
    ]
    printed = run_lammps(data, commands[0])
    ours = {name: read_results(data, name, printed) for name in STRUCTURES}
    printed = run_lammps(data, commands[1])
    for name in STRUCTURES:
        ours[name].assert_equal(read_results(data, name, printed), 1e-8)


def faults(folder: Path, commands: str) -> int:
    """Pages that the system made for LAMMPS."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    run_lammps(folder, commands)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before


def test_memory_is_kept_from_step_to_step(
    tmp_path: Path, compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps need no new pages for the same arrays, of some MB, unless the user says otherwise."""
    _, file = compiled("pair")
    atoms = bulk("SiO", "zincblende", a=4.6, cubic=True) * (8, 8, 8)
    write_data(tmp_path / "big.data", atoms)
    commands = start("big", file) + "velocity all create 300 1\nfix nve all nve\nrun {steps}\n"
    few, many = (faults(tmp_path, commands.format(steps=n)) for n in (5, 25))
    monkeypatch.setenv("MALLOC_TOP_PAD_", "131072")
    by_default = [faults(tmp_path, commands.format(steps=n)) for n in (5, 25)]
    assert many - few < 0.1 * (by_default[1] - by_default[0])


def test_sum_with_another_potential(data: Path, compiled: Compiled) -> None:
    """What pair_style hybrid/overlay adds up are the two potentials."""
    _, file = compiled("sum")
    zbl = "pair_coeff 1 1 {0} 14 14\npair_coeff 2 2 {0} 8 8\npair_coeff 1 2 {0} 14 8"
    styles = {
        "model": f"pair_style graph_pes\npair_coeff * * {file} Si O",
        "zbl": "pair_style zbl 1.5 2.5\n" + zbl.format(""),
        "both": "pair_style hybrid/overlay graph_pes zbl 1.5 2.5\n"
        f"pair_coeff * * graph_pes {file} Si O\n" + zbl.format("zbl"),
    }
    for newton in ("on", "off"):
        found: dict[str, Results] = {}
        for style, potential in styles.items():
            printed = run_lammps(data, single_points(potential, ["triclinic"], newton), ranks=2)
            found[style] = read_results(data, "triclinic", printed)
        terms = ("energy", "energies", "forces", "virial", "virials")
        total = {
            term: getattr(found["model"], term) + getattr(found["zbl"], term) for term in terms
        }
        assert abs(found["zbl"].forces).max() > 0.1
        found["both"].assert_equal(Results(**total), 1e-8)


def test_sum_of_two_files(
    data: Path, compiled: Compiled, expected: Callable[[GraphPESModel, str], Results]
) -> None:
    """A network and, as dispersion might be, a potential of pairs."""
    files = {name: compiled(name) for name in ("SchNet", "pair")}
    wanted = [expected(model, "triclinic") for model, _ in files.values()]
    potential = "pair_style hybrid/overlay graph_pes graph_pes\n" + "\n".join(
        f"pair_coeff * * graph_pes {n} {file} Si O" for n, (_, file) in enumerate(files.values(), 1)
    )
    terms = ("energy", "energies", "forces", "virial", "virials")
    total = Results(**{term: sum(getattr(part, term) for part in wanted) for term in terms})
    assert all(abs(part.forces).max() > 0.01 for part in wanted)
    for ranks, newton in ((1, "on"), (2, "on"), (2, "off")):
        printed = run_lammps(data, single_points(potential, ["triclinic"], newton), ranks)
        read_results(data, "triclinic", printed).assert_equal(total, 1e-8)


def test_types_of_another_style(
    data: Path, compiled: Compiled, expected: Callable[[GraphPESModel, ase.Atoms], Results]
) -> None:
    """In pair_style hybrid, with NULL for the other types, those atoms are not there."""
    model, file = compiled("sum")
    potential = (
        "pair_style hybrid graph_pes zero 3.0\n"
        f"pair_coeff * * graph_pes {file} Si NULL\npair_coeff * 2 zero"
    )
    silicon = triclinic()[triclinic().numbers == 14]
    wanted = expected(model, silicon)
    for ranks in (1, 2):
        found = read_results(
            data, "triclinic", run_lammps(data, single_points(potential, ["triclinic"]), ranks)
        )
        is_silicon = triclinic().numbers == 14
        assert found.energy == pytest.approx(wanted.energy, abs=1e-8)
        np.testing.assert_allclose(found.forces[is_silicon], wanted.forces, rtol=0, atol=1e-8)
        np.testing.assert_allclose(found.virial, wanted.virial, rtol=0, atol=1e-8)
        assert not found.forces[~is_silicon].any()
        assert not found.energies[~is_silicon].any()


@pytest.mark.parametrize("units", ["real", "electron", "nano"])
def test_units(units: str, data: Path, compiled: Compiled) -> None:
    """Energies are the same in other units, to the digits of the constants of LAMMPS."""
    model, file = compiled("sum")
    angstrom, electronvolt = {
        "real": (1, 23.060549),
        "electron": (1 / 0.52917721, 1 / 27.211386),
        "nano": (0.1, 160.2176634),
    }[units]
    atoms = triclinic()
    reference = triclinic()
    reference.calc = model.ase_calculator()
    atoms.set_cell(atoms.cell * angstrom, scale_atoms=True)
    write_data(data / "scaled.data", atoms)
    commands = start("scaled", file).replace("metal", units)
    commands = commands.replace("neighbor 0.5", f"neighbor {0.5 * angstrom}")
    printed = run_lammps(
        data, commands + 'run 0\nprint "RESULT $(pe:%.16g) $(fx[1]:%.16g) $(fx[5]:%.16g)"'
    )
    energy, *forces = numbers(printed, "RESULT")
    assert energy == pytest.approx(reference.get_potential_energy() * electronvolt, rel=1e-6)
    wanted = reference.get_forces()[[0, 4], 0] * electronvolt / angstrom
    np.testing.assert_allclose(forces, wanted, rtol=1e-6)


def test_derivatives(data: Path, compiled: Compiled) -> None:
    """Forces and pressure are those of finite differences that LAMMPS takes, on two processes."""
    _, file = compiled("sum")
    commands = f"""{start("triclinic", file)}
fix forces all numdiff 1 1e-4
fix virial all numdiff/virial 1 1e-5
variable error atom abs(fx-f_forces[1])+abs(fy-f_forces[2])+abs(fz-f_forces[3])
compute error all reduce max v_error
compute largest all reduce max fx fy fz
thermo_style custom step c_error c_largest[*] pxx pyy pzz pyz pxz pxy f_virial[*]
run 0
print "FORCES $(c_error:%.16g) $(c_largest[1]:%.16g)"
print "PRESSURE $(pxx:%.16g) $(pyy:%.16g) $(pzz:%.16g) $(pyz:%.16g) $(pxz:%.16g) $(pxy:%.16g)"
print "NUMERICAL $(f_virial[1]:%.16g) $(f_virial[2]:%.16g) $(f_virial[3]:%.16g) &
$(f_virial[4]:%.16g) $(f_virial[5]:%.16g) $(f_virial[6]:%.16g)"
"""
    printed = run_lammps(data, commands, ranks=2)
    error, largest = numbers(printed, "FORCES")
    assert largest > 1
    assert error < 1e-6 * largest
    pressure, numerical = (numbers(printed, name) for name in ("PRESSURE", "NUMERICAL"))
    np.testing.assert_allclose(numerical, pressure, rtol=1e-6, atol=1e-6 * np.abs(pressure).max())


def crystal(*repeat: int) -> ase.Atoms:
    """Of rocksalt structure, near the minimum of the pair potentials."""
    atoms = bulk("SiO", "rocksalt", a=4.1, cubic=True) * repeat
    atoms.rattle(0.03, seed=3)
    return atoms


def test_dynamics(tmp_path: Path, compiled: Compiled) -> None:
    """Energy is conserved while neighbours come and go; processes do not change the trajectory."""
    _, file = compiled("SchNet")
    write_data(tmp_path / "crystal.data", crystal(2, 1, 1))
    commands = f"""{start("crystal", file, WITH_CORE)}
velocity all create 600 1 loop geom
fix 1 all nve
timestep 0.0005
thermo_style custom step temp pe etotal
thermo 100
run 100
variable before equal $(etotal:%.16g)
print "POSITION $(x[1]:%.16g) $(y[7]:%.16g) $(z[13]:%.16g)"
run {{steps}}
print "DRIFT $(etotal-v_before:%.16g) $(ke:%.16g)"
"""
    positions = []
    for ranks, steps in ((2, 10), (1, 1900)):
        printed = run_lammps(tmp_path, commands.format(steps=steps), ranks)
        positions.append(numbers(printed, "POSITION"))
    np.testing.assert_allclose(*positions, rtol=0, atol=1e-8)
    drift, kinetic = numbers(printed, "DRIFT")
    assert abs(drift) < 1e-3 * kinetic
    assert int(re.findall(r"Neighbor list builds = (\d+)", printed)[-1]) > 3


def test_relaxation_and_pressure_coupling(tmp_path: Path, compiled: Compiled) -> None:
    """Minimisation of positions and cell, and dynamics that changes the cell."""
    _, file = compiled("SchNet")
    write_data(tmp_path / "crystal.data", crystal(2, 1, 1))
    commands = f"""{start("crystal", file, WITH_CORE)}
minimize 0 1e-4 1000 10000
fix cell all box/relax tri 0.0 vmax 0.01
min_modify line quadratic
minimize 0 1e-4 1000 10000
print "RELAXED $(fnorm:%.16g) $(pxx:%.16g) $(pxy:%.16g)"
unfix cell
velocity all create 300 1 loop geom
fix npt all npt temp 300 300 0.1 tri 0 0 1.0
timestep 0.001
run 200
print "AFTER $(pe:%.16g) $(temp:%.16g) $(vol:%.16g)"
"""
    printed = run_lammps(tmp_path, commands, ranks=2)
    norm, pxx, pxy = numbers(printed, "RELAXED")
    assert norm < 1e-3
    assert max(abs(pxx), abs(pxy)) < 10  # bar
    assert all(np.isfinite(numbers(printed, "AFTER")))


def test_memory_does_not_grow(tmp_path: Path, compiled: Compiled) -> None:
    """While the cell, and with it the number of neighbours, changes all the time."""
    _, file = compiled("pair")
    write_data(tmp_path / "crystal.data", crystal(4, 4, 4))
    commands = f"""{start("crystal", file)}
velocity all create 300 1 loop geom
fix npt all npt temp 300 300 0.1 iso 0 0 1.0
run 50
shell grep VmRSS "/proc/$PPID/status"
run 300
shell grep VmRSS "/proc/$PPID/status"
"""
    before, after = map(int, re.findall(r"VmRSS:\s+(\d+) kB", run_lammps(tmp_path, commands)))
    assert after - before < 0.02 * before
