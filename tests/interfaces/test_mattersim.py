"""Models of MatterSim, in an environment that has it: ``pip install graph-pes[mattersim]``."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.interfaces import mattersim
from graph_pes.interfaces.downloads import DownloadError
from graph_pes.interfaces.foreign import UnsupportedModelError
from graph_pes.interfaces.mattersim import MATTERSIM, from_mattersim
from tests.models.test_m3gnet import state_of_mattersim
from tests.models.transplant import REFERENCES, assert_agrees

from .original import assert_equal_to_original, assert_usable, structures

SIZES = {"num_blocks": 2, "units": 8, "cutoff": 5.0, "threebody_cutoff": 4.0}


def package(name: str) -> Any:
    try:
        return MATTERSIM.load(name)
    except ImportError as error:
        pytest.skip(f"mattersim is not installed, or does not load: {error.__cause__}")


def random_potential(**sizes: Any) -> Any:
    """A small network of the published architecture, with random weights."""
    forcefield = package("forcefield")
    torch.manual_seed(0)
    network = package("forcefield.m3gnet.m3gnet").M3Gnet(device="cpu", **{**SIZES, **sizes})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5).add_(0.1 * torch.randn_like(parameter))
        network.normalizer.scale.uniform_(0.5, 1.5)
        network.normalizer.shift.uniform_(-8, -1)
    return forcefield.Potential(network.eval(), device="cpu")


def calculator(potential: Any) -> Any:
    return package("forcefield.potential").MatterSimCalculator(potential, device="cpu")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_equal(native: bool) -> None:
    """To a calculator in single precision, that gives molecules a large cell."""
    potential = random_potential()
    model = from_mattersim(potential, native=native)
    assert model.dtype == torch.float32
    everything = structures("Si O Na")
    assert_equal_to_original(model, calculator(potential), everything, fully_periodic=True)


@pytest.mark.filterwarnings("ignore")
def test_native_equals_the_network_in_double_precision() -> None:
    """But for its constants, of which it has seven digits."""
    potential = random_potential()
    models = [from_mattersim(potential, "float64", native=native) for native in (False, True)]
    keys = ["energy", "forces", "stress"]
    for atoms in structures("Si O Na").values():
        graph = AtomicGraph.from_ase(atoms, 5.0, dtype=torch.float64)
        expected, found = (
            model.predict(graph, keys if atoms.pbc.all() else keys[:2]) for model in models
        )
        for key, value in expected.items():
            assert (found[key] - value).abs().max() < 1e-6 * value.abs().max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_double_precision(native: bool) -> None:
    """Forces are derivatives of the energy, which is that in single precision."""
    potential = random_potential()
    model = from_mattersim(potential, precision="float64", native=native)
    atoms = structures("Si O Na")["bulk"]
    graph = AtomicGraph.from_ase(atoms, 5.0, dtype=torch.float64)
    single = from_mattersim(potential)
    expected = single.predict_energy(AtomicGraph.from_ase(atoms, 5.0))
    torch.testing.assert_close(model.predict_energy(graph), expected, rtol=1e-6, atol=0)
    h, energies = 1e-4, []
    for step in (h, -h):
        moved = atoms.copy()
        moved.positions[1, 0] += step
        moved_graph = AtomicGraph.from_ase(moved, 5.0, dtype=torch.float64)
        energies.append(float(model.predict_energy(moved_graph)))
    slope = (energies[1] - energies[0]) / (2 * h)
    assert abs(float(model.predict_forces(graph)[1, 0]) - slope) < 1e-6 * max(1, abs(slope))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_without_neighbours(native: bool) -> None:
    model = from_mattersim(random_potential(), native=native)
    apart = structures("Si O Na")["molecule"]
    apart.positions *= 20
    graph = AtomicGraph.from_ase(apart, 5.0)
    energies = [
        float(model.predict_energy(AtomicGraph.from_ase(apart[[n]], 5.0))) for n in range(4)
    ]
    assert abs(float(model.predict_energy(graph)) - sum(energies)) < 1e-5
    assert (model.predict_forces(graph) == 0).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_trains_and_saves(native: bool, tmp_path: Path) -> None:
    model = from_mattersim(random_potential(), native=native)
    assert_usable(model, structures("Si O Na")["bulk"], tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_file_of_weights(native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published sizes, with random weights, in the format of the published files."""
    potential = random_potential(num_blocks=3, units=128)
    potential.save(str(tmp_path / "weights.pth"))
    urls = []

    def downloaded(url: str) -> Path:
        urls.append(url)
        return tmp_path / "weights.pth"

    module = import_module("graph_pes.interfaces.mattersim")
    monkeypatch.setattr(module, "downloaded", downloaded)
    everything = {"molecule": structures("Si O Na")["molecule"]}
    calc = calculator(potential)
    model = mattersim(native=native)
    assert urls[0].endswith("mattersim-v1.0.0-1M.pth")
    assert_equal_to_original(model, calc, everything, fully_periodic=True)
    model = mattersim(tmp_path / "weights.pth", native=native)
    assert_equal_to_original(model, calc, everything, fully_periodic=True)


# --- without the package --------------------------------------------------------------------


@pytest.fixture
def contents() -> dict[str, Any]:
    """Those of a file, of whose network predictions are known."""
    frozen = dict(np.load(REFERENCES / "mattersim.npz"))
    settings, state = json.loads(str(frozen["settings"])), state_of_mattersim(frozen)
    return {"model_name": "m3gnet", "model_args": settings, "model": state}


def test_native_needs_no_package(
    contents: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mattersim", None)
    frozen = dict(np.load(REFERENCES / "mattersim.npz"))
    # Files hold more, which a network is not made of.
    torch.save({**contents, "last_epoch": 3, "optimizer": {"state": {}}}, tmp_path / "file.pth")
    for precision, dtype in ((None, torch.float64), ("float32", torch.float32)):
        model = mattersim(tmp_path / "file.pth", precision=precision, native=True)
        assert model.dtype == dtype
        assert_agrees(model, frozen, {"energy", "forces", "stress"})
        assert_usable(model, molecule("CH3OH"), tmp_path)


def test_elements_that_the_network_does_not_know(contents: dict[str, Any], tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "file.pth")
    model = mattersim(tmp_path / "file.pth", native=True)
    with pytest.raises(ValueError, match="the structure contains Fe, but the model was made for"):
        model.predict_energy(AtomicGraph.from_ase(ase.Atoms("Fe"), 3.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_n": 3}, "no max_n=3 beside max_l=4"),
        ({"threebody_cutoff": 6.0}, "no threebody_cutoff=6.0 beyond the cutoff=3.5"),
        ({"num_blocks": 1}, r"our M3GNet lacks \['graph_conv.1"),
        ({"num_blocks": 3}, "which have graph_conv.2.three_body.atom_mlp.linear.weight"),
        ({"units": 7}, r"atom_embedding.*: expected shape \(7, 15\), got \(6, 15\)"),
    ],
)
def test_other_networks(
    contents: dict[str, Any], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    contents["model_args"].update(change)
    torch.save(contents, tmp_path / "file.pth")
    with pytest.raises(UnsupportedModelError, match=message):
        mattersim(tmp_path / "file.pth", native=True)


def test_files_of_something_else(contents: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({**contents, "model_name": "graphormer"}, path)
    with pytest.raises(UnsupportedModelError, match="expected an m3gnet .* got 'graphormer'"):
        mattersim(path, native=True)
    for other in (contents["model"], torch.zeros(3)):
        torch.save(other, path)
        with pytest.raises(UnsupportedModelError, match=r"file.pth: expected a file of MatterSim"):
            mattersim(path, native=True)
    del contents["model_args"]["units"]
    torch.save(contents, path)
    with pytest.raises(
        UnsupportedModelError, match=r"settings of MatterSim, which have \['units'\]"
    ):
        mattersim(path, native=True)


def test_unknown_and_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="model: expected one of .* got 'mattersim-9'"):
        mattersim("mattersim-9")
    monkeypatch.setitem(sys.modules, "mattersim", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[mattersim\]'"):
        mattersim()
    monkeypatch.setenv("GRAPH_PES_OFFLINE", "1")
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=r"mattersim-v1.0.0-1M\.pth"):
        mattersim(native=True)
    monkeypatch.delitem(sys.modules, "mattersim")
    package("forcefield")
    with pytest.raises(DownloadError, match=r"mattersim-v1.0.0-1M\.pth"):
        mattersim()
