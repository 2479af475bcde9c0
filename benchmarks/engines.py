"""One model and structure in every engine: what a step takes, and what the engine is given."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ase.calculators.calculator import Calculator
from metatomic_ase import MetatomicCalculator

from graph_pes.deploy import compiled
from graph_pes.deploy.metatomic import export_metatomic

from .batches import BEADS, bead_runs, model_of, torch_sim_runs
from .catalogue import title_of
from .lammps import Simulation
from .tables import markdown
from .worker.structures import structures_of
from .worker.tasks import dynamics

#: Runs that do not count: TorchScript optimises its programs in the first two.
WARM_UP = 3
#: Steps of a run in LAMMPS.
LAMMPS_STEPS = 10


@dataclass(frozen=True)
class Engine:
    """One row.

    Attributes
    ----------
    name
        Of the engine, and the form of the model.
    step
        Returns how many seconds on the wall it took.
    properties
        What the engine gets from the model.
    """

    name: str
    step: Callable[[], float]
    properties: str


def engines(model: str, structure: str, repeats: int) -> str:
    """A table of all engines, measured in turn on the wall."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(_engines(model, structure, Path(folder)))
        seconds: dict[str, list[float]] = {engine.name: [] for engine in found}
        for _ in range(repeats):
            for engine in found:
                seconds[engine.name].append(engine.step())
                print(engine.name, seconds[engine.name][-1], file=sys.stderr, flush=True)
    rows = [
        [engine.name, f"{1000 * median(seconds[engine.name]):.1f}", engine.properties]
        for engine in found
    ]
    title = f"{title_of(model)}, {structure.replace(':', ' ')}"
    return markdown([title, "ms/step", "properties"], rows)


def _engines(name: str, structure: str, folder: Path) -> Iterator[Engine]:
    model = model_of(name, structure, "cpu")
    fast = compiled(model)
    per_atom = "energy (of atoms too), forces, stress"

    def ase(calculator: Calculator) -> Callable[[], float]:
        (atoms,) = structures_of(structure)
        return timed(dynamics(atoms, calculator))

    yield Engine("ASE", ase(model.ase_calculator()), f"{per_atom}, all others of the model")
    yield Engine("ASE, compiled", ase(model.ase_calculator(compile=True)), per_atom)
    for form, evaluated in {"": model, ", compiled": fast}.items():
        run = torch_sim_runs(evaluated, structure, [1])["1"]
        yield Engine(f"torch-sim{form}", timed(run), "energy, forces, stress; batches")
        run = bead_runs(evaluated, model, structure)["alone"]
        yield Engine(f"i-PI{form}", timed(run, BEADS), "energy, forces, virial; batches of beads")
    archive = folder / "model.pt"
    export_metatomic(model, archive)
    yield Engine("metatomic, in ASE", ase(MetatomicCalculator(archive)), per_atom)
    simulation = Simulation(name, structure, LAMMPS_STEPS, folder)
    for ranks in (1, 2):
        yield Engine(
            f"LAMMPS, {ranks} process{'es' * (ranks > 1)}",
            lambda ranks=ranks: simulation.run(ranks).seconds,
            "energy, forces, virial (of atoms too); further outputs by compute graph_pes",
        )


def timed(run: Callable[[], object], parts: int = 1) -> Callable[[], float]:
    """Measures a run, after some that do not count, or one part of it."""
    for _ in range(WARM_UP):
        run()

    def seconds() -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) / parts

    return seconds
