"""Models of MatterSim, in an environment that has it: ``pip install graph-pes[mattersim]``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.interfaces import mattersim
from graph_pes.interfaces.downloads import DownloadError
from graph_pes.interfaces.mattersim import MATTERSIM, from_mattersim

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
def test_equal() -> None:
    """To a calculator in single precision, that gives molecules a large cell."""
    potential = random_potential()
    model = from_mattersim(potential)
    assert model.dtype == torch.float32
    everything = structures("Si O Na")
    assert_equal_to_original(model, calculator(potential), everything, fully_periodic=True)


@pytest.mark.filterwarnings("ignore")
def test_double_precision() -> None:
    """Forces are derivatives of the energy, which is that in single precision."""
    potential = random_potential()
    model = from_mattersim(potential, precision="float64")
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
def test_without_neighbours() -> None:
    model = from_mattersim(random_potential())
    apart = structures("Si O Na")["molecule"]
    apart.positions *= 20
    graph = AtomicGraph.from_ase(apart, 5.0)
    energies = [
        float(model.predict_energy(AtomicGraph.from_ase(apart[[n]], 5.0))) for n in range(4)
    ]
    assert abs(float(model.predict_energy(graph)) - sum(energies)) < 1e-5
    assert (model.predict_forces(graph) == 0).all()


@pytest.mark.filterwarnings("ignore")
def test_trains_and_saves(tmp_path: Path) -> None:
    assert_usable(from_mattersim(random_potential()), structures("Si O Na")["bulk"], tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert_equal_to_original(mattersim(), calculator(potential), everything, fully_periodic=True)
    assert urls[0].endswith("mattersim-v1.0.0-1M.pth")
    assert_equal_to_original(
        mattersim(tmp_path / "weights.pth"), calculator(potential), everything, fully_periodic=True
    )


def test_unknown_and_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="model: expected one of .* got 'mattersim-9'"):
        mattersim("mattersim-9")
    monkeypatch.setitem(__import__("sys").modules, "mattersim", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[mattersim\]'"):
        mattersim()
    monkeypatch.undo()
    package("forcefield")
    monkeypatch.setenv("GRAPH_PES_OFFLINE", "1")
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=r"mattersim-v1.0.0-1M\.pth"):
        mattersim()
