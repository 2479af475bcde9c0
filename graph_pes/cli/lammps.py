"""``graph-pes-lammps``: the plugin for LAMMPS is built, and looked after."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from graph_pes.deploy.cache import compiled_file
from graph_pes.models import load_model
from graph_pes_lammps.building import build
from graph_pes_lammps.doctor import findings

from .settings import run_command


def build_plugin(force: bool) -> None:
    """Build the plugin, and say where it is."""
    print("Building the plugin for LAMMPS, once for each version of torch and LAMMPS: a minute")
    print(f"Built: {build(force)}. LAMMPS finds it by itself.")


def doctor() -> None:
    """Print what was found, and what is missing."""
    everything = list(findings())
    for name, good, text in everything:
        print(f"{'ok  ' if good else 'FAIL'} {name:13s} {text}")
    if not all(finding.good for finding in everything):
        raise SystemExit(1)


def export(model: Path, device: str) -> None:
    """Print the path of what a model was exported to, on the last line: for the plugin."""
    loaded = load_model(model)
    print(compiled_file(loaded.to(torch.device(device))))


def main(argv: list[str] | None = None) -> None:
    """Run ``graph-pes-lammps``."""
    parser = argparse.ArgumentParser(description="Models of graph-pes in LAMMPS.")
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build the plugin, with g++")
    building.add_argument("--force", action="store_true", help="even if it was built before")
    commands.add_parser("doctor", help="print what was found and what is missing")
    exporting = commands.add_parser("export", help="export model.pt, as LAMMPS does by itself")
    exporting.add_argument("model", type=Path)
    exporting.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args(argv)
    if arguments.command == "build":
        run_command(lambda: build_plugin(arguments.force))
    elif arguments.command == "doctor":
        doctor()
    else:
        run_command(lambda: export(arguments.model, arguments.device))


if __name__ == "__main__":
    main(sys.argv[1:])
