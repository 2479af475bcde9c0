"""Data sets from files."""

from __future__ import annotations

import gzip
from pathlib import Path

import ase
import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from graph_pes.data import GraphDataLoader, file_dataset

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip("needs ../shared/data")
    return SHARED / name


def numbered(n: int, periodic: bool = False) -> list[ase.Atoms]:
    """Structures whose energy is their index."""
    structures = []
    for k in range(n):
        atoms = bulk("Cu") if periodic else molecule("CH4")
        atoms.info["energy"] = float(k)
        atoms.arrays["forces"] = np.full((len(atoms), 3), k / 10)
        structures.append(atoms)
    return structures


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "methane.xyz", numbered(10))


def write(path: Path, structures: list[ase.Atoms]) -> Path:
    ase.io.write(path, structures)
    return path


def order(dataset) -> list[int]:
    return [int(graph.properties["energy"]) for graph in dataset]


# --- what is read ------------------------------------------------------------------------


def test_ethanol(ethanol_folder: Path):
    path = ethanol_folder / "valid.xyz"
    dataset = file_dataset(path, cutoff=4.0, shuffle=False)
    dataset.setup()
    frames = ase.io.read(path, index=":")
    assert len(dataset) == len(frames) == 37
    assert dataset.properties == ["forces", "energy"]
    for graph, atoms in zip(dataset, frames, strict=True):
        assert graph.cutoff == 4.0
        assert graph.properties["energy"].item() == atoms.get_potential_energy()
        assert graph.properties["energy"].dtype == torch.float64
        np.testing.assert_allclose(graph.properties["forces"], atoms.get_forces(), rtol=1e-6)
        assert graph.Z.tolist() == atoms.numbers.tolist()


def test_more_labels_and_other_values(ethanol_folder: Path):
    dataset = file_dataset(
        str(ethanol_folder / "valid.xyz"),
        cutoff=3.0,
        n=2,
        property_map={"energy": "energy", "dipole": "dipole", "charges": "charges"},
        others_to_include=["frame"],
    )
    assert set(dataset.properties) == {"energy", "dipole", "charges"}
    assert dataset[0].properties["dipole"].shape == (3,)
    assert dataset[0].properties["charges"].shape == (9,)
    assert dataset[0].other["frame"].shape == ()


def test_ref_labels(tmp_path: Path):
    structures = numbered(3)
    for atoms in structures:
        atoms.info["REF_energy"] = atoms.info.pop("energy") + 5
        atoms.arrays["REF_forces"] = atoms.arrays.pop("forces") * 2
    path = write(tmp_path / "ref.xyz", structures)
    mapping = {"REF_energy": "energy", "REF_forces": "forces"}
    dataset = file_dataset(path, 3.0, shuffle=False, property_map=mapping)
    dataset.setup()
    assert order(dataset) == [5, 6, 7]
    torch.testing.assert_close(dataset[2].properties["forces"], torch.full((5, 3), 0.4))
    assert file_dataset(path, 3.0).properties == []


def test_stress_of_crystals_in_voigt_order(tmp_path: Path):
    atoms = bulk("Cu")
    atoms.info["stress"] = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) / 100
    graph = file_dataset(write(tmp_path / "cu.xyz", [atoms]), 3.0)[0]
    expected = torch.tensor([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]) / 100
    torch.testing.assert_close(graph.properties["stress"], expected)


@pytest.mark.parametrize("with_cell", [True, False])
def test_stress_of_a_molecule_is_read(tmp_path: Path, with_cell: bool):
    atoms = molecule("CH4")
    atoms.info |= {"virial": np.eye(3), "stress": np.eye(3)}
    if with_cell:
        atoms.cell = np.ones((3, 3))  # no volume, but not periodic either
    dataset = file_dataset(write(tmp_path / "methane.xyz", [atoms]), 3.0)
    dataset.setup()
    assert dataset.properties == ["stress", "virial"]


@pytest.mark.parametrize("name", ["x.extxyz", "x.xyz.gz", "x.traj", "x.db", "x.json", "x.aselmdb"])
def test_formats(tmp_path: Path, name: str):
    if name.endswith("aselmdb"):
        pytest.importorskip("ase_db_backends")
    structures = numbered(4, periodic=True)
    for atoms in structures:
        atoms.calc = ase.calculators.singlepoint.SinglePointCalculator(
            atoms, energy=atoms.info.pop("energy"), forces=atoms.arrays.pop("forces")
        )
    path = tmp_path / name
    if name.split(".")[1] in ("db", "json", "aselmdb"):
        with ase.db.connect(path) as database:
            for atoms in structures:
                database.write(atoms)
    else:
        ase.io.write(path, structures)
    dataset = file_dataset(path, cutoff=3.0, n=3, shuffle=False)
    dataset.setup()
    assert order(dataset) == [0, 1, 2]
    torch.testing.assert_close(dataset[2].properties["forces"], torch.full((1, 3), 0.2))
    torch.testing.assert_close(dataset[0].cell.numpy(), bulk("Cu").cell.array.astype("float32"))
    assert dataset[0].neighbour_list.shape[1] == 12


def test_at_sign_in_a_name(tmp_path: Path):
    path = write(tmp_path / "pbe@def2.xyz", numbered(2))
    assert len(file_dataset(path, 3.0)) == 2


def test_silicon_with_stress():
    dataset = file_dataset(shared("mlearn_Si/training.xyz.gz"), 4.0, n=12)
    dataset.setup()
    assert dataset.properties == ["forces", "energy", "stress"]
    for graph in dataset:
        assert graph.pbc is not None
        assert bool(graph.pbc.all())
        assert len(torch.unique(graph.neighbour_list[0])) == len(graph.Z)


def test_many_elements():
    dataset = file_dataset(
        shared("mptrj_random_1k/mptrj-random-1k.xyz.gz"), 3.5, n=20, shuffle=False
    )
    dataset.setup()
    batch = next(iter(GraphDataLoader(dataset, batch_size=20)))
    assert batch.properties["stress"].shape == (20, 3, 3)
    assert len(torch.unique(batch.Z)) > 10


def test_energies_of_a_set_without_forces():
    dataset = file_dataset(shared("acac/test_dihedral.xyz"), 4.0)
    dataset.setup()
    assert "energy" in dataset.properties
    assert len(dataset) == 45


# --- which structures are chosen ---------------------------------------------------------


def test_subsets_are_those_of_graph_pes_1(ethanol_folder: Path):
    path = ethanol_folder / "valid.xyz"
    energies = [a.get_potential_energy() for a in ase.io.read(path, index=":")]

    def chosen(**options) -> list[int]:
        graphs = file_dataset(path, 3.0, n=8, pre_transform=False, **options)
        return [energies.index(g.properties["energy"].item()) for g in graphs]

    # what graph-pes 1.0.2 chooses from a file of 37 structures
    assert chosen(seed=7) == [0, 28, 9, 4, 18, 29, 10, 24]
    assert chosen() == [27, 18, 26, 5, 4, 23, 36, 7]


def test_shuffling(path: Path):
    assert order(file_dataset(path, 3.0, shuffle=False)) == list(range(10))
    assert order(file_dataset(path, 3.0, n=4, shuffle=False)) == [0, 1, 2, 3]
    shuffled = order(file_dataset(path, 3.0, seed=1))
    assert sorted(shuffled) == list(range(10)) != shuffled
    assert order(file_dataset(path, 3.0, n=4, seed=1)) == shuffled[:4]
    assert order(file_dataset(path, 3.0, seed=2)) != shuffled


def test_all_of_the_file_may_be_asked_for(path: Path):
    assert len(file_dataset(path, 3.0, n=10)) == 10


@pytest.mark.parametrize("shuffle", [True, False])
def test_more_than_there_are(path: Path, shuffle: bool):
    with pytest.raises(ValueError, match=r"methane.xyz holds 10 structures, but n = 11"):
        file_dataset(path, 3.0, n=11, shuffle=shuffle)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("n", [0, -3])
def test_none_of_them(path: Path, n: int, shuffle: bool):
    with pytest.raises(ValueError, match=f"n = {n} makes an empty data set"):
        file_dataset(path, 3.0, n=n, shuffle=shuffle)


@pytest.mark.parametrize("n", [1.5, 3.0, True, "all"])
def test_numbers_that_are_none(path: Path, n: object):
    with pytest.raises(ValueError, match="n should be a whole number of structures"):
        file_dataset(path, 3.0, n=n)  # type: ignore[arg-type]


# --- files that can't be read ------------------------------------------------------------


def test_missing_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nothing.xyz: there is no such file"):
        file_dataset(tmp_path / "nothing.xyz", 3.0)


@pytest.mark.parametrize("name", ["x.xyz", "x.db", "x.json", "x.aselmdb", "x.xyz.gz"])
def test_empty_file(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"{name} is empty"):
        file_dataset(tmp_path / name, 3.0)
    assert (tmp_path / name).stat().st_size == 0


def test_file_without_structures(tmp_path: Path):
    with ase.db.connect(tmp_path / "x.db") as database:
        database.metadata = {"units": "eV"}
    with pytest.raises(ValueError, match=r"x.db is empty: it holds no structures"):
        file_dataset(tmp_path / "x.db", 3.0)


def test_truncated_xyz(path: Path):
    text = path.read_text()
    path.write_text(text[: len(text) - 120])
    with pytest.raises(ValueError, match=r"methane.xyz can't be read.*truncated.*XYZError") as info:
        file_dataset(path, 3.0)
    assert "expected 5" in str(info.value)  # what ASE said


def test_truncated_gz(tmp_path: Path, path: Path):
    compressed = gzip.compress(path.read_bytes())
    truncated = tmp_path / "cut.xyz.gz"
    truncated.write_bytes(compressed[: len(compressed) // 2])
    with pytest.raises(ValueError, match=r"cut.xyz.gz can't be read.*truncated.*EOFError"):
        file_dataset(truncated, 3.0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.xyz", b"not a structure\n"),
        ("x.xyz", b"\xff\xfe\x00\x01" * 10),
        ("x.xyz.gz", b"not compressed"),
        ("x.unheard-of", b"nothing that ASE knows"),
        ("x.json", b'{"a": 1}'),
        ("x.json", b'{"1": {"numbers": [1'),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} can't be read, it may be truncated"):
        file_dataset(tmp_path / name, 3.0)


# --- rows that are not as they should be -------------------------------------------------


@pytest.mark.parametrize("pre_transform", [True, False])
def test_bad_row_is_named_by_its_index_in_the_file(tmp_path: Path, pre_transform: bool):
    structures = numbered(10)
    structures[7].info["energy"] = np.nan
    path = write(tmp_path / "methane.xyz", structures)
    for seed in (0, 1):
        dataset = file_dataset(path, 3.0, seed=seed, pre_transform=pre_transform)
        message = r"methane.xyz, structure 7: the label 'energy' \(energy\) holds a value that"
        with pytest.raises(ValueError, match=message):
            order(dataset) if not pre_transform else dataset.setup()


def test_row_without_a_label_that_is_asked_for(tmp_path: Path):
    structures = numbered(5)
    del structures[3].arrays["forces"]
    path = write(tmp_path / "methane.xyz", structures)
    dataset = file_dataset(path, 3.0, property_map={"forces": "forces"})
    with pytest.raises(ValueError, match=r"methane.xyz, structure 3: Unable to find.*'forces'"):
        dataset.setup()
    anything = file_dataset(path, 3.0, shuffle=False)
    anything.setup()
    assert [("forces" in g.properties) for g in anything] == [True, True, True, False, True]


def test_crystal_without_volume(tmp_path: Path):
    structures = numbered(3, periodic=True)
    structures[1].cell[1] = structures[1].cell[0]
    path = write(tmp_path / "cu.xyz", structures)
    with pytest.raises(ValueError, match=r"cu.xyz, structure 1: .*zero volume"):
        file_dataset(path, 3.0).setup()
