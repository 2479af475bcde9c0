"""Importing the package brings in torch and numpy only, and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STATE = """
import json, logging, multiprocessing, os, signal, sys, warnings
import numpy, torch

def state():
    return {
        "default dtype": str(torch.get_default_dtype()),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "torch start method": torch.multiprocessing.get_start_method(allow_none=True),
        "sharing strategy": torch.multiprocessing.get_sharing_strategy(),
        "warnings": [str(f) for f in warnings.filters],
        "threads": torch.get_num_threads(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "random": torch.random.initial_seed(),
        "random state": torch.random.get_rng_state().sum().item(),
        "numpy random": str(numpy.random.get_state()[1].sum()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": sys.path,
        "excepthook": repr(sys.excepthook),
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "files": sorted(os.listdir()),
        "float printing": torch.tensor([1 / 3]).__repr__() + repr(numpy.array([1 / 3])),
        "log": [logging.root.level, str(logging.root.handlers)],
    }
"""

SCRIPT = (
    STATE
    + """
before, modules = state(), set(sys.modules)
import graph_pes
after = state()
new = {name.partition(".")[0] for name in set(sys.modules) - modules}
print(json.dumps({"before": before, "after": after, "new": sorted(new)}))
"""
)

# Packages that modules of ours import may change what they like.
EVERY_MODULE = (
    STATE
    + """
import importlib, pkgutil
import ase.io, dacite, data2objects, e3nn.o3, matplotlib.pyplot, pytorch_lightning, rich, vesin
import pytorch_lightning.loggers, pytorch_lightning.callbacks, tensorboard, torch.utils.tensorboard

def of_others():
    return {**state(), "matplotlib": dict.copy(matplotlib.rcParams)}

import graph_pes
before, changed = of_others(), {}
names = [m.name for m in pkgutil.walk_packages(graph_pes.__path__, "graph_pes.")]
for name in names:
    importlib.import_module(name)
    after = of_others()
    changed[name] = [key for key in before if after[key] != before[key]]
    before = after
print(json.dumps({"changed": changed}))
"""
)

LAZY = {
    "ase",
    "vesin",
    "pytorch_lightning",
    "lightning",
    "e3nn",
    "matplotlib",
    "scipy",
    "pandas",
    "wandb",
    "rich",
    "yaml",
    "data2objects",
    "load_atoms",
    "tensorboard",
    "hypothesis",
    "pytest",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("import")
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=folder
    )
    assert process.stderr == ""
    return json.loads(process.stdout)


def test_only_torch_and_numpy(report: dict[str, Any]) -> None:
    assert set(report["new"]) & LAZY == set()
    assert "graph_pes" in report["new"]


def test_no_global_state_is_changed(report: dict[str, Any]) -> None:
    assert report["after"] == report["before"]


def test_no_module_changes_global_state(tmp_path: Path) -> None:
    """Those of commands, training and figures either, though they import far more."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EVERY_MODULE],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    changed = json.loads(process.stdout)["changed"]
    assert {"graph_pes.cli.train", "graph_pes.analysis.parity", "graph_pes.training.task"} <= set(
        changed
    )
    assert {name: keys for name, keys in changed.items() if keys} == {}


def test_public_names() -> None:
    import graph_pes

    expected = {
        "AtomicGraph",
        "GraphPESModel",
        "GraphPropertyModel",
        "GraphTensorModel",
        "load_model",
        "save_model",
        "__version__",
    }
    assert set(graph_pes.__all__) == expected
    assert all(hasattr(graph_pes, name) for name in expected)


def test_the_conformance_suite_needs_no_test_framework() -> None:
    script = "import sys, graph_pes.testing; print({'pytest', 'hypothesis'} & sys.modules.keys())"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "set()"
