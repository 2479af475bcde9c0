"""Models in i-PI, and what ``graph-pes-ipi`` writes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any
from unittest import mock

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ipi.engine.simulation import Simulation
from ipi.utils.softexit import softexit
from ipi.utils.units import unit_to_internal, unit_to_user

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.cli.ipi import main, starting_structure
from graph_pes.drivers import ipi as module
from graph_pes.drivers.ipi import IPIPotential
from graph_pes.models import Committee, LennardJones, PaiNN, load_model, save_model
from graph_pes.testing.structures import StructureKind, random_structure
from tests.conformance.models import MODELS, Row

BEADS = 16
REPOSITORY = Path(__file__).parents[2]
BLOCK = re.compile(r"^```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)^```$", re.M | re.S)

pytestmark = pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning")


def sent(atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    """What i-PI sends: lattice vectors as columns, and positions, in Bohr."""
    cell = unit_to_internal("length", "angstrom", atoms.cell.array.T)
    return cell, unit_to_internal("length", "angstrom", atoms.positions)


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.name)
def test_equals_the_ase_calculator(row: Row, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = row.factory().double()
    kind = StructureKind(6, (True, True, True), row.elements, 0.9, 15.0, skew=0.5)
    first = starting_structure(random_structure(kind, 0))
    beads = [first.copy() for _ in range(3)]
    for n, atoms in enumerate(beads):
        atoms.rattle(0.02, seed=n)
        atoms.set_cell(atoms.cell * (1 + 0.01 * n), scale_atoms=True)
        atoms.calc = model.ase_calculator(skin=0.0)
    first.write(tmp_path / "init.xyz")
    save_model(model, tmp_path / "model.pt")
    potential = IPIPotential(str(tmp_path / "init.xyz"), str(tmp_path / "model.pt"))
    cells, positions = zip(*map(sent, beads), strict=True)
    for atoms, result in zip(beads, potential(list(cells), list(positions)), strict=True):
        energy = unit_to_user("energy", "electronvolt", result[0])
        forces = unit_to_user("force", "ev/ang", result[1])
        stress = -unit_to_user("energy", "electronvolt", result[2]) / atoms.get_volume()
        # 1e-9: the units of length and energy of i-PI and ASE are not of the same year
        np.testing.assert_allclose(energy, atoms.get_potential_energy(), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(forces, atoms.get_forces(), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), rtol=1e-6, atol=1e-6)
    alone = potential(*sent(beads[0]))
    np.testing.assert_allclose(alone[0], potential(list(cells), list(positions))[0][0], rtol=1e-12)


@pytest.fixture
def argon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and a structure."""
    monkeypatch.chdir(tmp_path)
    model = LennardJones.from_ase(epsilon=0.0104, sigma=3.4, rc=6.0, ro=4.5, smooth=True)
    save_model(model, "argon.pt")
    bulk("Ar", cubic=True).write("argon.xyz")
    return tmp_path


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that are evaluated."""
    sizes: list[int] = []
    original = IPIPotential.compute_structures

    def counted(self: IPIPotential, cells: Any, positions: Any) -> Any:
        sizes.append(len(cells))
        return original(self, cells, positions)

    monkeypatch.setattr(IPIPotential, "compute_structures", counted)
    return sizes


def written(*arguments: str | int) -> Path:
    main(["argon.pt", "argon.xyz", *map(str, arguments)])
    return Path(str(arguments[-1]) if "--out" in arguments else "ipi")


def run(folder: Path, file: str = "input.xml") -> None:
    """As ``i-pi FILE``, in this process."""
    opened = []
    original = open

    def recorded(*arguments: Any, **options: Any) -> Any:
        opened.append(original(*arguments, **options))
        return opened[-1]

    with contextlib.chdir(folder), mock.patch("builtins.open", recorded):
        simulation = Simulation.load_from_xml(Path(file).read_text())
        simulation.run()
        softexit.cleanup("success", "done")  # writes RESTART
        softexit.reset()
    for stream in opened:  # i-PI leaves them open
        stream.close()


def outputs(folder: Path, file: str = "run.out") -> np.ndarray:
    return np.loadtxt(folder / file)


def test_path_integrals_in_one_batch(argon: Path, batches: list[int]) -> None:
    folder = written("--beads", BEADS, "--temperature", 40, "--timestep", 1, "--steps", 20)
    run(folder)
    assert set(batches) == {BEADS}
    assert 20 <= len(batches) <= 22
    step, _, conserved, _, kinetic, _ = outputs(folder).T
    assert step.tolist() == [0, 10, 20]
    assert np.ptp(conserved) < 1e-4
    assert (kinetic > 0).all()
    centroid = ase.io.read(folder / "run.centroid.xyz", index=":")
    assert len(centroid) == 3
    assert centroid[0].get_distance(0, 1) == pytest.approx(5.26 / 2**0.5, rel=1e-5)


def test_uncertainties_of_committees_are_extras(tmp_path: Path) -> None:
    model = Committee([LennardJones(6.0, 0.0104, 3.4), LennardJones(6.0, 0.0110, 3.3)])
    save_model(model, tmp_path / "model.pt")
    first = bulk("Ar", cubic=True)
    first.write(tmp_path / "init.xyz")
    potential = IPIPotential(str(tmp_path / "init.xyz"), str(tmp_path / "model.pt"))
    beads = [first.copy() for _ in range(3)]
    for n, atoms in enumerate(beads):
        atoms.rattle(0.05, seed=n)
    cells, positions = zip(*map(sent, beads), strict=True)
    keys = ["energy_uncertainty", "forces_uncertainty"]
    expected = model.ase_calculator().calculate_all(beads, keys)
    for result, wanted in zip(potential(list(cells), list(positions)), expected, strict=True):
        extras = json.loads(result[3])
        for key in keys:
            np.testing.assert_allclose(np.squeeze(extras[key]), wanted[key], rtol=1e-6)


def test_restart_is_the_uninterrupted_run(argon: Path) -> None:
    long = written("--beads", 2, "--temperature", 40, "--steps", 12, "--stride", 4)
    run(long)
    short = written(
        "--beads", 2, "--temperature", 40, "--steps", 8, "--stride", 4, "--out", "short"
    )
    run(short)
    assert len(outputs(short)) == 3
    restart = (short / "RESTART").read_text()
    restart, n = re.subn(r"(<total_steps>\s*)8", r"\g<1>12", restart)
    assert n == 1
    (short / "RESTART").write_text(restart)
    run(short, "RESTART")
    np.testing.assert_allclose(outputs(short)[-1], outputs(long)[-1], rtol=1e-7)


def test_replicas_are_exchanged_and_evaluated_together(argon: Path, batches: list[int]) -> None:
    temperatures = (40, 42, 44)
    folder = written(
        "--beads", 2, "--temperature", *temperatures, "--steps", 20, "--exchange", 2, "--stride", 5
    )
    run(folder)
    for n in range(3):
        assert len(outputs(folder, f"replica-{n}_run.out")) == 5
    swaps = outputs(folder, "run.remd_idx")
    assert len(swaps) > 0
    assert {tuple(sorted(row[1:])) for row in swaps} == {(0, 1, 2)}
    # Now and then a thread is late.
    assert batches.count(6) > len(batches) / 2


def test_what_the_page_says(argon: Path) -> None:
    """Its commands run; beads in a client are those in i-PI itself."""
    page = (REPOSITORY / "docs" / "ipi.md").read_text()
    socket = f"argon-{uuid.uuid4().hex[:8]}"
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    blocks = BLOCK.findall(page)
    names = [name for name, _ in blocks]
    assert names == ["argon.py", *["commands"] * 2, "plumed.dat", *["commands"] * 2]
    exec(blocks[0][1], {})
    for name, text in blocks[1:]:
        if name != "commands":
            Path(name).write_text(text)
            continue
        text = re.sub(r"(--socket |-a |ipi_)argon", rf"\g<1>{socket}", text)
        # graph-pes-ipi as it is here, whatever is installed
        text = text.replace("graph-pes-ipi", "python -m graph_pes.cli.ipi")
        done = subprocess.run(
            ["bash", "-e"], input=text, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(np.loadtxt(argon / "biased" / "HILLS")) == 2
    energies = outputs(argon / "quantum")
    assert energies[:, 0].tolist() == [0, 10, 20, 30, 40]
    assert np.ptp(energies[:, 2]) < 1e-3
    arguments = ("--beads", BEADS, "--temperature", 40, "--steps", 10, "--out", "direct")
    run(written(*arguments))
    np.testing.assert_allclose(outputs(argon / "clients"), outputs(argon / "direct"), rtol=1e-6)


def test_metadynamics_on_centroids(argon: Path) -> None:
    """The bias that i-PI has is PLUMED's, it conserves energy, and goes on after a restart."""
    Path("plumed.dat").write_text(
        "UNITS LENGTH=A ENERGY=eV\n"
        "d: DISTANCE ATOMS=1,2 NOPBC\n"
        "RESTRAINT ARG=d AT=3.5 KAPPA=0.5\n"
        "METAD ARG=d SIGMA=0.1 HEIGHT=0.001 PACE=10 FILE=HILLS\n"
    )
    options = ["--beads", 4, "--temperature", 40, "--timestep", 1, "--plumed", "plumed.dat"]
    folder = written(*options, "--steps", 15, "--stride", 1)
    text = (folder / "input.xml").read_text()
    wanted = text.replace("potential{", "ensemble_bias{electronvolt}, potential{")
    (folder / "input.xml").write_text(wanted)
    run(folder)
    *_, bias, _ = outputs(folder).T
    centroids = ase.io.read(folder / "run.centroid.xyz", index=":")
    d = np.array([atoms.get_distance(0, 1) for atoms in centroids])
    before = slice(10)  # the first hill
    np.testing.assert_allclose(bias[before], 0.25 * (d[before] - 3.5) ** 2, rtol=1e-4)
    assert (bias[-1] - 0.25 * (d[-1] - 3.5) ** 2) == pytest.approx(0.001, rel=0.1)
    restart = (folder / "RESTART").read_text()
    (folder / "RESTART").write_text(re.sub(r"<total_steps>\s*15", "<total_steps>39", restart))
    run(folder, "RESTART")
    hills = np.loadtxt(folder / "HILLS")
    np.testing.assert_allclose(hills[:, 0], [10, 20, 30])
    conserved = outputs(folder)[:, 2]
    assert np.ptp(conserved) < 1e-4


def test_replicas_are_not_biased(argon: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("plumed.dat").write_text("")
    with pytest.raises(SystemExit):
        written("--temperature", 40, 50, "--plumed", "plumed.dat")
    assert "one temperature" in capsys.readouterr().out


def test_molecules_in_a_cell_that_does_not_matter(argon: Path) -> None:
    molecule("H2O").write("argon.xyz")
    save_model(PaiNN(channels=4, layers=1, cutoff=3.0), "argon.pt")
    folder = written("--steps", 2, "--stride", 1)
    run(folder)
    atoms = ase.io.read(folder / "init.xyz")
    assert not atoms.pbc.any()
    atoms.calc = load_model("argon.pt").ase_calculator()
    potential = outputs(folder)[0, -1]
    np.testing.assert_allclose(potential, atoms.get_potential_energy(), rtol=1e-6)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, True)])
def test_cells_become_triangular_without_change(pbc: tuple[bool, bool, bool]) -> None:
    kind = StructureKind(5, pbc, ("H", "O"), 0.9, 20.0, skew=1.0)
    atoms = random_structure(kind, 3)
    start = starting_structure(atoms)
    assert not np.triu(start.cell.array, 1).any()
    model = PaiNN(channels=4, layers=1, cutoff=4.0).double()
    calculator = model.ase_calculator(skin=0.0)
    energies = [calculator.get_potential_energy(x) for x in (atoms, start)]
    np.testing.assert_allclose(*energies, rtol=1e-9)
    assert (start.pbc == atoms.pbc).all()


@pytest.fixture
def fitted(tmp_path: Path) -> IPIPotential:
    model = PaiNN(channels=4, layers=1, cutoff=3.0)
    atoms = bulk("Si")
    atoms.info["energy"] = 1.0
    model.pre_fit_all_components([AtomicGraph.from_ase(atoms, 3.0)])
    save_model(model, tmp_path / "model.pt")
    atoms.write(tmp_path / "init.xyz")
    return IPIPotential(str(tmp_path / "init.xyz"), str(tmp_path / "model.pt"))


def test_mistakes_have_names(
    fitted: IPIPotential, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell, R = sent(bulk("Si"))
    bad = R.copy()
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match="structure 1 of the batch: .*atom 1 is at"):
        fitted([cell, cell], [R, bad])
    with pytest.raises(ValueError, match="that lattice vector is zero"):
        fitted(np.diag([10.0, 10.0, 0.0]), R)
    with pytest.raises(ValueError, match="has 2 atoms, but i-PI sent 4"):
        fitted(cell, np.concatenate([R, R + 1]))
    bulk("Ge").write(tmp_path / "ge.xyz")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "model.pt"), str(tmp_path / "ge.xyz"), "--out", str(tmp_path / "x")])
    assert "contains Ge, but the model was only fitted to Si" in capsys.readouterr().out


def test_an_error_on_a_thread_of_ipi_ends_the_run(
    fitted: IPIPotential, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(module.softexit, "trigger", lambda status, message: said.append(message))
    cell, R = sent(bulk("Si"))

    def evaluate() -> None:
        with pytest.raises(ValueError, match="finite"):
            fitted([cell], [R * np.nan])

    thread = threading.Thread(target=evaluate)
    thread.start()
    thread.join()
    assert "positions must be finite" in said[0]


def test_no_input_is_overwritten(argon: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written()
    with pytest.raises(SystemExit):
        written()
    assert "holds an input.xml already" in capsys.readouterr().out
