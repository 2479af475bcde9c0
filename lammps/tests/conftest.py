"""The plugin, and compiled models: made once, and kept in pytest's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import ase
import pytest
import torch
from lammps_models import make_model, quickly_compiled
from lammps_runs import STRUCTURES, Results, expected_results, write_data

from graph_pes.models import GraphPESModel
from graph_pes_lammps.building import build

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are marked."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("lammps")


@pytest.fixture(scope="session", autouse=True)
def _cache(pytestconfig: pytest.Config) -> Iterator[None]:
    """Of plugins and models, shared by the processes that run tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = pytestconfig.cache.mkdir("graph-pes")
        patch.setenv("GRAPH_PES_CACHE", str(folder))
        build()
        yield


@pytest.fixture(scope="session")
def compiled() -> Callable[[str], tuple[GraphPESModel, Path]]:
    """A model of `lammps_models`, and the file it is exported to."""

    def make(name: str) -> tuple[GraphPESModel, Path]:
        model = make_model(name)
        return model, quickly_compiled(model)

    return make


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the data files of all structures."""
    for name, make in STRUCTURES.items():
        write_data(tmp_path / f"{name}.data", make())
    return tmp_path


@pytest.fixture(scope="session")
def expected() -> Callable[[GraphPESModel, ase.Atoms | str], Results]:
    """What ASE gives for a structure, or for one of these by its name."""

    def evaluate(model: GraphPESModel, atoms: ase.Atoms | str) -> Results:
        return expected_results(model, STRUCTURES[atoms]() if isinstance(atoms, str) else atoms)

    return evaluate
