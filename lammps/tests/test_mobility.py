"""``fix graph_pes/mobility``: overdamped dynamics with hydrodynamic interactions."""

from __future__ import annotations

import math
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from lammps_models import quickly_compiled
from lammps_runs import LAMMPSError, run_lammps

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.models.mobility import Mobility, oseen, rotne_prager

torch.set_num_threads(1)

RADIUS, VISCOSITY = 0.8, 0.3
FLUID = f"{VISCOSITY} {RADIUS}"

#: Of colloids in a large periodic box, the last of which is on its other side.
POSITIONS = np.array([[1.0, 1, 1], [3.1, 1.5, 0.4], [2.0, 3.2, 1.9], [0.5, 0.6, 39.5]])

START = """\
units {units}
atom_style atomic
atom_modify map yes
region box block 0 40 0 40 0 40
create_box 2 box
mass * 1
neighbor 1.0 bin
neigh_modify every 1 delay 0 check yes
comm_modify cutoff 12
timestep {step}
"""


def start(positions: np.ndarray, step: float, units: str = "lj") -> str:
    atoms = [
        f"create_atoms {1 if n < 2 else 2} single {x:.16g} {y:.16g} {z:.16g}"
        for n, (x, y, z) in enumerate(positions)
    ]
    return START.format(units=units, step=step) + "\n".join(atoms) + "\n"


def pulled(forces: np.ndarray) -> str:
    lines = []
    for n, (x, y, z) in enumerate(forces, 1):
        lines += [f"group g{n} id {n}", f"fix f{n} g{n} addforce {x:.17g} {y:.17g} {z:.17g}"]
    return "\n".join(lines) + "\n"


OUTPUT = """\
dump moved all custom {every} moved.dump id xu yu zu vx vy vz
dump_modify moved sort id format float %.17g
run {steps}
"""


def frames(folder: Path, n: int) -> np.ndarray:
    """Positions and velocities (frames, atoms, 6)."""
    lines = (folder / "moved.dump").read_text().split("\n")
    rows = [line.split()[1:] for line in lines if len(line.split()) == 7 and line[0].isdigit()]
    return np.array(rows, dtype=float).reshape(-1, n, 6)


def test_two_colloids(tmp_path: Path) -> None:
    """One is pulled, and takes the other one along: the drift of Oseen."""
    force, step = 0.7, 1e-3
    commands = start(POSITIONS[:2], step) + pulled(np.array([[force, 0, 0]]))
    commands += f"pair_style none\nfix move all graph_pes/mobility oseen {FLUID}\n"
    run_lammps(tmp_path, commands + OUTPUT.format(every=1, steps=1))
    first, second = frames(tmp_path, 2)[:, :, :3]
    r = POSITIONS[1] - POSITIONS[0]
    d = np.linalg.norm(r)
    alone = force * np.array([1, 0, 0]) / (6 * math.pi * VISCOSITY * RADIUS)
    taken = force * (np.array([1, 0, 0]) + r * r[0] / d**2) / (8 * math.pi * VISCOSITY * d)
    np.testing.assert_allclose((second - first) / step, [alone, taken], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "mobility"), [("oseen", oseen), ("rpy", rotne_prager)])
def test_velocities(name: str, mobility, tmp_path: Path) -> None:
    """M F of Python's tensors, for one group of two, on any number of processes."""
    forces = np.random.default_rng(0).normal(size=(4, 3))
    positions = POSITIONS.copy()
    positions[1] = [2.2, 1.5, 0.4] if name == "rpy" else positions[1]  # spheres overlap
    M = mobility(torch.tensor(positions[[0, 1, 3]]), RADIUS, VISCOSITY).numpy()
    wanted = (M @ forces[[0, 1, 3]].reshape(-1)).reshape(-1, 3)
    for ranks in (1, 3):
        commands = start(positions, 1e-9) + "pair_style none\n" + pulled(forces)
        commands += f"group g id 4 1 2\nfix move g graph_pes/mobility {name} {FLUID}\n"
        run_lammps(tmp_path, commands + OUTPUT.format(every=1, steps=1), ranks)
        velocities = frames(tmp_path, 4)[-1, :, 3:]
        np.testing.assert_allclose(velocities[[0, 1, 3]], wanted, rtol=1e-9, atol=1e-12)
        assert (velocities[2] == 0).all()


def test_oseen_where_spheres_overlap(tmp_path: Path) -> None:
    commands = start(np.array([[1.0, 1, 1], [1.5, 1, 1], [9, 9, 9]]), 1e-3) + "pair_style none\n"
    commands += f"fix move all graph_pes/mobility oseen {FLUID}\nrun 1\n"
    message = "not positive definite; atoms 1 and 2 are 0.5 from each other"
    for ranks in (1, 2):
        with pytest.raises(LAMMPSError, match=message):
            run_lammps(tmp_path, commands, ranks)


def assert_covariance(displacements: np.ndarray, expected: np.ndarray) -> None:
    """Of normal numbers with mean zero, within five standard errors."""
    n = len(displacements)
    found = displacements.T @ displacements / n
    diagonal = np.diag(expected)
    error = np.sqrt((np.outer(diagonal, diagonal) + expected**2) / n)
    assert (abs(found - expected) < 5 * error).all()
    # and there is something to be seen
    off = ~np.eye(len(expected), dtype=bool)
    assert (abs(expected) > 8 * error)[off].any()
    # a normal distribution, of independent steps
    whitened = np.linalg.solve(np.linalg.cholesky(expected), displacements.T)
    assert abs((whitened**4).mean() - 3) < 5 * math.sqrt(96 / whitened.size)
    assert abs((whitened[:, 1:] * whitened[:, :-1]).mean()) < 5 / math.sqrt(whitened.size)


def test_fluctuation_and_dissipation(tmp_path: Path) -> None:
    """The covariance of displacements is 2 kT M dt, with the M of the velocities."""
    T, step, steps = 1.7, 1e-9, 6000
    commands = start(POSITIONS[:2], step) + "pair_style none\n"
    commands += f"fix move all graph_pes/mobility rpy {FLUID} temperature {T} seed 17\n"
    run_lammps(tmp_path, commands + OUTPUT.format(every=1, steps=steps))
    positions = frames(tmp_path, 2)[:, :, :3].reshape(steps + 1, 6)
    M = rotne_prager(torch.tensor(POSITIONS[:2]), RADIUS, VISCOSITY).numpy()
    assert_covariance(np.diff(positions, axis=0), 2 * T * M * step)


def test_instances_and_seeds(tmp_path: Path) -> None:
    """Two groups in fluids of their own; the same on many processes, and after a restart."""
    noise = "temperature 0.5 seed"
    fixes = f"""\
group one type 1
group two type 2
fix one one graph_pes/mobility rpy {FLUID} {noise} {{seed}}
fix two two graph_pes/mobility oseen 2.0 0.1 {noise} 5
pair_style lj/cut 2.5
pair_coeff * * 1.0 1.0
"""
    results = {}
    for seed, ranks in ((1, 1), (1, 4), (2, 1)):
        commands = start(POSITIONS, 1e-3) + fixes.format(seed=seed)
        commands += OUTPUT.format(every=100, steps=100) + "write_restart half.restart\n"
        run_lammps(tmp_path, commands + "run 100\n", ranks)
        results[seed, ranks] = frames(tmp_path, 4)[..., :3]
    again = "units lj\natom_modify map yes\nread_restart half.restart\ntimestep 1e-3\n"
    again += "neigh_modify every 1 delay 0 check yes\ncomm_modify cutoff 12\n"
    again += fixes.replace("group one type 1\ngroup two type 2\n", "").format(seed=2)
    run_lammps(tmp_path, again + OUTPUT.format(every=100, steps=100))
    np.testing.assert_allclose(frames(tmp_path, 4)[-1, :, :3], results[2, 1][-1], atol=1e-9)

    np.testing.assert_allclose(results[1, 4], results[1, 1], atol=1e-9)
    moved = abs(results[2, 1][1] - results[1, 1][1]).max(axis=1)
    assert (moved[:2] > 0.01).all()
    assert np.linalg.norm(results[1, 1][-1] - POSITIONS) > 0.1
    # the first step of the second fluid, where nobody is near
    assert abs(results[1, 1][1, 3] - results[2, 1][1, 3]).max() < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("stokes 1 1", "expected oseen, rpy or model, got 'stokes'"),
        ("rpy 1", "expected 'rpy viscosity radius'"),
        ("rpy 1 -1", "expected a viscosity and a radius above 0, got 1 and -1"),
        ("rpy 1 1 temperature 1", "noise at temperature 1 needs a seed"),
        ("rpy 1 1 temperature 1 seed 0", "expected a seed from 1 to 4294967295, got 0"),
        ("rpy 1 1 kT 1", "expected temperature or seed, got 'kT'"),
        ("model none.pt2", "expected 'model .* and 2 chemical symbols"),
    ],
)
def test_wrong_arguments(arguments: str, message: str, tmp_path: Path) -> None:
    commands = start(POSITIONS, 1e-3) + f"fix move all graph_pes/mobility {arguments}\n"
    with pytest.raises(LAMMPSError, match=message):
        run_lammps(tmp_path, commands)


# --- a model ------------------------------------------------------------------------------

CUTOFF = 4.0

#: Å²/(eV ps) in units of LAMMPS.
UNITS = {"metal": 1.0, "real": 1e-3 / 23.060549}


@pytest.fixture(scope="session")
def learned() -> tuple[Mobility, Path]:
    """Far from trained: its mobility depends on positions as much as it can."""
    torch.manual_seed(0)
    model = Mobility(CUTOFF, self_mobility=2.0, channels=8, radial_features=4).double()
    with torch.no_grad():
        model.log_scale["Ne"], model.log_scale["Ar"] = 0.1, 0.4
        for parameter in model.functions.parameters():
            parameter.mul_(1.7)
    return model.eval(), quickly_compiled(model)


def matrix(model: Mobility, positions: np.ndarray) -> torch.Tensor:
    box = ase.Atoms("Ne2Ar2", positions, cell=[40, 40, 40], pbc=True)
    return model.matrix(AtomicGraph.from_ase(box, CUTOFF, dtype=torch.float64)).detach()


@pytest.mark.parametrize("units", list(UNITS))
def test_velocities_by_a_model(units: str, learned: tuple[Mobility, Path], tmp_path: Path) -> None:
    """M F, in a group through periodic boundaries; others are no part of the fluid."""
    model, file = learned
    forces = np.random.default_rng(0).normal(size=(4, 3))
    M = matrix(model, POSITIONS).numpy()
    assert abs(M[:3, 9:]).max() > 0.1
    wanted = UNITS[units] * (M @ forces.reshape(-1)).reshape(4, 3)
    further = np.concatenate([POSITIONS, [[2.5, 1.5, 1.0]]])
    for ranks in (1, 4):
        commands = start(further, 1e-9, units) + "pair_style none\n" + pulled(forces)
        commands += f"group g id 1:4\nfix move g graph_pes/mobility model {file} Ne Ar\n"
        run_lammps(tmp_path, commands + OUTPUT.format(every=1, steps=1), ranks)
        velocities = frames(tmp_path, 5)[-1, :, 3:]
        np.testing.assert_allclose(velocities[:4], wanted, rtol=1e-6, atol=1e-10)
        assert (velocities[4] == 0).all()


def test_noise_by_a_model(learned: tuple[Mobility, Path], tmp_path: Path) -> None:
    """Covariance as above; and the mean velocity is kT times the divergence of M."""
    model, file = learned
    boltzmann, T, step, steps = 8.617333262e-5, 2000.0, 1e-12, 4000
    commands = start(POSITIONS, step, "metal") + "pair_style none\n"
    commands += f"fix move all graph_pes/mobility model {file} Ne Ar temperature {T} seed 3\n"
    run_lammps(tmp_path, commands + OUTPUT.format(every=1, steps=steps))
    found = frames(tmp_path, 4)
    M = matrix(model, POSITIONS).numpy()
    displacements = np.diff(found[:, :, :3].reshape(steps + 1, 12), axis=0)
    assert_covariance(displacements, 2 * boltzmann * T * M * step)

    h = 1e-5
    divergence = np.zeros(12)
    for k, e in enumerate(h * np.eye(12)):
        plus, minus = (matrix(model, POSITIONS + s * e.reshape(4, 3)).numpy() for s in (1, -1))
        divergence += (plus - minus)[:, k] / (2 * h)
    velocities = found[1:, :, 3:].reshape(steps, 12)
    error = velocities.std(axis=0) / math.sqrt(steps)
    assert (abs(velocities.mean(axis=0) - boltzmann * T * divergence) < 5 * error).all()
    assert (abs(boltzmann * T * divergence) > 8 * error).any()


def test_other_models_are_refused(tmp_path: Path, compiled) -> None:
    _, file = compiled("pair")
    commands = start(POSITIONS, 1e-3, "metal")
    commands += f"fix move all graph_pes/mobility model {file} Si O\n"
    message = "predicts local_energies gradients, not mobility_self and mobility_pairs"
    with pytest.raises(LAMMPSError, match=message):
        run_lammps(tmp_path, commands)
