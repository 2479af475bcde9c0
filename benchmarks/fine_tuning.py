"""Learning curves: a trained model fine-tuned, and the same architecture trained from scratch.

Usage, from the root of the repository::

    python -m benchmarks.fine_tuning foundation.pt --out runs --plot docs/images/fine-tuning.png

``foundation.pt`` is a model for H, C and O, say a foundation model that was saved; the data are
acetylacetone at 600 K of ``../shared/data``, the settings those of ``configs/fine-tuning``. All
runs take the same number of steps, with a learning rate that falls from 0.01 to zero along a
cosine, and the last weights are tested. Finished runs are in ``runs/results.json``, and are not
done again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from graph_pes.cli.train import train_from_config
from graph_pes.models import AdditionModel, GraphPESModel, LearnableOffset
from graph_pes.training.config_files import merge, read_config

SIZES = (10, 30, 100, 400)
FULL = "configs/fine-tuning/full.yaml"
DATA = "../shared/data/acac"
#: How each curve is made: configuration files, and what is changed in them.
WAYS: dict[str, list[str]] = {
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


def run(way: str, n: int, steps: int, foundation: Path, out: Path) -> dict[str, Any]:
    """Train in one of the ways on n structures; errors in eV and Å, and minutes of CPU time."""
    changes = {
        "foundation": {"+load_model": {"path": str(foundation)}},
        "fitting": {
            "keep": "last",
            "optimizer": {"name": "Adam", "lr": 1e-2},
            "scheduler": {"T_max": steps},
            "loader_kwargs": {"num_workers": 0, "persistent_workers": False},
            "trainer_kwargs": {
                "max_epochs": -1,
                "max_steps": steps,
                "limit_val_batches": 0,
                "accelerator": "cpu",
            },
        },
        "general": {
            "root_dir": str(out),
            "run_id": f"{way}-{n}".replace(" ", "-"),
            "progress": "logged",
        },
    }
    data = {
        "train": {"path": f"{DATA}/train_600K.xyz.gz", "n": n},
        "valid": {"path": f"{DATA}/test_MD_300K.xyz.gz", "n": 4},
        "test": {"600K": f"{DATA}/test_MD_600K.xyz.gz"},
    }
    config = {**merge(read_config(WAYS[way]), changes), "data": data}
    start = time.process_time()
    folder = train_from_config(config)
    assert folder is not None
    minutes = (time.process_time() - start) / 60
    summary = yaml.safe_load((folder / "summary.yaml").read_text())
    errors = {key: summary[f"test/600K/{key}"] for key in ("energy_rmse", "forces_rmse")}
    learnable = int(summary["n_learnable_parameters"])
    return {"way": way, "n": n, **errors, "minutes": minutes, "learnable": learnable}


def table(results: list[dict[str, Any]]) -> str:
    """Errors as Markdown, in meV and meV/Å."""
    lines = ["| structures | " + " | ".join(WAYS) + " |", "|---" * (len(WAYS) + 1) + "|"]
    found = {(r["way"], r["n"]): r for r in results}
    for n in sorted({r["n"] for r in results}):
        cells = [
            f"{1000 * r['energy_rmse']:.0f} / {1000 * r['forces_rmse']:.0f}" if r else "–"
            for r in (found.get((way, n)) for way in WAYS)
        ]
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Errors of energies and forces over the number of structures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for panel, key, unit in zip(axes, ("energy", "forces"), ("meV", "meV/Å"), strict=True):
        for way in WAYS:
            points = sorted((r["n"], 1000 * r[f"{key}_rmse"]) for r in results if r["way"] == way)
            if points:
                panel.semilogx(*zip(*points, strict=True), "o-", label=way, lw=1.5, ms=5)
        panel.set(xlabel="training structures", ylabel=f"RMSE of {key}, {unit}")
        panel.set_xticks(SIZES, [str(n) for n in SIZES])
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
    parser.add_argument("--size", type=int, nargs="+", default=SIZES)
    parser.add_argument("--way", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else []
    for n in options.size:
        for way in options.way:
            if not any((r["way"], r["n"]) == (way, n) for r in results):
                results.append(run(way, n, options.steps, options.foundation, options.out))
                file.write_text(json.dumps(results, indent=1))
                print(results[-1], flush=True)
    print(table(results))
    print(f"{sum(r['minutes'] for r in results):.1f} minutes of CPU time")
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
