"""The ASE calculator."""

from __future__ import annotations

import io
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.lj import LennardJones as ASELennardJones
from ase.filters import FrechetCellFilter
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from hypothesis import given
from hypothesis import strategies as st

from graph_pes import AtomicGraph, GraphPESModel
from graph_pes.atomic_graph import neighbour_distances, sum_over_neighbours
from graph_pes.deploy import export_model
from graph_pes.drivers import GraphPESCalculator
from graph_pes.models import Committee, LennardJones, PaiNN, StillingerWeber
from graph_pes.models.base import GraphTensorModel
from tests.strategies import seeds, structures

ARGON = {"sigma": 3.405, "epsilon": 0.01032, "rc": 7.0, "ro": 5.0}


def argon(smooth: bool) -> GraphPESModel:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # the parameters themselves are not rounded
    model = LennardJones.from_ase(**ARGON, smooth=smooth)
    torch.set_default_dtype(before)
    return model


def smooth_argon() -> GraphPESModel:
    return argon(smooth=True)


def painn() -> PaiNN:
    torch.manual_seed(1)
    return PaiNN(channels=8, radial_features=6, layers=2, cutoff=4.0).double()


class Counting(GraphPESModel):
    """A spring that counts its evaluations, and whether they were differentiable."""

    def __init__(self) -> None:
        super().__init__(4.0, ["local_energies"])
        self.k = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.differentiable: list[bool] = []
        self.modes: list[bool] = []

    def forward(self, graph: AtomicGraph) -> dict[str, torch.Tensor]:
        r = neighbour_distances(graph)
        energies = sum_over_neighbours(self.k * (r - 4.0) ** 2, graph)
        self.differentiable.append(energies.requires_grad)
        self.modes.append(self.training)
        charge = graph.other.get("total_charge", torch.tensor(0.0))
        return {"local_energies": energies + charge}


def strained(atoms: ase.Atoms, seed: int, amplitude: float = 0.05) -> ase.Atoms:
    """The structure in a skewed cell, with displaced atoms."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    F = np.eye(3) + amplitude * rng.normal(size=(3, 3))
    atoms.set_cell(atoms.cell.array @ F, scale_atoms=True)
    atoms.positions += amplitude * rng.normal(size=(len(atoms), 3))
    return atoms


# --- values ------------------------------------------------------------------------------


@pytest.mark.parametrize("skin", [0.0, 1.0])
@pytest.mark.parametrize(
    ("model", "atoms"),
    [
        (smooth_argon, bulk("Ar", a=5.2, cubic=True)),
        (painn, bulk("SiC", "zincblende", a=3.2)),
        (StillingerWeber, bulk("Si")),
    ],
    ids=["pair", "many-body", "triplets"],
)
def test_forces_and_stress_are_derivatives_of_the_energy(model, atoms, skin):
    """In small skewed cells, where atoms are neighbours of their own images."""
    atoms = strained(atoms, seed=2)
    atoms.calc = GraphPESCalculator(model().double(), skin=skin)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    numerical_forces = calculate_numerical_forces(atoms, eps=1e-4)
    numerical_stress = calculate_numerical_stress(atoms, eps=1e-5)
    assert np.abs(forces).max() > 1e-3
    assert np.abs(stress).max() > 1e-4
    np.testing.assert_allclose(forces, numerical_forces, rtol=0, atol=1e-6)
    np.testing.assert_allclose(stress, numerical_stress, rtol=0, atol=1e-6)


@pytest.mark.parametrize("smooth", [False, True])
def test_values_are_those_of_the_calculator_of_ase(smooth):
    """All properties, each stress component in its place, atom by atom."""
    atoms = strained(bulk("Ar", a=5.2, cubic=True) * (2, 1, 1), seed=3)
    atoms.calc = GraphPESCalculator(argon(smooth))
    reference = atoms.copy()
    reference.calc = ASELennardJones(**ARGON, smooth=smooth)
    for name in ("energy", "energies", "forces", "stress"):
        expected = reference.calc.get_property(name, reference)
        value = atoms.calc.get_property(name, atoms)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


@given(structures(max_atoms=6, min_distance=0.8))
def test_energies_add_up_for_any_structure(atoms):
    atoms.calc = GraphPESCalculator(painn())
    energy = atoms.get_potential_energy()
    assert isinstance(energy, float)
    assert atoms.get_potential_energy(force_consistent=True) == energy
    energies = atoms.get_potential_energies()
    assert energies.shape == (len(atoms),)
    assert energies.sum() == pytest.approx(energy, rel=1e-12)
    assert atoms.get_forces().shape == (len(atoms), 3)


def test_a_model_in_single_precision_is_close_to_double():
    atoms = strained(bulk("SiC", "zincblende", a=4.3, cubic=True), seed=4)
    atoms.translate(1e4)  # geometry is in double precision, far from the origin too
    single, double = painn().float(), painn()
    results = []
    for model in (single, double):
        atoms.calc = GraphPESCalculator(model)
        results.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
        assert results[-1][1].dtype == results[-1][2].dtype == np.float64
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
        assert np.abs(a - b).max() > 0  # they are not the same model


def test_charge_and_spin_reach_the_model_also_when_only_they_change():
    atoms = molecule("H2O")
    atoms.calc = GraphPESCalculator(Counting())
    neutral = atoms.get_potential_energy()
    atoms.info["total_charge"] = 1.0
    assert atoms.get_potential_energy() == pytest.approx(neutral + 3.0)
    atoms.info["total_charge"] = -1.0
    assert atoms.get_potential_energy() == pytest.approx(neutral - 3.0)
    del atoms.info["total_charge"]
    assert atoms.get_potential_energy() == pytest.approx(neutral)


def test_a_charge_that_was_removed_is_forgotten_by_exported_models(tmp_path: Path):
    export_model(Counting(), tmp_path / "model.pt2", mode="portable")
    atoms = molecule("H2O")
    atoms.calc = GraphPESCalculator(tmp_path / "model.pt2")
    neutral = atoms.get_potential_energy()
    atoms.info["total_charge"] = 1.0
    atoms.calc = GraphPESCalculator(tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="expected a total_charge of 0"):
        atoms.get_potential_energy()
    del atoms.info["total_charge"]
    assert atoms.get_potential_energy() == neutral


# --- what is computed --------------------------------------------------------------------


def test_only_what_is_asked_for_is_computed_and_only_once():
    model = Counting()
    atoms = bulk("Cu")
    atoms.calc = GraphPESCalculator(model)
    atoms.get_potential_energy()
    atoms.get_potential_energies()
    atoms.get_potential_energy(force_consistent=True)
    assert model.differentiable == [False]
    atoms.get_forces()
    atoms.get_stress()
    atoms.get_potential_energy()
    assert model.differentiable == [False, True]
    atoms.rattle(0.1)
    atoms.get_forces()
    atoms.get_potential_energy()
    atoms.get_stress()
    assert model.differentiable == [False, True, True]


def test_uncertainties_of_a_committee_come_with_the_forces():
    torch.manual_seed(0)
    members = [painn(), PaiNN(channels=4, layers=1, cutoff=4.0).double()]
    model = Committee(members)
    atoms = bulk("SiC", "zincblende", a=3.2)
    atoms.rattle(0.1, seed=1)
    atoms.calc = GraphPESCalculator(model)
    F = []
    for member in members:
        member_atoms = atoms.copy()
        member_atoms.calc = GraphPESCalculator(member)
        F.append(member_atoms.get_forces())
    np.testing.assert_allclose(atoms.get_forces(), np.mean(F, axis=0), atol=1e-12)
    assert atoms.calc.results["energy_uncertainty"] > 0
    sigma = atoms.calc.get_property("forces_uncertainty", atoms)
    np.testing.assert_allclose(sigma, np.linalg.norm(F[0] - F[1], axis=1) / 2**0.5, atol=1e-12)
    with pytest.raises(PropertyNotImplementedError, match="forces_uncertainty"):
        GraphPESCalculator(members[0]).get_property("forces_uncertainty", atoms)


def test_forces_are_the_default():
    calculator = GraphPESCalculator(Counting())
    calculator.calculate(molecule("H2O"))
    assert set(calculator.results) == {"energy", "free_energy", "energies", "forces"}


@pytest.mark.parametrize("cell", [None, [5, 0, 0], [[5, 0, 0], [5, 0, 0], [0, 0, 5]]])
def test_no_volume_no_stress(cell):
    atoms = molecule("H2O")
    if cell is not None:
        atoms.set_cell(cell)
    atoms.calc = GraphPESCalculator(painn())
    with pytest.raises(PropertyNotImplementedError, match="without a volume"):
        atoms.get_stress()
    assert np.isfinite(atoms.get_forces()).all()


def test_the_stress_of_a_slab_is_there_when_asked_for():
    """As with the calculators of ASE: per volume of the cell, whatever is periodic."""
    slab = fcc111("Ar", (1, 1, 2), a=5.2, vacuum=5.0)
    slab.calc = GraphPESCalculator(smooth_argon())
    slab.get_forces()
    assert "stress" not in slab.calc.results
    stress = slab.get_stress()
    slab.calc = ASELennardJones(**ARGON, smooth=True)
    np.testing.assert_allclose(stress, slab.get_stress(), atol=1e-9)


def test_atoms_are_left_alone():
    atoms = bulk("Cu") * 2
    atoms.info["energy"], atoms.arrays["tags"] = 1.0, np.arange(8)
    atoms.positions += 20.0
    before = atoms.copy()
    atoms.calc = GraphPESCalculator(Counting())
    atoms.get_forces()
    atoms.get_stress()
    assert atoms == before
    assert atoms.info == before.info
    assert atoms.arrays.keys() == before.arrays.keys()


def test_results_can_be_written_and_read_back():
    atoms = bulk("Ar", a=5.2, cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = GraphPESCalculator(smooth_argon())
    atoms.get_stress()
    file = io.StringIO()
    ase.io.write(file, atoms, format="extxyz")
    file.seek(0)
    again = ase.io.read(file, format="extxyz")
    assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    np.testing.assert_allclose(again.get_forces(), atoms.get_forces(), atol=1e-7)
    np.testing.assert_allclose(again.get_stress(), atoms.get_stress(), atol=1e-7)


# --- the model ---------------------------------------------------------------------------


def test_the_model_is_used_as_it_is_and_left_in_its_mode():
    model = Counting()
    atoms = molecule("H2O")
    atoms.calc = model.ase_calculator()
    energy = atoms.get_potential_energy()
    assert model.modes == [False]
    assert model.training
    assert atoms.calc.model is model
    with torch.no_grad():
        model.k *= 2
    atoms.calc.reset()
    assert atoms.get_potential_energy() == pytest.approx(2 * energy)


def test_it_works_whatever_the_mode_of_autograd():
    atoms = molecule("H2O")
    forces = []
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        atoms.calc = GraphPESCalculator(Counting())
        with context:
            forces.append(atoms.get_forces())
    np.testing.assert_array_equal(forces[0], forces[1])
    np.testing.assert_array_equal(forces[0], forces[2])


def test_arguments_are_checked():
    class Tensors(GraphTensorModel):
        def forward(self, graph: AtomicGraph) -> dict[str, torch.Tensor]:
            return {"tensor": graph.R}

    with pytest.raises(TypeError, match=r"expected a GraphPESModel.* got Tensors"):
        GraphPESCalculator(Tensors(3.0))
    with pytest.raises(ValueError, match="skin of at least 0 Å, got -1"):
        GraphPESCalculator(Counting(), skin=-1)
    with pytest.raises(ValueError, match="skin of at least 0 Å, got nan"):
        GraphPESCalculator(Counting(), skin=float("nan"))


def test_structures_that_make_no_sense():
    calculator = GraphPESCalculator(painn())
    with pytest.raises(ValueError, match="no atoms"):
        calculator.get_potential_energy(ase.Atoms())
    with pytest.raises(ValueError, match="atom 1 is at"):
        calculator.get_potential_energy(ase.Atoms("H2", [[0, 0, 0], [np.nan, 0, 0]]))
    with pytest.raises(ValueError, match="periodic along a"):
        calculator.get_potential_energy(ase.Atoms("H", pbc=True))


def test_elements_the_model_was_not_fitted_to():
    model = painn()
    water = molecule("H2O")
    model.pre_fit_all_components([AtomicGraph.from_ase(water, 4.0, property_mapping={})])
    calculator = GraphPESCalculator(model)
    assert np.isfinite(calculator.get_potential_energy(water))
    with pytest.raises(ValueError, match=r"contains C, but .* fitted to H, O"):
        calculator.get_potential_energy(molecule("CH4"))
    assert calculator.results == {}
    with pytest.raises(ValueError, match=r"contains C, but .* fitted to H, O"):
        calculator.calculate_all([water, molecule("CH4")])
    assert np.isfinite(calculator.get_potential_energy(water))


# --- reuse of neighbour lists ------------------------------------------------------------


@given(structures(max_atoms=6, min_distance=1.0), seeds, st.sampled_from([0.0, 0.03, 0.1]))
def test_reuse_changes_no_result(atoms, seed, amplitude):
    """Along a walk through cells and positions, wrapping included."""
    rng = np.random.default_rng(seed)
    model = painn()
    fresh, reusing = GraphPESCalculator(model, skin=0.0), GraphPESCalculator(model, skin=1.0)
    for step in range(6):
        energy, forces = (reusing.get_property(key, atoms) for key in ("energy", "forces"))
        assert energy == pytest.approx(fresh.get_property("energy", atoms), abs=1e-10)
        np.testing.assert_allclose(forces, fresh.get_property("forces", atoms), atol=1e-9)
        F = np.eye(3) + amplitude * rng.uniform(-1, 1, (3, 3))
        atoms.set_cell(atoms.cell.array @ F)
        atoms.positions = atoms.positions @ F + amplitude * rng.normal(size=(len(atoms), 3))
        if step == 3:
            atoms.wrap()
    assert fresh.cache_hit_rate == 0
    assert reusing.cache_hit_rate > 0  # forces after the energy, at least


@pytest.mark.parametrize("cache_threebody", [True, False])
def test_reuse_with_triplets(cache_threebody, monkeypatch):
    """The same results, and triplets are only searched for when told not to keep them."""
    from graph_pes.atomic_graph import triplets

    searches = []
    for name in ("edge_pairs", "earlier_edges"):
        search = getattr(triplets, name)
        monkeypatch.setattr(
            triplets, name, lambda *args, search=search: searches.append(1) or search(*args)
        )
    model = StillingerWeber().double()
    reusing = GraphPESCalculator(model, cache_threebody=cache_threebody)
    atoms = bulk("Si") * 2
    forces = []
    for seed in range(4):
        frame = strained(atoms, seed, amplitude=0.01)
        forces.append(reusing.get_property("forces", frame))
    assert reusing.cache_hit_rate == 3 / 4
    assert len(searches) == (1 if cache_threebody else 4)
    for seed in range(4):
        frame = strained(atoms, seed, amplitude=0.01)
        expected = GraphPESCalculator(model, skin=0.0).get_property("forces", frame)
        np.testing.assert_allclose(forces[seed], expected, atol=1e-10)


def test_statistics():
    calculator = GraphPESCalculator(smooth_argon(), skin=1.0)
    assert calculator.cache_hit_rate == calculator.average_nl_timing == 0
    atoms = bulk("Ar", a=5.2, cubic=True)
    for _ in range(4):
        calculator.get_property("energy", atoms)
        atoms.positions[0] += 0.1
    assert calculator.cache_hit_rate == 0.75
    assert calculator.total_nl_timing == calculator.average_nl_timing > 0
    calculator.reset_cache_stats()
    assert calculator.cache_hit_rate == calculator.total_nl_timing == 0


def test_one_calculator_for_several_structures():
    calculator = GraphPESCalculator(painn())
    for atoms in (molecule("H2O"), bulk("Si"), molecule("CH4"), molecule("H2O"), bulk("C")):
        expected = GraphPESCalculator(painn(), skin=0).get_property("energy", atoms)
        assert calculator.get_property("energy", atoms) == pytest.approx(expected, abs=1e-12)


# --- simulations -------------------------------------------------------------------------


def thermalised(atoms: ase.Atoms, temperature: float) -> None:
    rng = np.random.default_rng(0)
    width = np.sqrt(units.kB * temperature * atoms.get_masses())[:, None]
    atoms.set_momenta(width * rng.normal(size=(len(atoms), 3)))


def test_energy_is_conserved_over_1000_steps():
    """An argon crystal at about 20 K: its total energy has no drift and hardly fluctuates."""
    atoms = bulk("Ar", a=5.3, cubic=True) * (2, 2, 2)
    atoms.calc = smooth_argon().ase_calculator(skin=1.0)
    thermalised(atoms, 40.0)
    md = VelocityVerlet(atoms, timestep=2 * units.fs)
    energies = []
    md.attach(lambda: energies.append(atoms.get_total_energy()), interval=10)
    md.run(1000)
    per_atom = 1000 * (np.array(energies) - energies[0]) / len(atoms)  # meV
    slope = np.polyfit(np.linspace(0, 2, len(per_atom)), per_atom, 1)[0]
    assert atoms.get_temperature() > 10
    assert np.abs(per_atom).max() < 1e-3, "meV per atom"
    assert abs(slope) < 2e-5, "meV per atom and ps"
    assert atoms.calc.cache_hit_rate > 0.9


def test_npt_reuses_lists_and_stays_right():
    """The cell changes at every step, and lists are reused all the same."""
    atoms = bulk("Ar", a=5.3, cubic=True) * (2, 2, 2)
    atoms.calc = smooth_argon().ase_calculator(skin=1.5)
    thermalised(atoms, 40.0)
    md = IsotropicMTKNPT(
        atoms,
        timestep=4 * units.fs,
        temperature_K=20,
        pressure_au=0.01,
        tdamp=200 * units.fs,
        pdamp=500 * units.fs,
    )
    exact = GraphPESCalculator(smooth_argon(), skin=0.0)
    volume, errors = atoms.get_volume(), []

    def compare() -> None:
        forces = exact.get_property("forces", atoms)
        errors.append(np.abs(forces - atoms.get_forces()).max())

    md.attach(compare, interval=5)
    md.run(150)
    assert atoms.get_volume() < 0.98 * volume
    assert len(errors) == 31
    assert max(errors) < 1e-12
    assert 0.5 < atoms.calc.cache_hit_rate < 1


def test_relaxation_of_cell_and_positions():
    """To the lattice constant at which the energy of the perfect crystal is lowest."""
    calculator = smooth_argon().ase_calculator()

    def energy(a: float) -> float:
        return calculator.get_property("energy", bulk("Ar", a=a))

    lattice_constants = np.linspace(5.1, 5.4, 13)
    cubic = np.polynomial.Polynomial.fit(lattice_constants, [*map(energy, lattice_constants)], 5)
    minima = [x.real for x in cubic.deriv().roots() if abs(x.imag) < 1e-9 and 5.15 < x.real < 5.35]
    atoms = strained(bulk("Ar", a=5.35, cubic=True), seed=5, amplitude=0.02)
    atoms.calc = calculator
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-5, steps=300)
    assert atoms.get_volume() ** (1 / 3) == pytest.approx(minima[0], abs=2e-4)
    assert np.abs(atoms.get_stress()).max() < 1e-6


# --- many structures ---------------------------------------------------------------------


def test_calculate_all_is_calculate_one_by_one():
    calculator = GraphPESCalculator(painn())
    crystals = [strained(bulk("SiC", "zincblende", a=4.3), seed) for seed in range(3)]
    mixed = [crystals[0], molecule("H2O"), crystals[1], molecule("CH4"), crystals[2]]
    for frames, keys in ((crystals, {"energy", "forces", "stress"}), (mixed, {"energy", "forces"})):
        results = calculator.calculate_all(frames, batch_size=2)
        assert [set(r) for r in results] == [keys] * len(frames)
        for atoms, result in zip(frames, results, strict=True):
            assert isinstance(result["energy"], float)
            for key, value in result.items():
                expected = calculator.get_property(key, atoms)
                np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9)


def test_calculate_all_takes_names_of_ase_and_of_the_model_and_graphs():
    calculator = GraphPESCalculator(painn())
    atoms = bulk("Si")
    graph = AtomicGraph.from_ase(atoms, 4.0, dtype=torch.float64)
    names = ["energies", "local_energies", "free_energy", "energy", "virial", "stress"]
    (a,), (b,) = (calculator.calculate_all([s], names) for s in (atoms, graph))
    assert list(a) == list(b) == names
    for name in names:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-12)
    np.testing.assert_array_equal(a["energies"], a["local_energies"])
    assert a["free_energy"] == a["energy"]
    np.testing.assert_allclose(a["virial"], -a["stress"] * atoms.get_volume(), rtol=1e-12)
    assert a["stress"].shape == (6,)


def test_calculate_all_of_what_it_can_not():
    calculator = GraphPESCalculator(painn())
    assert calculator.calculate_all([]) == []
    with pytest.raises(PropertyNotImplementedError, match=r"structure 1: .*without a volume"):
        calculator.calculate_all([bulk("Si"), molecule("H2O")], ["stress"])
    with pytest.raises(ValueError, match="can't predict \\['dipole'\\]"):
        calculator.calculate_all([molecule("H2O")], ["dipole"])
    with pytest.raises(ValueError, match="no atoms"):
        calculator.calculate_all([molecule("H2O"), ase.Atoms()])


def test_dynamics_go_on_from_the_last_frame(tmp_path: Path) -> None:
    """To the last digit, whatever the neighbour list was built for."""
    atoms = bulk("Ar", cubic=True).repeat(2)
    atoms.set_velocities(np.random.default_rng(0).normal(scale=0.02, size=(len(atoms), 3)))
    atoms.calc = smooth_argon().ase_calculator()
    with VelocityVerlet(atoms, 2 * units.fs, trajectory=str(tmp_path / "md.traj")) as md:
        md.run(20)
    frame = ase.io.read(tmp_path / "md.traj", index=10)
    assert isinstance(frame, ase.Atoms)
    frame.calc = smooth_argon().ase_calculator()
    with VelocityVerlet(frame, 2 * units.fs) as md:
        md.run(10)
    np.testing.assert_allclose(frame.positions, atoms.positions, rtol=0, atol=1e-12)
    np.testing.assert_allclose(frame.get_momenta(), atoms.get_momenta(), rtol=0, atol=1e-12)
