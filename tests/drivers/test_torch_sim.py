"""Both generations of torch-sim are tested, whichever is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.drivers.torch_sim import TorchSimModel
from graph_pes.models import Committee, LennardJones, PaiNN
from graph_pes.models.base import GraphPESModel
from graph_pes.testing.structures import StructureKind, random_structure
from tests.conformance.models import MODELS, Row

# after the driver, which hides the warnings of its import
import torch_sim as ts  # isort: skip
from torch_sim.models.interface import validate_model_outputs  # isort: skip

CPU = torch.device("cpu")
#: Since 0.4 or so.
ENUMERATED = hasattr(ts, "Integrator")
ARGON = {"cutoff": 6.0, "epsilon": 0.0104, "sigma": 3.40}


def state_of(structures: list[ase.Atoms]) -> Any:
    return ts.io.atoms_to_state(structures, CPU, torch.float64)


def structures_for(row: Row) -> list[ase.Atoms]:
    """Three periodic ones of different sizes, one of them smaller than the cutoff."""
    kinds = [
        StructureKind(n, (True, True, True), row.elements, 0.9, 15.0, skew=0.5) for n in (6, 1, 9)
    ]
    return [random_structure(kind, seed) for seed, kind in enumerate(kinds)]


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.name)
def test_equals_the_ase_calculator(row: Row) -> None:
    torch.manual_seed(0)
    model = row.factory().double()
    structures = structures_for(row)
    found = model.torch_sim_model()(state_of(structures))
    calculator = model.ase_calculator(skin=0.0)
    for atoms in structures:
        atoms.calc = calculator
    close = {"rtol": 1e-6, "atol": 1e-6}
    energies = [atoms.get_potential_energy() for atoms in structures]
    np.testing.assert_allclose(found["energy"], energies, **close)
    forces = np.concatenate([atoms.get_forces() for atoms in structures])
    np.testing.assert_allclose(found["forces"], forces, **close)
    stress = [atoms.get_stress(voigt=False) for atoms in structures]
    np.testing.assert_allclose(found["stress"], stress, **close)
    assert all(value.dtype == torch.float64 for value in found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_contract_of_torch_sim(dtype: torch.dtype) -> None:
    model = PaiNN(channels=4, layers=1, cutoff=3.0)
    validate_model_outputs(model.torch_sim_model(dtype=dtype), CPU, dtype)
    assert next(model.parameters()).dtype == torch.float32


def test_only_what_is_asked_for() -> None:
    state = state_of([bulk("Ar")])
    model = LennardJones(**ARGON).torch_sim_model(compute_forces=False, compute_stress=False)
    assert set(model(state)) == {"energy"}
    model.compute_stress = True
    assert set(model(state)) == {"energy", "stress"}
    assert not any(value.requires_grad for value in model(state).values())


def test_uncertainties_of_committees() -> None:
    torch.manual_seed(0)
    model = Committee([PaiNN(channels=4, layers=1, cutoff=3.0) for _ in range(2)])
    structures = [molecule("H2O"), molecule("CH4")]
    found = model.torch_sim_model()(state_of(structures))
    keys = ["energy_uncertainty", "forces_uncertainty"]
    expected = model.ase_calculator().calculate_all(structures, keys)
    np.testing.assert_allclose(found[keys[0]], [x[keys[0]] for x in expected], rtol=1e-5)
    np.testing.assert_allclose(found[keys[1]], np.concatenate([x[keys[1]] for x in expected]), 1e-4)


def test_molecules_have_no_stress() -> None:
    model = PaiNN(channels=4, layers=1, cutoff=3.0)
    structures = [molecule("H2O"), molecule("CH4")]
    found = model.torch_sim_model()(state_of(structures))
    assert not found["stress"].any()
    forces = model.ase_calculator().calculate_all(structures, ["forces"])
    expected = np.concatenate([f["forces"] for f in forces])
    np.testing.assert_allclose(found["forces"], expected, atol=1e-6)


@pytest.mark.skipif(not ENUMERATED, reason="needs torch-sim 0.6, which needs Python 3.12")
def test_slabs() -> None:
    """Directions are periodic one by one since torch-sim 0.6."""
    model = PaiNN(channels=4, layers=1, cutoff=3.0)
    slab = bulk("Cu", cubic=True).repeat((1, 1, 2))
    slab.pbc = (True, True, False)
    slab.rattle(0.05, seed=1)
    found = model.torch_sim_model()(state_of([slab, slab]))
    slab.calc = model.ase_calculator()
    np.testing.assert_allclose(found["energy"], 2 * [slab.get_potential_energy()], rtol=1e-6)
    np.testing.assert_allclose(found["forces"][:8], slab.get_forces(), atol=1e-6)
    np.testing.assert_allclose(found["stress"][1], slab.get_stress(voigt=False), atol=1e-6)


def argon(a: float, n: int = 1) -> ase.Atoms:
    return bulk("Ar", a=a, cubic=True).repeat((n, 1, 1))


def test_batched_dynamics_conserve_energy(tmp_path: Path) -> None:
    structures = [argon(5.2), argon(5.4, 2), argon(5.3)]
    for atoms in structures:
        atoms.rattle(0.05, seed=1)
    model = LennardJones.from_ase(epsilon=0.0104, sigma=3.4, rc=6.0, ro=4.5, smooth=True)
    files = [tmp_path / f"{n}.h5" for n in range(3)]
    state = ts.integrate(
        structures,
        model.torch_sim_model(),
        integrator=(ts.Integrator if ENUMERATED else ts.integrators).nve,
        n_steps=20,
        temperature=30.0,
        timestep=0.002,
        trajectory_reporter={
            "filenames": files,
            "state_frequency": 20,
            "prop_calculators": {1: {"total": total_energy}},
        },
    )
    assert state.energy.shape == (3,)
    for file in files:
        with ts.TorchSimTrajectory(file) as trajectory:
            total = trajectory.get_array("total")
        assert np.ptp(total) < 1e-4


def total_energy(state: Any) -> torch.Tensor:
    kinetic = 0.5 * state.momenta.square().sum(1) / state.masses
    return state.energy + torch.zeros_like(state.energy).index_add(0, state.system_idx, kinetic)


def langevin(state: Any, n_steps: int, **options: Any) -> Any:
    model = LennardJones(**ARGON).torch_sim_model()
    return ts.integrate(
        state,
        model,
        integrator=(ts.Integrator if ENUMERATED else ts.integrators).nvt_langevin,
        n_steps=n_steps,
        temperature=40.0,
        timestep=0.004,
        **options,
    )


def test_thermostat_and_restart(tmp_path: Path) -> None:
    """A run goes on from the last frame that was written."""
    files = [tmp_path / f"{n}.h5" for n in range(2)]
    torch.manual_seed(0)
    reporter = ts.TrajectoryReporter(files, state_frequency=10)
    first = langevin([argon(5.3, 3), argon(5.4)], 40, trajectory_reporter=reporter)
    reporter.close()
    frames = []
    for file in files:
        with ts.TorchSimTrajectory(file, mode="r") as trajectory:
            frames.append(trajectory.get_state(-1))
    state = ts.concatenate_states(frames)
    np.testing.assert_allclose(state.positions, first.positions, atol=1e-5)
    last = langevin(state, 20)
    assert not np.allclose(last.positions, first.positions, atol=1e-3)
    kT = ts.calc_kT(masses=last.masses, momenta=last.momenta, system_idx=last.system_idx)
    temperature = kT / ts.units.MetalUnits.temperature
    assert (temperature > 3).all()
    assert (temperature < 120).all()


def relaxed(structures: list[ase.Atoms], model: TorchSimModel, **options: Any) -> Any:
    if ENUMERATED:
        options["init_kwargs"] = {"cell_filter": ts.CellFilter.frechet}
        optimizer = ts.Optimizer.fire
    else:
        optimizer = ts.optimizers.frechet_cell_fire
    return ts.optimize(
        structures,
        model,
        optimizer=optimizer,
        max_steps=300,
        convergence_fn=ts.generate_force_convergence_fn(1e-4, include_cell_forces=True),
        **options,
    )


def test_cells_relax_to_the_same_lattice() -> None:
    model = LennardJones.from_ase(epsilon=0.0104, sigma=3.4, rc=6.0, ro=4.5, smooth=True)
    state = relaxed([argon(5.2), argon(5.3, 2), bulk("Ar", a=5.25)], model.torch_sim_model())
    per_atom = torch.linalg.det(state.cell) / torch.tensor([4.0, 8.0, 1.0])
    assert torch.allclose(per_atom, per_atom[0], rtol=1e-3)
    assert state.forces.abs().max() < 1e-3


def test_a_hundred_mixed_structures_in_batches_that_fit() -> None:
    model = PaiNN(channels=4, layers=1, cutoff=4.0)
    structures = [
        bulk(("Si", "Cu", "Al")[n % 3], cubic=n % 2 == 0).repeat((1 + n % 2, 1, 1))
        for n in range(100)
    ]
    for n, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=n)
    wrapped = model.torch_sim_model()
    batcher = ts.BinningAutoBatcher(wrapped, max_memory_scaler=60, memory_scales_with="n_atoms")
    results = ts.static(structures, wrapped, autobatcher=batcher)
    energies = torch.stack([r["potential_energy"].reshape(()) for r in results])
    expected = model.ase_calculator().calculate_all(structures, ["energy"], batch_size=50)
    np.testing.assert_allclose(energies, [e["energy"] for e in expected], rtol=1e-6)


@pytest.fixture
def fitted() -> GraphPESModel:
    model = PaiNN(channels=4, layers=1, cutoff=3.0)
    structures = [bulk("Si"), bulk("Ge")]
    for atoms in structures:
        atoms.info["energy"] = 1.0
    model.pre_fit_all_components([AtomicGraph.from_ase(atoms, 3.0) for atoms in structures])
    return model


def test_mistakes_have_names(fitted: GraphPESModel) -> None:
    model = fitted.torch_sim_model()
    with pytest.raises(ValueError, match="contains Au, but the model was only fitted to Si, Ge"):
        model(state_of([bulk("Si"), bulk("Au")]))
    state = state_of([bulk("Si"), bulk("Si")])
    state.positions[2, 0] = torch.nan
    with pytest.raises(ValueError, match="structure 1 of the batch: .*atom 0 is at"):
        model(state)
    state = state_of([bulk("Si"), bulk("Si")])
    state.cell[1] = 0.0
    with pytest.raises(ValueError, match="structure 1 .* that lattice vector is zero"):
        model(state)
    with pytest.raises(TypeError, match="expected a GraphPESModel"):
        TorchSimModel(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
