"""Learning curves: a trained model fine-tuned, and the same architecture trained from scratch.

Usage, from the root of the repository::

    python -m benchmarks.fine_tuning foundation.pt --data mlearn_Si --out runs --plot curve.png

``foundation.pt`` is a foundation model that was saved and knows the elements of the data, which are
those of ``../shared/data``; the settings are those of ``configs/fine-tuning``. All runs take the
same number of steps, with a learning rate that falls to zero along a cosine, and the last weights
are tested. Finished runs are in ``runs/results.json``, and are not done again: call it once for
each way, where they are to have learning rates of their own.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from graph_pes.cli.train import train_from_config
from graph_pes.models import AdditionModel, GraphPESModel, LearnableOffset
from graph_pes.training.config_files import merge, read_config

FULL = "configs/fine-tuning/full.yaml"


@dataclass(frozen=True)
class DataSet:
    """Structures of one kind.

    Attributes
    ----------
    train, test
        Files.
    sizes
        How many structures to train on.
    energy
        The metric of the energies.
    unit
        Of that, in thousandths.
    """

    train: str
    test: str
    sizes: tuple[int, ...]
    energy: str = "energy_rmse"
    unit: str = "meV"


DATA = Path("../shared/data")
SETS = {
    "acac": DataSet("train_600K.xyz.gz", "test_MD_600K.xyz.gz", (10, 30, 100, 400)),
    "mlearn_Si": DataSet(
        "training.xyz.gz", "test.xyz", (10, 30, 100, 214), "per_atom_energy_rmse", "meV/atom"
    ),
    "mlearn_Cu": DataSet(
        "training.xyz.gz", "test.xyz", (10, 30, 100, 262), "per_atom_energy_rmse", "meV/atom"
    ),
}
#: How each curve is made: configuration files, and what is changed in them.
WAYS: dict[str, list[str]] = {
    "not trained": [FULL],  # but for the energies of the atoms
    "fine-tuned": [FULL],
    "from scratch": [
        FULL,
        "model={+benchmarks.fine_tuning.from_scratch: {model: =/foundation}}",
        "fitting/auto_fit_reference_energies=false",
    ],
    "low rank": [FULL, "configs/fine-tuning/lora.yaml"],
}


def from_scratch(model: AdditionModel) -> AdditionModel:
    """The architecture of a foundation model with new weights, and energies of atoms to fit."""
    network = model["network"]
    arguments = network.__dict__["constructor_arguments"]
    new: GraphPESModel = type(network)(**arguments)
    return AdditionModel(network=new, offset=LearnableOffset())


def settings(way: str, n: int, options: argparse.Namespace) -> dict[str, Any]:
    """The configuration of a run."""
    steps = 0 if way == "not trained" else options.steps
    changes = {
        "foundation": {"+load_model": {"path": str(options.foundation)}},
        "fitting": {
            "keep": "last",
            "optimizer": {"name": "Adam", "lr": options.lr},
            "scheduler": {"T_max": max(steps, 1)},
            "loader_kwargs": {
                "batch_size": options.batch_size,
                "num_workers": 0,
                "persistent_workers": False,
            },
            "trainer_kwargs": {
                "max_epochs": -1,
                "max_steps": steps,
                "limit_val_batches": 0,
                "accelerator": "cpu",
            },
        },
        "general": {
            "root_dir": str(options.out),
            "run_id": f"{way}-{n}".replace(" ", "-"),
            "progress": "logged",
        },
    }
    files = SETS[options.data]
    train = str(DATA / options.data / files.train)
    data = {
        "train": {"path": train, "n": n},
        "valid": {"path": train, "n": 4},  # not looked at
        "test": {"test": str(DATA / options.data / files.test)},
    }
    return {**merge(read_config(WAYS[way]), changes), "data": data}


def run(way: str, n: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train in one of the ways on n structures; errors in eV and Å, and minutes of CPU time."""
    start = time.process_time()
    folder = train_from_config(settings(way, n, options))
    assert folder is not None
    minutes = (time.process_time() - start) / 60
    summary = yaml.safe_load((folder / "summary.yaml").read_text())
    return {
        "way": way,
        "n": n,
        "lr": options.lr,
        "energy": summary[f"test/test/{SETS[options.data].energy}"],
        "forces": summary["test/test/forces_rmse"],
        "minutes": minutes,
        "learnable": int(summary["n_learnable_parameters"]),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Errors as Markdown, in thousandths of eV and eV/Å."""
    lines = ["| structures | " + " | ".join(WAYS) + " |", "|---" * (len(WAYS) + 1) + "|"]
    found = {(r["way"], r["n"]): r for r in results}
    for n in sorted({r["n"] for r in results}):
        cells = [
            f"{1000 * r['energy']:.1f} / {1000 * r['forces']:.0f}" if r else "–"
            for r in (found.get((way, n)) for way in WAYS)
        ]
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], unit: str, path: Path) -> None:
    """Errors of energies and forces over the number of structures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    sizes = sorted({r["n"] for r in results})
    for panel, key, of in zip(axes, ("energy", "forces"), (unit, "meV/Å"), strict=True):
        name = "energies" if key == "energy" else key
        for way in WAYS:
            points = sorted((r["n"], 1000 * r[key]) for r in results if r["way"] == way)
            if points:
                panel.semilogx(*zip(*points, strict=True), "o-", label=way, lw=1.5, ms=5)
        panel.set(xlabel="training structures", ylabel=f"RMSE of {name}, {of}")
        panel.set_xticks(sizes, [str(n) for n in sizes])
        panel.minorticks_off()
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3, lw=0.5)
    axes[1].legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run what has not been run, print the table and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("foundation", type=Path, help="model.pt to start from")
    parser.add_argument("--out", type=Path, default=Path("graph-pes-results") / "fine-tuning")
    parser.add_argument("--data", choices=list(SETS), default="acac")
    parser.add_argument("--size", type=int, nargs="+")
    parser.add_argument("--way", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else []
    for n in options.size or SETS[options.data].sizes:
        for way in options.way:
            if not any((r["way"], r["n"]) == (way, n) for r in results):
                results.append(run(way, n, options))
                file.write_text(json.dumps(results, indent=1))
                print(results[-1], flush=True)
    print(table(results))
    print(f"{sum(r['minutes'] for r in results):.1f} minutes of CPU time")
    if options.plot:
        plot(results, SETS[options.data].unit, options.plot)


if __name__ == "__main__":
    main()
