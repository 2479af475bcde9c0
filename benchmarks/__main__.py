"""Measure speed and memory, and how near they are to what the machine can do.

commands:
  compare   ours, as it is and compiled, beside other packages, each in a process and an
            environment of its own, on the same structures, in turn: medians, ratios, memory,
            and how the cost grows with the number of atoms
  fits      the largest crystal that fits into memory
  batches   structures at once in torch-sim, and beads in i-PI, beside one after the other
  engines   steps of ASE, torch-sim, i-PI, metatomic and LAMMPS with the same model
  lammps    steps of LAMMPS, on one process and more, beside what others evaluate there
  roofline  operations and bytes of our models beside a large matrix product and a copy
  report    tables and picture of results that were written before, of several runs together
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .catalogue import models, peers
from .compare import STRUCTURES, Case, Settings, compare
from .environments import interpreters
from .fits import fits
from .plot import plot
from .results import Results
from .tables import report


def settings_of(arguments: argparse.Namespace) -> Settings:
    """How to measure."""
    return Settings(
        interpreters=interpreters(arguments.peer),
        device=arguments.device,
        repeats=arguments.repeats,
        seconds=arguments.seconds,
        eager_only=arguments.eager,
        folder=arguments.out,
    )


def run_compare(arguments: argparse.Namespace) -> None:
    """The command ``compare``."""
    cases = [
        Case(model, task, structure)
        for model in arguments.model
        for task in arguments.task
        for structure in arguments.structure or STRUCTURES[task]
    ]
    show(compare(cases, settings_of(arguments)), arguments.out)


def run_fits(arguments: argparse.Namespace) -> None:
    """The command ``fits``."""
    fits(arguments.model, settings_of(arguments), arguments.most)


def run_roofline(arguments: argparse.Namespace) -> None:
    """The command ``roofline``."""
    from .roofline import roofline  # with the compiler, which takes seconds to import

    print(roofline(arguments.model, arguments.structure, arguments.device, arguments.repeats))


def run_batches(arguments: argparse.Namespace) -> None:
    """The command ``batches``."""
    from .batches import batches  # whose extras others need not have

    options = arguments.structure, arguments.size, arguments.device, arguments.repeats
    print(batches(arguments.model, *options, eager=arguments.eager))


def run_engines(arguments: argparse.Namespace) -> None:
    """The command ``engines``."""
    from .engines import engines  # whose extras others need not have

    for model in arguments.model:
        print(engines(model, arguments.structure, arguments.repeats), flush=True)


def run_lammps(arguments: argparse.Namespace) -> None:
    """The command ``lammps``."""
    from .lammps import lammps  # whose extra others need not have

    settings = settings_of(arguments)
    print(lammps(arguments.model, arguments.structure, arguments.ranks, arguments.steps, settings))


def run_report(arguments: argparse.Namespace) -> None:
    """The command ``report``."""
    first, *others = (Results.read(path) for path in arguments.results)
    for other in others:
        first.records.extend(other.records)
    show(first, arguments.out)


def show(results: Results, folder: Path) -> None:
    """Print and write tables, and draw the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    text = report(results)
    print(text)
    (folder / "report.md").write_text(text + "\n")
    plot(results, folder / "results.png")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=form
    )
    commands = found.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("compare")
    command.set_defaults(run=run_compare)
    add_model_options(command, models(), repeats=15)
    add_peer_options(command)
    tasks = tuple(STRUCTURES)
    command.add_argument("--task", nargs="+", choices=tasks, default=tasks, metavar="TASK")
    command.add_argument(
        "--structure", nargs="+", metavar="KIND:N", help="Si:64, oxide:480, molecules:10 ..."
    )

    command = commands.add_parser("fits")
    command.set_defaults(run=run_fits)
    add_model_options(command, models(), repeats=1)
    add_peer_options(command)
    command.add_argument("--most", type=int, default=200_000, metavar="ATOMS")

    command = commands.add_parser("roofline")
    command.set_defaults(run=run_roofline)
    add_model_options(command, ["painn", "mace-0", "mace-1"], repeats=15)
    command.add_argument("--structure", default="Si:512", metavar="KIND:N")

    command = commands.add_parser("batches")
    command.set_defaults(run=run_batches)
    add_model_options(command, ["painn"], repeats=5)
    command.add_argument("--structure", nargs="+", default=["Si:8", "Si:64"], metavar="KIND:N")
    command.add_argument("--size", nargs="+", type=int, default=[1, 10, 100])
    command.add_argument("--eager", action="store_true", help="leave compiled forms out")

    command = commands.add_parser("engines")
    command.set_defaults(run=run_engines)
    add_model_options(command, ["painn"], repeats=5)
    command.add_argument("--structure", default="Si:512", metavar="KIND:N")

    command = commands.add_parser("lammps")
    command.set_defaults(run=run_lammps)
    add_model_options(command, ["painn", "mace-0"], repeats=3)
    add_peer_options(command)
    command.add_argument(
        "--structure", nargs="+", default=["Si:2304", "Si:20736"], metavar="KIND:N"
    )
    command.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    command.add_argument("--steps", type=int, default=10)

    command = commands.add_parser("report")
    command.set_defaults(run=run_report)
    command.add_argument("results", nargs="+", type=Path, help="files results.json")
    add_folder(command)
    return found


def add_model_options(command: argparse.ArgumentParser, default: list[str], repeats: int) -> None:
    """What to measure, where and how often."""
    command.add_argument(
        "--model",
        nargs="+",
        choices=models(),
        default=default,
        metavar="MODEL",
        help=f"some of {', '.join(models())} (default: {', '.join(default)})",
    )
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command.add_argument("--repeats", type=int, default=repeats, help=f"(default: {repeats})")


def add_peer_options(command: argparse.ArgumentParser) -> None:
    """Whom to measure."""
    command.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME[=PYTHON]",
        help=f"one of {', '.join(peers())}, and the interpreter of its environment; without that, "
        "an environment is made and kept",
    )
    command.add_argument("--eager", action="store_true", help="leave compiled forms out")
    command.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="what took so long is repeated no more than three times (default: 60)",
    )
    add_folder(command)


def add_folder(command: argparse.ArgumentParser) -> None:
    """Where to write."""
    folder = Path("graph-pes-results") / "benchmarks"
    command.add_argument(
        "--out", type=Path, default=folder, metavar="FOLDER", help=f"(default: {folder})"
    )


def main() -> None:
    """Run a command."""
    arguments = parser().parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
