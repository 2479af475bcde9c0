"""Trains small models on real data within a budget of CPU time, and tests them.

Usage::

    python benchmarks/accuracy.py SET MODEL --minutes 20 --data ../shared/data --out runs

The sets and models are those of ``accuracy.yaml``. The number of epochs is what the budget allows,
judged by the time of a few steps; the learning rate falls to zero along a cosine. Besides the
folder of the run, ``runs/SET-MODEL``, the errors on the test sets are printed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
import yaml

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.cli.train import train_from_config
from graph_pes.models import GraphPESModel, load_model
from graph_pes.nn.per_element import count_used_parameters
from graph_pes.training.objects import make_objects

SEED = 0


def split(source: Path, n_valid: int, folder: Path) -> dict[str, str]:
    """Files of training and validation structures, chosen at random."""
    structures = ase.io.read(source, index=":")
    order = np.random.default_rng(SEED).permutation(len(structures))
    parts = {"valid": order[:n_valid], "train": order[n_valid:]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, indices in parts.items():
        ase.io.write(folder / f"{name}.xyz", [structures[n] for n in sorted(indices)])
    return {name: str(folder / f"{name}.xyz") for name in parts}


def step_seconds(model: GraphPESModel, path: str, chosen: dict[str, Any]) -> float:
    """CPU time of a training step on typical structures."""
    keys = [loss["+PropertyLoss"]["property"] for loss in chosen["loss"] if "+PropertyLoss" in loss]
    structures = ase.io.read(path, index=":")
    chosen = np.random.default_rng(SEED).choice(len(structures), (5, chosen["batch_size"]))
    times = []
    for row in chosen:
        batch = to_batch([AtomicGraph.from_ase(structures[n], model.cutoff_value) for n in row])
        start = time.process_time()
        predictions = model.train().predict(batch, ["energy", *keys])
        sum(p.square().sum() for p in predictions.values()).backward()
        times.append(time.process_time() - start)
    return float(np.mean(times[1:]))


def config_of(
    chosen: dict[str, Any],
    model: dict[str, Any],
    files: dict[str, str],
    n_epochs: int,
    n_steps: int,
) -> dict[str, Any]:
    """The configuration of a run, apart from where things are."""
    return {
        "model": {"offset": "+LearnableOffset()", "many-body": model},
        "data": files,
        "loss": chosen["loss"],
        "fitting": {
            "optimizer": {"+Optimizer": {"name": "AdamW", "lr": 2e-3, "weight_decay": 1e-6}},
            "scheduler": {"+LRScheduler": {"name": "CosineAnnealingLR", "T_max": n_steps}},
            "lr_warmup_steps": 100,
            "ema": {"decay": 0.99},
            "trainer_kwargs": {
                "max_epochs": n_epochs,
                "accelerator": "cpu",
                "gradient_clip_val": 10.0,
            },
            "loader_kwargs": {
                "batch_size": chosen["batch_size"],
                "num_workers": 0,
                "persistent_workers": False,
            },
        },
        "general": {"seed": SEED, "progress": "logged"},
        "wandb": None,
    }


def main() -> None:
    """Train one model on one set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set")
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=20.0, help="of CPU time")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    table = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    chosen, model = table["sets"][arguments.set], table["models"][arguments.model]
    name = f"{arguments.set}-{arguments.model}"
    files = split(
        arguments.data / chosen["train"], chosen["n_valid"], arguments.out / "data" / name
    )
    n_train = len(ase.io.read(files["train"], index=":"))
    seconds = step_seconds(make_objects({"model": model})["model"], files["train"], chosen)
    steps_per_epoch = -(-n_train // chosen["batch_size"])
    n_epochs = max(1, int(60 * arguments.minutes / (seconds * steps_per_epoch)))
    print(f"{name}: {1000 * seconds:.0f} ms a step, {n_epochs} epochs", flush=True)

    config = config_of(chosen, model, files, n_epochs, n_epochs * steps_per_epoch)
    config["data"]["test"] = {
        key: str(arguments.data / path) for key, path in chosen["test"].items()
    }
    config["general"].update(root_dir=str(arguments.out), run_id=name)
    start = time.process_time()
    folder = train_from_config(config)
    minutes = (time.process_time() - start) / 60
    n_parameters, _ = count_used_parameters(load_model(folder / "model.pt"))
    summary = yaml.safe_load((folder / "summary.yaml").read_text())
    print(f"{name}: {n_parameters} parameters, {n_epochs} epochs, {minutes:.1f} min of CPU time")
    print(yaml.safe_dump(summary), flush=True)


if __name__ == "__main__":
    main()
