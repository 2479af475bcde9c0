"""Interpreters of the packages that ours is compared with, each in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from graph_pes.deploy.cache import cache_folder

from .catalogue import OURS, package_facts, peers


def interpreters(chosen: list[str]) -> dict[str, str]:
    """The interpreter of each package, ours among them.

    Parameters
    ----------
    chosen
        ``NAME=PYTHON`` for an environment that exists; ``NAME`` for ours, or for one in the cache
        folder, which is made if it is not there, as ``models.yaml`` says.

    Raises
    ------
    ValueError
        If there is no such package in ``models.yaml``, or no such interpreter.
    """
    found = {OURS: sys.executable}
    for peer in chosen:
        name, _, python = peer.partition("=")
        if name not in peers():
            raise ValueError(f"expected a peer among {', '.join(peers())}, got {name!r}")
        if python and not Path(python).exists():
            raise ValueError(f"there is no interpreter {python} for {name}")
        ours = package_facts(name).get("environment") == OURS
        found[name] = python or (sys.executable if ours else str(_environment(name)))
    return found


def cache_of_benchmarks() -> Path:
    """Where environments, and what peers compile, are kept."""
    return cache_folder() / "benchmarks"


def _environment(package: str) -> Path:
    """The interpreter of an environment with a package at its version in ``models.yaml``."""
    facts = package_facts(package)
    requirements, alone = facts["install"], facts.get("alone", [])
    folder = cache_of_benchmarks() / "environments" / (alone or requirements)[0]
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.is_file():
        print(f"Installing {', '.join(alone + requirements)} in {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        # The same torch for all, first and alone, so that pip takes the build for CPUs where one
        # is offered.
        torch = f"torch=={version('torch').partition('+')[0]}"
        subprocess.run([*install, torch], check=True)
        subprocess.run([*install, torch, *requirements], check=True)
        if alone:
            subprocess.run([*install, "--no-deps", *alone], check=True)
        complete.touch()
    return python
