"""Models of Nequix, which need no other package, against what nequix predicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.deploy.engine import EngineModel, engine_inputs, forces_from
from graph_pes.deploy.export import check_locality
from graph_pes.interfaces import nequix
from graph_pes.interfaces.downloads import DownloadError
from graph_pes.interfaces.foreign import UnsupportedModelError
from tests.models.transplant import REFERENCES, TOLERANCES, Frozen, relative_errors

from .original import assert_usable, data_file, structures


def frozen(name: str) -> Frozen:
    """What nequix predicted of a model: see make_nequix.py."""
    everything = dict(np.load(REFERENCES / "nequix.npz"))
    own = {k.removeprefix(f"{name}."): v for k, v in everything.items() if k.startswith(f"{name}.")}
    return {**{k: v for k, v in everything.items() if k.startswith("structure.")}, **own}


def small(name: str, folder: Path, change: Callable[[dict], Any] = lambda config: None) -> Path:
    """The file of a small model, in double precision, with a configuration that is changed."""
    line, arrays = frozen(name)["file"].tobytes().split(b"\n", 1)
    config = json.loads(line)
    change(config)
    (folder / "model.nqx").write_bytes(json.dumps(config).encode() + b"\n" + arrays)
    return folder / "model.nqx"


@pytest.mark.parametrize("name", ["norm", "indexed"])
def test_small_models(name: str, tmp_path: Path) -> None:
    model = nequix(small(name, tmp_path))
    assert model.dtype == torch.float64
    errors = relative_errors(model, frozen(name))
    assert set(errors) == {"energy", "forces", "stress"}
    assert max(errors.values()) < TOLERANCES[torch.float64], errors


def test_published_weights() -> None:
    path = data_file("models/nequix/nequix-mp-1.nqx")
    model = nequix(path)
    assert model.dtype == torch.float32
    errors = relative_errors(model, frozen("nequix-mp-1"))
    assert set(errors) == {"energy", "forces", "stress"}
    assert max(errors.values()) < TOLERANCES[torch.float32], errors
    errors = relative_errors(nequix(path, precision="float64"), frozen("nequix-mp-1"))
    assert max(errors.values()) < 1e-8, errors


def test_trains_and_saves(tmp_path: Path) -> None:
    assert_usable(nequix(small("norm", tmp_path)), structures()["methanol"], tmp_path)


def test_is_for_engines(tmp_path: Path) -> None:
    model = nequix(small("norm", tmp_path))
    check_locality(model)
    graph = to_batch([AtomicGraph.from_ase(structures()["bulk"], 3.5, dtype=torch.float64)])
    expected = model.predict(graph, ["local_energies", "forces"])
    engine, inputs = EngineModel(model), engine_inputs(graph, torch.float64)
    found = dict(zip(engine.outputs, engine(*inputs), strict=True))
    found["forces"] = forces_from(inputs, found["gradients"])
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radial_polynomial_p": 5.0}, "radial_polynomial_p: expected 6, got 5.0"),
        ({"hidden_irreps": "6x0e + 4x1e"}, "hidden_irreps: expected one of each degree, up to 2"),
        ({"hidden_irreps": "3x0e + 4x1o"}, "hidden_irreps: expected no fewer scalars than elem"),
        ({"radial_mlp_size": 6}, "the weights are not those of the configuration"),
        ({"n_layers": 4}, "the weights are not those of the configuration"),
        ({"n_layers": 2}, "the weights are not those of the configuration"),
    ],
)
def test_unsupported(change: dict, message: str, tmp_path: Path) -> None:
    path = small("norm", tmp_path, lambda config: config.update(change))
    with pytest.raises(UnsupportedModelError, match=message):
        nequix(path)


def test_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(UnsupportedModelError, match=r"model.pt is not a file of nequix"):
        nequix(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="model: expected one of .* got 'nequix-9'"):
        nequix("nequix-9")
    monkeypatch.setenv("GRAPH_PES_OFFLINE", "1")
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=r"nequix-mp-1\.nqx"):
        nequix()
