"""Data sets of load-atoms, which is stood in for by a module of the same interface."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import ase.io
import pytest

from graph_pes.data import load_atoms_dataset


@pytest.fixture(autouse=True)
def load_atoms(monkeypatch: pytest.MonkeyPatch, ethanol_folder: Path) -> ModuleType:
    module = ModuleType("load_atoms")

    def load_dataset(id: str) -> list[ase.Atoms]:
        if id != "Ethanol":
            raise ConnectionError("github.com can't be reached")
        return ase.io.read(ethanol_folder / "valid.xyz", index=":")

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "load_atoms", module)
    return module


def frames(dataset, energies: list[float]) -> list[int]:
    return [energies.index(graph.properties["energy"].item()) for graph in dataset]


@pytest.fixture
def energies(ethanol_folder: Path) -> list[float]:
    return [a.get_potential_energy() for a in ase.io.read(ethanol_folder / "valid.xyz", index=":")]


def test_random_split_is_that_of_graph_pes_1(energies: list[float]):
    data = load_atoms_dataset("Ethanol", 3.0, n_train=4, n_valid=3, n_test=2)
    for dataset in (data.train, data.valid, data.test):
        dataset.setup()
    assert frames(data.train, energies) == [27, 18, 26, 5]
    assert frames(data.valid, energies) == [4, 23, 36]
    assert frames(data.test, energies) == [7, 25]


def test_sequential_split(energies: list[float]):
    data = load_atoms_dataset("Ethanol", 3.0, 4, 3, split="sequential", pre_transform=False)
    assert frames(data.train, energies) == [0, 1, 2, 3]
    assert frames(data.valid, energies) == [4, 5, 6]
    assert data.test is None


def test_options_are_passed_on():
    data = load_atoms_dataset(
        "Ethanol",
        3.0,
        n_train=2,
        n_valid=2,
        property_map={"dipole": "dipole"},
        others_to_include=["frame"],
        transform="random_rotation",
    )
    for dataset in (data.train, data.valid):
        graph = dataset[0]
        assert list(graph.properties) == ["dipole"]
        assert list(graph.other) == ["frame"]
        assert not graph.R.equal(dataset.graphs[0].R)


def test_more_than_there_are():
    assert len(load_atoms_dataset("Ethanol", 3.0, 30, 5, 2).test) == 2
    with pytest.raises(ValueError, match=r"37 structures, but n_train \+ n_valid \+ n_test = 38"):
        load_atoms_dataset("Ethanol", 3.0, 30, 5, 3)


@pytest.mark.parametrize("name", ["n_train", "n_valid", "n_test"])
def test_empty_sets(name: str):
    sizes = {"n_train": 3, "n_valid": 3, "n_test": 3, name: 0}
    with pytest.raises(ValueError, match=f"{name} = 0 makes an empty data set"):
        load_atoms_dataset("Ethanol", 3.0, **sizes)


def test_unknown_split():
    with pytest.raises(ValueError, match="split should be 'random' or 'sequential', got 'rand'"):
        load_atoms_dataset("Ethanol", 3.0, 1, 1, split="rand")  # type: ignore[arg-type]


def test_unknown_or_offline():
    message = r"could not load 'QM10': ConnectionError: github.com.*Check the name.*internet"
    with pytest.raises(ValueError, match=message):
        load_atoms_dataset("QM10", 3.0, 1, 1)


def test_bad_structures_are_named(load_atoms: ModuleType):
    structures = load_atoms.load_dataset("Ethanol")
    structures[3].positions[0] = float("nan")
    load_atoms.load_dataset = lambda id: structures
    with pytest.raises(ValueError, match=r"^Ethanol, structure 3: positions must be finite"):
        load_atoms_dataset("Ethanol", 3.0, 30, 7).train.setup()


def test_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "load_atoms", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[load-atoms\]'"):
        load_atoms_dataset("Ethanol", 3.0, 1, 1)
