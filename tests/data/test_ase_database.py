"""ASE databases as sequences of structures."""

from __future__ import annotations

import multiprocessing
import pickle
import sqlite3
import sys
from pathlib import Path

import ase
import ase.db
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from graph_pes.data import ASEDatabase, GraphDataLoader, file_dataset

pytest.importorskip("ase_db_backends", reason="needs graph-pes[aselmdb]")
SUFFIXES = ["db", "json", "aselmdb"]


def labelled(k: int) -> tuple[ase.Atoms, dict, dict]:
    atoms = molecule("H2O") if k % 2 else bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.1, seed=k)
    N = len(atoms)
    data = {
        "forces": np.arange(3.0 * N).reshape(N, 3) + k,
        "stress": np.arange(9.0).reshape(3, 3),
        "spectrum": np.arange(7.0),
        "origin": "relaxation",
        "energy": -1.5 * k,
    }
    return atoms, data, {"band_gap": 0.5 * k, "config_type": "hot"}


@pytest.fixture
def write(tmp_path: Path):
    def write(suffix: str, n: int = 5) -> Path:
        path = tmp_path / f"rows.{suffix}"
        with ase.db.connect(path) as database:
            for k in range(n):
                atoms, data, pairs = labelled(k)
                database.write(atoms, data=data, key_value_pairs=pairs)
        return path

    return write


def matches(atoms: ase.Atoms, k: int) -> bool:
    expected, data, pairs = labelled(k)
    np.testing.assert_array_equal(atoms.numbers, expected.numbers)
    np.testing.assert_array_equal(atoms.positions, expected.positions)
    np.testing.assert_array_equal(atoms.cell.array, expected.cell.array)
    np.testing.assert_array_equal(atoms.pbc, expected.pbc)
    np.testing.assert_array_equal(atoms.arrays["forces"], data["forces"])
    for key in ("stress", "spectrum"):
        values = atoms.arrays if len(data[key]) == len(atoms) else atoms.info
        np.testing.assert_array_equal(values[key], data[key])
    assert atoms.info["energy"] == data["energy"]
    assert atoms.info["band_gap"] == pairs["band_gap"]
    assert atoms.info["config_type"] == "hot"
    assert atoms.info["origin"] == "relaxation"
    return True


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(write, suffix: str):
    database = ASEDatabase(write(suffix))
    assert len(database) == 5
    assert all(matches(atoms, k) for k, atoms in enumerate(database))
    assert matches(database[-1], 4)
    assert [matches(a, k) for a, k in zip(database[1:4:2], (1, 3), strict=True)] == [True] * 2
    with pytest.raises(IndexError):
        database[5]
    assert repr(database).endswith(f"rows.{suffix}', structures=5)")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_of_calculators(tmp_path: Path, suffix: str):
    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=[[1, 2, 3]], stress=np.ones(6))
    with ase.db.connect(tmp_path / f"cu.{suffix}") as database:
        database.write(atoms)
    (result,) = ASEDatabase(tmp_path / f"cu.{suffix}")
    assert result.get_potential_energy() == -3.0
    np.testing.assert_array_equal(result.get_forces(), [[1, 2, 3]])
    graph = file_dataset(tmp_path / f"cu.{suffix}", 3.0)[0]
    assert sorted(graph.properties) == ["energy", "forces", "stress"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_reach_graphs(write, suffix: str):
    dataset = file_dataset(write(suffix), 3.0, shuffle=False)
    dataset.setup()
    assert dataset.properties == ["forces", "energy", "stress"]
    for k, graph in enumerate(dataset):
        _, data, _ = labelled(k)
        np.testing.assert_allclose(graph.properties["forces"], data["forces"])
        np.testing.assert_allclose(graph.properties["stress"], data["stress"])
        assert graph.properties["energy"].item() == data["energy"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_deleted_rows_leave_no_gap(write, suffix: str):
    path = write(suffix)
    with ase.db.connect(path) as connection:
        connection.delete([1, 3])
    del connection
    assert [matches(a, k) for a, k in zip(ASEDatabase(path), (1, 3, 4), strict=True)] == [True] * 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pickle(write, suffix: str):
    database = ASEDatabase(write(suffix))
    copy = pickle.loads(pickle.dumps(database))
    assert matches(copy[2], 2)
    assert matches(database[3], 3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_file_twice(write, suffix: str):
    path = write(suffix)
    train = file_dataset(path, 3.0, n=2, seed=1, pre_transform=False)
    valid = file_dataset(path, 3.0, n=2, seed=2, pre_transform=False)
    assert train[0].Z.numel() > 0
    assert valid[0].Z.numel() > 0
    assert train[1].Z.numel() > 0


@pytest.mark.parametrize(
    ("suffix", "method"), [*((suffix, "fork") for suffix in SUFFIXES), ("aselmdb", "spawn")]
)
def test_several_workers(write, suffix: str, method: str):
    path = write(suffix, n=8)
    train = file_dataset(path, 3.0, shuffle=False, pre_transform=False)
    valid = file_dataset(path, 3.0, shuffle=False, pre_transform=False)
    expected = [labelled(k)[1]["energy"] for k in range(8)]
    context = multiprocessing.get_context(method)
    assert train[0].properties["energy"] == expected[0]  # open in this process, too
    for dataset in (train, valid) if method == "fork" else (train,):
        loader = GraphDataLoader(
            dataset, batch_size=2, num_workers=2, multiprocessing_context=context
        )
        energies = [e for batch in loader for e in batch.properties["energy"].tolist()]
        assert energies == expected
    assert train[7].properties["energy"] == expected[7]


def test_rows_are_read_on_access(write, monkeypatch: pytest.MonkeyPatch):
    database = ASEDatabase(write("db"))
    read = []
    original = database._read_row
    monkeypatch.setattr(database, "_read_row", lambda id: read.append(id) or original(id))
    assert matches(database[3], 3)
    assert read == [4]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reading_changes_nothing(write, suffix: str):
    path = write(suffix)
    before = path.read_bytes(), sorted(path.parent.iterdir())
    assert len(list(ASEDatabase(path))) == 5
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == before


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated(write, suffix: str, fraction: float):
    path = write(suffix, n=60)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ValueError, match=f"rows.{suffix}.*(can't be read|structure 59)"):
        file_dataset(path, 3.0, shuffle=False).setup()


def test_other_sqlite_files_are_left_alone(tmp_path: Path):
    path = tmp_path / "cookies.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE cookies (name TEXT)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"cookies.db can't be read.*no such table: systems"):
        ASEDatabase(path)
    assert path.read_bytes() == before


def test_other_suffixes(tmp_path: Path):
    path = tmp_path / "rows.sqlite"
    path.write_text("x")
    with pytest.raises(ValueError, match=r"to end in one of \['.db', '.json', '.aselmdb'\]"):
        ASEDatabase(path)


def test_missing_backend(write, monkeypatch: pytest.MonkeyPatch):
    path = write("aselmdb")
    monkeypatch.setitem(sys.modules, "ase_db_backends.aselmdb", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[aselmdb\]'"):
        file_dataset(path, 3.0)
