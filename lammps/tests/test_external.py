"""Models in LAMMPS through Python, without the plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lammps_models import make_model
from lammps_runs import STRUCTURES, expected_results

from graph_pes.deploy import export_model
from graph_pes.drivers.lammps import ExternalModel, open_lammps
from graph_pes_lammps.doctor import program_path

SCRIPT = """\
import sys
import numpy as np
from graph_pes.drivers.lammps import ExternalModel, open_lammps
from lammps_models import make_model

lmp = open_lammps("-log", "none", "-screen", "none")
lmp.commands_string('''
units {units}
atom_style atomic
atom_modify map yes
box tilt large
read_data triclinic.data
compute virial all pressure NULL virial
compute energies all pe/atom
compute energy all reduce sum c_energies
thermo_style custom step pe c_energy c_virial[*]
''')
model = ExternalModel(lmp, make_model("{model}"), ["Si", "O"])
lmp.command("run 0")
forces = np.array(lmp.gather_atoms("f", 1, 3))
virial = np.array([lmp.extract_compute("virial", 0, 1)[k] for k in range(6)])
rank, results = lmp.extract_setting("world_rank"), [
    lmp.get_thermo("pe"), lmp.extract_compute("energy", 0, 0), lmp.get_thermo("vol")
]
if rank == 0:
    np.savez("results.npz", forces=forces, energies=results, virial=virial)
"""


def run_python(folder: Path, script: str, ranks: int) -> str:
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [program_path("mpiexec"), "-n", str(ranks), sys.executable, "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("ranks", "units"), [(1, "metal"), (2, "metal"), (1, "real")])
def test_agrees_with_ase(ranks: int, units: str, data: Path) -> None:
    run_python(data, SCRIPT.format(units=units, model="SchNet"), ranks)
    found = dict(np.load(data / "results.npz"))
    wanted = expected_results(make_model("SchNet"), STRUCTURES["triclinic"]())
    # LAMMPS' own constants have 8 digits
    electronvolt, pressure, rtol = {
        "metal": (1, 1.6021765e6, 1e-9),
        "real": (23.060549, None, 1e-6),
    }[units]
    energy, sum_of_energies, volume = found["energies"] / [electronvolt, electronvolt, 1]
    assert energy == pytest.approx(wanted.energy, rel=rtol)
    assert sum_of_energies == pytest.approx(wanted.energy, rel=rtol)
    forces = found["forces"].reshape(-1, 3) / electronvolt
    np.testing.assert_allclose(forces, wanted.forces, rtol=rtol, atol=1e-8)
    if pressure:
        virial = found["virial"] * volume / pressure
        np.testing.assert_allclose(virial, wanted.virial, rtol=rtol, atol=1e-8)


def test_exported_direct_forces_have_no_pressure(data: Path) -> None:
    export_model(make_model("direct-forces"), data / "model.pt2", mode="portable")
    script = SCRIPT.format(units="metal", model="")
    run_python(data, script.replace('make_model("")', '"model.pt2"'), ranks=1)
    found = dict(np.load(data / "results.npz"))
    wanted = expected_results(make_model("direct-forces"), STRUCTURES["triclinic"]())
    assert found["energies"][0] == pytest.approx(wanted.energy, rel=1e-9)
    np.testing.assert_allclose(found["forces"].reshape(-1, 3), wanted.forces, atol=1e-8)
    assert np.isnan(found["virial"]).all()


def test_errors_end_the_run(data: Path) -> None:
    """A model that fails, here for an element it does not know, does not go unnoticed."""
    script = SCRIPT.format(units="metal", model="MACE").replace('"Si", "O"', '"Si", "C"')
    script += "print('forces', np.isnan(forces).all())\n"
    printed = run_python(data, script, ranks=1)
    assert "forces True" in printed
    assert "C" in printed.split("ValueError: ")[1]


def test_wrong_symbols_and_units(data: Path) -> None:
    lmp = open_lammps("-log", "none", "-screen", "none")
    try:
        lmp.commands_string("units lj\nbox tilt large")
        lmp.commands_string(f"read_data {data}/triclinic.data")
        with pytest.raises(ValueError, match="expected 2 symbols"):
            ExternalModel(lmp, make_model("pair"), ["Si"])
        with pytest.raises(ValueError, match="units lj can't express energies"):
            ExternalModel(lmp, make_model("pair"), ["Si", "O"])
    finally:
        lmp.close()
