"""What the runs of ``accuracy.py`` came to: a table of test errors, and learning curves.

Usage::

    python benchmarks/learning_curves.py RUNS --plot docs/images/learning-curves.png

``RUNS`` is what was given to ``accuracy.py`` as ``--out``. The table is Markdown; energies are in
meV, per atom where structures differ in size, forces in meV/Å, stress in meV/Å³, all as RMSE.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

#: Sets whose structures all have the same number of atoms: errors of whole energies are usual.
WHOLE_ENERGIES = ("acac",)

#: What follows the CPU time in a log.
COST = " min of CPU time"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    set, model
        Names in ``accuracy.yaml``.
    summary
        What the run reported.
    minutes, forces
        Time since its start, and the RMSE of the forces of the validation set in eV/Å.
    cost
        CPU time in all in minutes, as its log says.
    """

    set: str
    model: str
    summary: dict[str, float]
    minutes: list[float]
    forces: list[float]
    cost: float

    def row(self) -> Iterator[str]:
        """Cells of the table."""
        s = self.summary
        yield from (self.set, self.model, f"{s['n_learnable_parameters']:.0f}")
        milliseconds = 6e4 * self.cost / s["step"]
        yield from (f"{s['epoch'] + 1:.0f}", f"{self.cost:.0f}", f"{milliseconds:.0f}")
        tests = sorted({key.split("/")[1] for key in s if key.startswith("test/")})
        energy = "energy_rmse" if self.set in WHOLE_ENERGIES else "per_atom_energy_rmse"
        for test in (name for name in tests if name not in ("train", "valid")):
            yield test
            for quantity in (energy, "forces_rmse", "stress_rmse"):
                value = s.get(f"test/{test}/{quantity}")
                yield "–" if value is None else f"{1000 * value:.1f}"


HEADER = (
    "set",
    "model",
    "parameters",
    "epochs",
    "CPU, min",
    "step, ms",
    *("test", "energy", "forces", "stress"),
)


def finished_runs(folder: Path) -> list[Run]:
    """All runs in a folder that have come to their end."""
    logs = [log for log in sorted(folder.glob("*.log")) if COST in log.read_text()]
    return [read_run(log.with_suffix("")) for log in logs]


def read_run(folder: Path) -> Run:
    """A run from its folder, beside which its log has the same name."""
    chosen, _, model = folder.name.partition("-")
    summary = yaml.safe_load((folder / "summary.yaml").read_text())
    log = folder.with_suffix(".log").read_text()
    cost = float(log.split(COST)[0].rsplit(" ", 1)[1])
    forces = list(_validation(folder / "version_0" / "metrics.csv"))
    minutes = [cost * (n + 1) / len(forces) for n in range(len(forces))]
    return Run(chosen, model, summary, minutes, forces, cost)


def _validation(path: Path) -> Iterator[float]:
    """The RMSE of forces after every epoch."""
    with path.open() as file:
        for row in csv.DictReader(file):
            if value := row.get("valid/metrics/forces_rmse"):
                yield float(value)


def plot(runs: Sequence[Run], path: Path) -> None:
    """Draw the RMSE of forces of the validation sets over CPU time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sets = sorted({run.set for run in runs})
    figure, panels = plt.subplots(
        1, len(sets), figsize=(4.5 * len(sets), 3.5), squeeze=False, layout="constrained"
    )
    colours = {name: f"C{n}" for n, name in enumerate(sorted({run.model for run in runs}))}
    for panel, name in zip(panels[0], sets, strict=True):
        for run in (run for run in runs if run.set == name):
            errors = [1000 * error for error in run.forces]
            panel.plot(run.minutes, errors, color=colours[run.model], lw=1.2, label=run.model)
        panel.set(title=name, xlabel="CPU time, min", yscale="log")
        panel.grid(alpha=0.3, which="both", lw=0.5)
    panels[0][0].set_ylabel("RMSE of validation forces, meV/Å")
    panels[0][-1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print the table and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    runs = finished_runs(arguments.runs)
    cells = [list(run.row()) for run in runs]
    tests = max(((len(row) - 6) // 4 for row in cells), default=1)
    header = [*HEADER, *HEADER[-4:] * (tests - 1)]
    for row in (header, ["---"] * len(header), *cells):
        print("| " + " | ".join(row + [""] * (len(header) - len(row))) + " |")
    if arguments.plot and runs:
        plot(runs, arguments.plot)


if __name__ == "__main__":
    main()
