"""Mistakes and accidents end LAMMPS with a message that names the cause; nothing hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lammps_models import make_model
from lammps_runs import LAMMPSError, read_results, run_lammps, single_points, slab, write_data

from graph_pes.deploy import export_model
from graph_pes.models import GraphPESModel, save_model
from graph_pes_lammps.doctor import program_path

Compiled = Callable[[str], tuple[GraphPESModel, Path]]

START = """\
units {units}
atom_style atomic
atom_modify map yes
box tilt large
read_data {structure}.data
neighbor 0.5 bin
pair_style graph_pes {options}
pair_coeff * * {file} {symbols}
"""


def commands(file: Path | str, **changes: str) -> str:
    values = {"units": "metal", "structure": "triclinic", "options": "", "symbols": "Si O"}
    return START.format(file=file, **{**values, **changes})


def error_of(folder: Path, text: str, ranks: int = 1) -> str:
    """The message, on one line."""
    with pytest.raises(LAMMPSError) as error:
        run_lammps(folder, text, ranks)
    return " ".join(str(error.value).split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"symbols": "Si Ox"}, "expected a chemical symbol for type 2, got 'Ox'"),
        ({"symbols": "Si C"}, "the model knows the elements O Si, but type 2 is to be C"),
        ({"symbols": "Si"}, "expected 'pair_coeff * * file' and 2 chemical symbols"),
        ({"symbols": "NULL NULL"}, "all atom types are NULL"),
        ({"options": "gpu"}, "expected cpu, cuda or debug, got 'gpu'"),
    ],
)
def test_wrong_input(changes: dict[str, str], message: str, data: Path, compiled: Compiled) -> None:
    _, file = compiled("sum")
    assert message in error_of(data, commands(file, **changes))


def test_units_without_electronvolts(data: Path, compiled: Compiled) -> None:
    _, file = compiled("pair")
    message = error_of(data, commands(file, units="lj") + "run 0")
    assert "which units lj can't express: use units metal" in message


def test_wrong_files(data: Path, compiled: Compiled) -> None:
    _, file = compiled("pair")
    content = file.read_bytes()
    (data / "half.pt2").write_bytes(content[: len(content) // 2])
    (data / "text.pt2").write_text("a model")
    export_model(make_model("pair"), data / "portable.pt2", mode="portable")
    save_model(make_model("pair"), data / "model.pt")
    (data / "model.pt").write_bytes((data / "model.pt").read_bytes()[:1000])
    for name, message in {
        "missing.pt2": "there is no such file",
        "text.pt2": "it is no file made by graph-pes-export",
        "half.pt2": "it is damaged: its end is missing",
        "portable.pt2": "or with --mode portable",
        "model.pt": "graph_pes can't export model.pt",
    }.items():
        assert message in error_of(data, commands(name), ranks=2), name


def test_models_of_training(data: Path, compiled: Compiled) -> None:
    """They are exported when they are first used."""
    model, file = compiled("pair")
    save_model(model, data / "model.pt")
    printed = run_lammps(
        data, single_points("pair_style graph_pes\npair_coeff * * model.pt Si O", ["slab"]), 2
    )
    again = run_lammps(
        data, single_points(f"pair_style graph_pes\npair_coeff * * {file} Si O", ["slab"]), 2
    )
    results = [read_results(data, "slab", text) for text in (printed, again)]
    results[0].assert_equal(results[1], 1e-12)


def test_ghosts_that_are_not_there(data: Path, compiled: Compiled) -> None:
    _, file = compiled("without-hook")
    multi = "neighbor 0.5 multi\ncomm_modify mode multi\npair_style"
    text = commands(file).replace("neighbor 0.5 bin\npair_style", multi)
    message = error_of(data, text + "run 0", ranks=2)
    assert "needs ghosts up to 9.5 away, 3 cutoffs and the skin, for all types" in message


def test_forces_that_are_not_finite(data: Path, compiled: Compiled) -> None:
    """One atom is to blame, by its ID; the other processes end too."""
    _, file = compiled("pair")
    atoms = slab()
    atoms.positions[5] = atoms.positions[2]
    write_data(data / "slab.data", atoms)
    message = error_of(data, commands(file, structure="slab") + "run 0", ranks=4)
    assert "of atom 3 is not finite" in message or "of atom 6 is not finite" in message
    assert "nearest neighbour 0 Angstrom from it" in message


def test_bonds(data: Path, compiled: Compiled) -> None:
    """By default LAMMPS hides bonded neighbours from potentials."""
    _, file = compiled("pair")
    text = (data / "slab.data").read_text().replace("Atoms # atomic", "Atoms # bond")
    head, rows = text.split("Atoms # bond\n\n")
    rows = "\n".join(
        f"{number} 1 {rest}" for number, rest in (row.split(" ", 1) for row in rows.splitlines())
    )
    head = head.replace("2 atom types", "2 atom types\n1 bonds\n1 bond types")
    (data / "bonds.data").write_text(f"{head}Atoms # bond\n\n{rows}\n\nBonds\n\n1 1 1 2\n")
    lines = commands(file, structure="bonds").replace("atom_style atomic", "atom_style bond")
    lines += "bond_style zero\nbond_coeff *\n"
    assert "use special_bonds lj/coul 1 1 1" in error_of(data, lines + "run 0")
    run_lammps(data, lines + "special_bonds lj/coul 1 1 1\nrun 0")


def descendants(process: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [n for child in map(int, children) for n in (child, *descendants(child))]


def test_a_killed_process_ends_the_others(data: Path, compiled: Compiled) -> None:
    _, file = compiled("pair")
    (data / "in.lammps").write_text(commands(file) + "fix 1 all nve\nthermo 10\nrun 100000000\n")
    run = subprocess.Popen(
        [program_path("mpiexec"), "-n", "2", program_path("lmp"), "-in", "in.lammps"],
        cwd=data,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert run.stdout is not None
        for line in run.stdout:
            if line.split()[:1] == [b"10"]:
                break
        programs = [
            n for n in descendants(run.pid) if os.readlink(f"/proc/{n}/exe").endswith("/lmp")
        ]
        assert len(programs) == 2
        os.kill(programs[1], signal.SIGKILL)
        start = time.monotonic()
        assert run.wait(timeout=60) != 0
        assert time.monotonic() - start < 30
    finally:
        if run.poll() is None:
            run.kill()
        run.communicate()
