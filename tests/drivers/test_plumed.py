"""Collective variables in Python, and metadynamics with them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import ase
import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from ase.cluster import Octahedron
from ase.io import Trajectory
from ase.md.verlet import VelocityVerlet

from graph_pes.atomic_graph import (
    AtomicGraph,
    neighbour_distances,
    sum_over_neighbours,
    sum_per_structure,
)
from graph_pes.drivers.plumed import PlumedVariables

EXAMPLE = Path(__file__).parents[2] / "examples" / "lj38"


def coordination(graph: AtomicGraph) -> torch.Tensor:
    """Sum of the first and second powers of numbers of neighbours."""
    near = torch.sigmoid((3.0 - neighbour_distances(graph)) / 0.2)
    n = sum_over_neighbours(near, graph)
    return sum_per_structure(torch.stack([n, n**2], dim=1), graph)


@pytest.mark.parametrize("periodic", [False, True])
def test_derivatives_are_those_of_finite_differences(periodic: bool) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    variables = PlumedVariables(coordination, ["a", "b"], cutoff=4.5, periodic=periodic)
    R, box, h = atoms.positions, atoms.cell.array, 1e-5
    values, slopes, virials = variables.evaluate(R, box)
    assert (slopes.shape, virials.shape) == ((2, 8, 3), (2, 3, 3))
    assert (values > 0).all()

    def difference(move: np.ndarray, strain: np.ndarray) -> np.ndarray:
        moved = [
            variables.evaluate(
                (R + s * move) @ (np.eye(3) + s * strain), box @ (np.eye(3) + s * strain)
            )
            for s in (h, -h)
        ]
        return (moved[0][0] - moved[1][0]) / (2 * h)

    rng = np.random.default_rng(0)
    for _ in range(3):
        move, strain = rng.normal(size=(8, 3)), rng.normal(size=(3, 3))
        found = difference(move, np.zeros((3, 3)))
        np.testing.assert_allclose(found, (slopes * move).sum((1, 2)), rtol=1e-6, atol=1e-6)
        found = difference(np.zeros((8, 3)), strain)
        np.testing.assert_allclose(found, -(virials * strain).sum((1, 2)), rtol=1e-6, atol=1e-6)


def test_neighbours_that_are_kept_change_nothing() -> None:
    variables = PlumedVariables(coordination, ["a", "b"], cutoff=3.5)
    atoms = Octahedron("Ar", 4, 1, latticeconstant=4.5)
    for seed in range(4):
        atoms.rattle(0.2, seed=seed)
        new = PlumedVariables(coordination, ["a", "b"], cutoff=3.5, skin=0.0)
        for a, b in zip(
            variables.evaluate(atoms.positions, np.zeros((3, 3))),
            new.evaluate(atoms.positions, np.zeros((3, 3))),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_what_is_refused() -> None:
    variables = PlumedVariables(coordination, ["a"], cutoff=3.5)
    R = np.zeros((2, 3))
    R[1, 0] = 3
    with pytest.raises(
        ValueError, match=r"expected 1 values, for \['a'\], the function returned 2"
    ):
        variables.evaluate(R, np.zeros((3, 3)))
    R[0, 0] = np.nan
    with pytest.raises(ValueError, match="positions are NaN or infinite"):
        variables.evaluate(R, np.zeros((3, 3)))


# --- with a kernel ------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The example, in a folder of its own."""
    pytest.importorskip("plumed", reason="there is no kernel of PLUMED: hillclimber brings one")
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    import metadynamics

    yield metadynamics
    for name in ("metadynamics", "collective_variables"):
        sys.modules.pop(name, None)


def biased(example: ModuleType, atoms: ase.Atoms, lines: str, **options: object) -> ase.Atoms:
    """The cluster with the actions of PLUMED in ``lines``."""
    import plumed
    from ase.calculators.plumed import Plumed

    atoms = atoms.copy()
    text = lines.format(plugin=plumed.get_pycv_path()).splitlines()
    atoms.calc = Plumed(
        calc=example.potential(),
        input=text,
        timestep=example.TIME_STEP,
        atoms=atoms,
        kT=units.kB * example.TEMPERATURE,
        log="plumed.log",
        **options,
    )
    return atoms


def test_bias_on_a_python_variable(example: ModuleType) -> None:
    """Forces are the derivatives of the biased energy; values those of PLUMED's own actions."""
    lines = """\
UNITS LENGTH=A
LOAD FILE={plugin}
cv: PYCVINTERFACE ATOMS=1-38 IMPORT=collective_variables CALCULATE=calculate
c: COORDINATIONNUMBER SPECIES=1-38 SWITCH={{CUBIC D_0=4.4 D_MAX=5.5}}
b6: CUSTOM ARG=c FUNC=exp(-2*(x-6)^2) PERIODIC=NO
b8: CUSTOM ARG=c FUNC=exp(-2*(x-8)^2) PERIODIC=NO
n6: SUM ARG=b6 PERIODIC=NO
n8: SUM ARG=b8 PERIODIC=NO
RESTRAINT ARG=cv.py-n6,cv.py-n8 AT=5,3 KAPPA=2,3
PRINT ARG=cv.py-n6,cv.py-n8,n6,n8 FILE=COLVAR FMT=%.12f
"""
    start = Octahedron("Ar", 4, 1, latticeconstant=5.3)
    start.rattle(0.1, seed=1)
    h, atoms = 1e-4, biased(example, start, lines)
    force = atoms.get_forces()[3, 1]
    energies = []
    for sign in (1, -1):
        atoms.positions[3, 1] = start.positions[3, 1] + sign * h
        energies.append(atoms.get_potential_energy())
    assert force == pytest.approx((energies[1] - energies[0]) / (2 * h), rel=1e-5)
    atoms.calc.plumed.finalize()
    python, own = np.split(np.loadtxt("COLVAR")[:, 1:], 2, axis=1)
    np.testing.assert_allclose(python, own, rtol=1e-9)


def test_metadynamics_continues(example: ModuleType) -> None:
    """Stopped and restarted from its files, a run goes on as if nothing had happened."""
    from ase.calculators.plumed import restart_from_trajectory

    start = example.octahedron()
    start.set_momenta(np.random.default_rng(0).normal(size=(38, 3)))

    def run(steps: int, atoms: ase.Atoms, name: str) -> None:
        with Trajectory(name, "w", atoms) as trajectory:
            md = VelocityVerlet(atoms, example.TIME_STEP)
            md.attach(trajectory.write, interval=1)
            md.run(steps)
        atoms.calc.plumed.finalize()

    whole = biased(example, start, example.PLUMED_INPUT)
    run(65, whole, "whole.traj")
    hills = np.loadtxt("HILLS")
    assert hills.shape == (2, 7)
    for name in ("HILLS", "COLVAR"):
        Path(name).unlink()
    part = biased(example, start, example.PLUMED_INPUT)
    run(40, part, "part.traj")
    lines = example.PLUMED_INPUT.format(plugin=__import__("plumed").get_pycv_path()).splitlines()
    rest = start.copy()
    restart_from_trajectory(
        "part.traj",
        calc=example.potential(),
        input=lines,
        timestep=example.TIME_STEP,
        atoms=rest,
        kT=units.kB * example.TEMPERATURE,
        log="plumed.log",
    )
    run(25, rest, "rest.traj")
    np.testing.assert_allclose(rest.positions, whole.positions, atol=1e-5)
    np.testing.assert_allclose(np.loadtxt("HILLS")[:, 1:6], hills[:, 1:6], atol=1e-4)


def test_the_example(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set-up of the tutorial, and its picture."""
    pytest.importorskip("matplotlib").use("agg")
    example.run(130, restart=False)
    example.run(40, restart=True)
    hills = np.loadtxt("HILLS")
    assert len(hills) == 4  # of 140 steps: the run is continued from its frame 100
    np.testing.assert_allclose(hills[:, 3:5], [[1.0, 0.5]] * 4)
    assert hills[0, 5] == pytest.approx(0.04 * 40 / 39, rel=0.02)
    n6, n8, F = example.free_energy(hills)
    assert F.shape == (len(n8), len(n6))
    assert F.min() == 0
    example.plot("surface.png")
    assert Path("surface.png").stat().st_size > 1000
