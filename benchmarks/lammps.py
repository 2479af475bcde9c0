"""Steps of LAMMPS: ours on one process and more, and what others evaluate there on one.

Others come as a pair style for which LAMMPS has to be built anew; of these the program alone is
timed that they run for every step, without LAMMPS around it: that is the least their steps take.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import ase.io
import torch

from graph_pes.deploy import ExportedModel
from graph_pes.deploy.cache import compiled_file
from graph_pes_lammps.building import build
from graph_pes_lammps.doctor import program_path

from .catalogue import OURS, Contender, contenders, request_of, title_of
from .compare import Case, Entrant, Settings
from .tables import markdown
from .worker.packages import made_from
from .worker.structures import ELEMENTS, structures_of

COMMANDS = """\
units metal
atom_style atomic
atom_modify map yes
read_data structure.data
pair_style graph_pes debug
pair_coeff * * {file} {elements}
neighbor 1.0 bin
mass * 1e6
velocity all create 300 1 loop geom
fix 1 all nve
timestep 0.001
thermo {steps}
run 1
run {steps}
"""


@dataclass(frozen=True)
class Step:
    """A step of LAMMPS, of one run.

    Attributes
    ----------
    seconds
        On the wall.
    exchange
        Seconds of it in which the slowest process exchanged ghosts.
    ghosts
        Of each process, the mean.
    """

    seconds: float
    exchange: float
    ghosts: float


class Simulation:
    """One model and one structure in LAMMPS."""

    def __init__(self, model: str, structure: str, steps: int, folder: Path):
        build()
        self.folder, self.steps = folder, steps
        (atoms,) = structures_of(structure)
        elements = ELEMENTS[structure.partition(":")[0]]
        torch.manual_seed(0)
        entry = request_of(model, Contender(OURS))["entry"]
        file = compiled_file(made_from(entry, elements=elements).eval())
        self.widths = ExportedModel(file).metadata.exchange_widths
        ase.io.write(
            folder / "structure.data", atoms, format="lammps-data", specorder=elements, masses=True
        )
        commands = COMMANDS.format(file=file, elements=" ".join(elements), steps=steps)
        (folder / "in.benchmark").write_text(commands)

    def run(self, ranks: int) -> Step:
        """One run on so many processes."""
        done = subprocess.run(
            [
                *(program_path("mpiexec"), "-n", str(ranks)),
                *(program_path("lmp"), "-in", "in.benchmark", "-log", "none"),
            ],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        (*_, loop) = re.findall(r"Loop time of ([\d.e+-]+)", done.stdout)
        (*_, exchange) = re.findall(r"\(exchange ([\d.]+)\)", done.stdout)
        (*_, ghosts) = re.findall(r"Nghost:\s+([\d.]+) ave", done.stdout)
        return Step(float(loop) / self.steps, float(exchange) / 1000, float(ghosts))


def lammps(
    models: list[str], structures: list[str], ranks: list[int], steps: int, settings: Settings
) -> str:
    """Tables of all models."""
    header = ["model", "atoms", "who", "ms/step", "µs/atom", "ratio", "exchange, ms", "ghosts"]
    rows = [
        row
        for model in models
        for structure in structures
        for row in _rows(model, structure, ranks, steps, settings)
    ]
    return markdown([*header, "bytes per ghost"], rows)


def _rows(
    model: str, structure: str, ranks: list[int], steps: int, settings: Settings
) -> Iterator[list[str]]:
    """One model on one structure: our runs and those of others, in turn."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    others = [
        Entrant(contender, Case(model, "lammps", structure), settings)
        for contender in contenders(model, "lammps", settings.peers)
        if contender.compiled
    ]
    runs: dict[int, list[Step]] = {n: [] for n in ranks}
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(model, structure, steps, Path(folder))
        for _ in range(settings.repeats):
            for n in ranks:
                runs[n].append(simulation.run(n))
                print(f"{model} {structure} {n}: {runs[n][-1]}", file=sys.stderr, flush=True)
            for other in others:
                other.repeat()
    atoms = int(structure.partition(":")[2])
    first = median(step.seconds for step in runs[ranks[0]])

    def row(who: str, seconds: float, *more: str) -> list[str]:
        ms, ratio = f"{1e3 * seconds:.0f}", f"{seconds / first:.2f}"
        return [
            title_of(model),
            str(atoms),
            who,
            ms,
            f"{1e6 * seconds / atoms:.1f}",
            ratio,
            *(more or ["–"] * 3),
        ]

    width = sum(8 * math.ceil(n / 2) for n in simulation.widths)  # messages are of doubles
    for n in ranks:
        seconds, exchange, ghosts = (
            median(getattr(step, name) for step in runs[n])
            for name in ("seconds", "exchange", "ghosts")
        )
        yield row(
            f"{n} process{'es' * (n > 1)}",
            seconds,
            f"{1e3 * exchange:.1f}",
            f"{ghosts:.0f}",
            str(width),
        )
    for other in others:
        record = other.record()
        if record.error:
            yield [title_of(model), str(atoms), record.package, record.error, *["–"] * 5]
        else:
            yield row(record.package, record.milliseconds / 1000)
