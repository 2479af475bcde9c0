from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from graph_pes import AtomicGraph
from graph_pes.atomic_graph import neighbour_distances, select_edges, to_batch
from graph_pes.models.io import load_model, save_model
from graph_pes.models.stillinger_weber import StillingerWeber, exponential_cutoff

from ..strategies import structures

ALL_TRAINED = {
    "A": (7.049556277, True),
    "B": (0.6022245584, True),
    "a": (1.8, True),
    "p": (4.0, True),
    "q": (0.0, True),
    "gamma": (1.2, True),
}


@pytest.fixture(autouse=True)
def _float64(default_dtype) -> None:
    default_dtype(torch.float64)


def silicon(**options: object) -> st.SearchStrategy[ase.Atoms]:
    return structures(elements=("Si",), min_distance=1.6, **options)  # type: ignore[arg-type]


def graph_of(atoms: ase.Atoms, model: StillingerWeber) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, model.cutoff_value)


def dimer(r: float, cutoff: float = 5.0) -> AtomicGraph:
    return AtomicGraph.from_ase(ase.Atoms("Si2", [[0, 0, 0], [0, r, 0]]), cutoff)


# --- values ----------------------------------------------------------------------------------


def test_cohesive_energy_of_silicon() -> None:
    model = StillingerWeber()
    graph = graph_of(bulk("Si", "diamond", a=5.431), model)
    assert model.predict_energy(graph).item() / 2 == pytest.approx(-2 * 2.1682, abs=1e-6)
    assert model.predict_energy(graph).item() / 2 == pytest.approx(-4.3366, abs=3e-4)
    assert model.predict_forces(graph).abs().max() < 1e-12


def test_lattice_constant_of_silicon() -> None:
    model = StillingerWeber()
    a = 4 / math.sqrt(3) * 2 ** (1 / 6) * 2.0951  # bonds of the length of the two-body minimum
    assert a == pytest.approx(5.431, abs=1e-4)
    stress = model.predict_stress(graph_of(bulk("Si", "diamond", a=a), model))
    assert stress.abs().max() < 1e-8


@pytest.mark.parametrize("make", [StillingerWeber, StillingerWeber.monatomic_water])
def test_two_body_well(make: Callable[[], StillingerWeber]) -> None:
    """A and B are such that the well is ε deep, at 2^(1/6) σ."""
    model = make()
    graph = dimer(2 ** (1 / 6) * model.sigma.item())
    energy = model.predict_energy(graph).item()
    assert energy == pytest.approx(-model.epsilon.item(), rel=1e-8)
    assert model.predict_forces(graph).abs().max() < 1e-6 * model.epsilon


def test_tetrahedra_have_no_three_body_energy() -> None:
    atoms = ase.Atoms(
        "Si5", np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    )
    atoms.positions *= 2.2 / math.sqrt(3)  # corners are 3.6 Å apart: only just not beyond reach
    weak, strong = (StillingerWeber(lambda_=value) for value in (0.0, 50.0))
    local = [m.predict_local_energies(graph_of(atoms, m)) for m in (weak, strong)]
    assert abs(local[1][0] - local[0][0]) < 1e-12
    assert (local[1][1:] - local[0][1:]).min() > 1e-9


def reference_energy(atoms: ase.Atoms, model: StillingerWeber) -> float:
    """The published sums, term by term, with images from three nested loops."""
    value = {
        name: getattr(model, name).item()
        for name in ("lambda_", "epsilon", "sigma", "A", "B", "a", "p", "q", "gamma")
    }
    sigma, cutoff = value["sigma"], value["a"] * value["sigma"]
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.complete()), axis=0)
    spread = np.ptp(atoms.get_scaled_positions(wrap=False), axis=0) if atoms.pbc.any() else 0
    images = np.where(atoms.pbc, np.ceil(cutoff / heights + spread), 0).astype(int)
    shifts = list(itertools.product(*(range(-n, n + 1) for n in images)))
    energy = 0.0
    for n, position in enumerate(atoms.positions):
        neighbours = []
        for m, other in enumerate(atoms.positions):
            for shift in shifts:
                vector = other + np.array(shift) @ atoms.cell.array - position
                r = math.sqrt(vector @ vector)
                if (m != n or any(shift)) and r < cutoff:
                    neighbours.append((r, vector))
        for r, _ in neighbours:
            phi = value["A"] * (value["B"] * (sigma / r) ** value["p"] - (sigma / r) ** value["q"])
            energy += phi * math.exp(sigma / (r - cutoff)) / 2
        for (r, v), (s, w) in itertools.combinations(neighbours, 2):
            theta = math.acos(max(-1.0, min(1.0, (v @ w) / (r * s))))
            phi = value["lambda_"] * (math.cos(theta) + 1 / 3) ** 2
            decay = value["gamma"] * sigma
            energy += phi * math.exp(decay / (r - cutoff)) * math.exp(decay / (s - cutoff))
    return value["epsilon"] * energy


@given(
    atoms=silicon(max_atoms=5),
    lambda_=st.floats(15, 30),
    sigma=st.floats(1.9, 2.3),
    gamma=st.floats(0.8, 1.5),
    q=st.sampled_from([0, 1]),
)
def test_equals_the_published_sums(
    atoms: ase.Atoms, lambda_: float, sigma: float, gamma: float, q: int
) -> None:
    model = StillingerWeber(lambda_, sigma=sigma, gamma=(gamma, False), q=(q, False))
    energy = model.predict_energy(graph_of(atoms, model)).item()
    assert energy == pytest.approx(reference_energy(atoms, model), rel=1e-10, abs=1e-10)


def test_monatomic_water() -> None:
    model = StillingerWeber.monatomic_water()
    values = (model.epsilon.item(), model.sigma.item(), model.lambda_.item())
    assert values == pytest.approx((0.268381, 2.3925, 23.15), rel=1e-14)
    assert model.cutoff_value == pytest.approx(1.8 * 2.3925)


# --- derivatives -----------------------------------------------------------------------------


@given(atoms=silicon(min_atoms=2, max_atoms=5), data=st.data())
def test_forces_are_finite_differences(atoms: ase.Atoms, data: st.DataObject) -> None:
    model, h = StillingerWeber().eval(), 1e-4
    n = data.draw(st.integers(0, len(atoms) - 1))
    force = model.predict_forces(graph_of(atoms, model))[n]
    for axis in range(3):
        energies = []
        for step in (-2, -1, 1, 2):
            moved = atoms.copy()
            moved.positions[n, axis] += step * h
            energies.append(model.predict_energy(graph_of(moved, model)).item())
        a, b, c, d = energies
        slope = (a - 8 * b + 8 * c - d) / (12 * h)
        assert force[axis].item() == pytest.approx(-slope, rel=1e-6, abs=1e-6)


@given(atoms=silicon(max_atoms=4, pbc=True))
def test_stress_is_finite_differences(atoms: ase.Atoms) -> None:
    model, h = StillingerWeber().eval(), 1e-5
    stress = model.predict_stress(graph_of(atoms, model))
    for row, column in ((0, 0), (0, 1), (2, 2)):
        energies = []
        for step in (-2, -1, 1, 2):
            strain = np.zeros((3, 3))
            strain[row, column] += step * h / 2
            strain[column, row] += step * h / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
            energies.append(model.predict_energy(graph_of(strained, model)).item())
        a, b, c, d = energies
        slope = (a - 8 * b + 8 * c - d) / (12 * h)
        expected = slope / atoms.get_volume()
        assert stress[row, column].item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_finite_around_the_cutoff(dtype: torch.dtype) -> None:
    cutoff = torch.tensor(3.77118, dtype=dtype)
    tiny = torch.finfo(dtype).eps
    steps = torch.tensor([-0.1, -1e-3, -2 * tiny, -tiny, 0, tiny, 1e-3, 0.5], dtype=dtype)
    r = (cutoff * (1 + steps)).requires_grad_()
    length = torch.tensor(2.0951, dtype=dtype, requires_grad=True)
    value = exponential_cutoff(r, length, cutoff)
    derivatives = [value]
    for _ in range(2):
        derivatives += torch.autograd.grad(derivatives[-1].sum(), [r], create_graph=True)
    derivatives += torch.autograd.grad(value.sum(), [length])
    assert all(x.isfinite().all() for x in derivatives)
    for x in derivatives[:3]:
        assert x[0] != 0
        assert torch.equal(x[4:], torch.zeros(4, dtype=dtype))


@given(step=st.floats(-1e-3, 1.0))
def test_a_dimer_about_the_cutoff(step: float) -> None:
    model = StillingerWeber()
    graph = dimer(model.cutoff_value + step)
    energy = model.predict_energy(graph)
    forces = model.predict_forces(graph)
    assert forces.isfinite().all()
    limit = 0.0 if neighbour_distances(graph)[0] >= model.cutoff else 1e-200
    assert abs(energy.item()) <= limit
    assert forces.abs().max().item() <= limit


# --- graphs ----------------------------------------------------------------------------------


@given(atoms=silicon(max_atoms=6))
def test_longer_edges_contribute_exactly_nothing(atoms: ase.Atoms) -> None:
    model = StillingerWeber()
    long = to_batch([AtomicGraph.from_ase(atoms, 5.5)])
    short = select_edges(long, neighbour_distances(long) < model.cutoff)
    assert torch.equal(model(short)["local_energies"], model(long)["local_energies"])


@given(data=st.data())
def test_a_batch_is_a_loop_also_with_triplets_found_before(data: st.DataObject) -> None:
    model = StillingerWeber()
    graphs = [graph_of(data.draw(silicon(max_atoms=4)), model) for _ in range(3)]
    keys = ["energy", "forces", "virial"]
    alone = [model.predict(g, keys) for g in graphs]
    for three_body_cutoff in (None, model.cutoff_value, model.cutoff_value + 1):
        together = model.predict(to_batch(graphs, three_body_cutoff), keys)
        for key, join in (("energy", torch.stack), ("virial", torch.stack), ("forces", torch.cat)):
            torch.testing.assert_close(
                together[key], join([x[key] for x in alone]), rtol=1e-10, atol=1e-10
            )


@pytest.mark.parametrize("n_atoms", [1, 2])
def test_atoms_without_neighbours_have_no_energy(n_atoms: int) -> None:
    model = StillingerWeber()
    graph = graph_of(ase.Atoms(f"Si{n_atoms}", [[30.0 * n, 0, 0] for n in range(n_atoms)]), model)
    assert torch.equal(model.predict_local_energies(graph), torch.zeros(n_atoms))
    assert torch.equal(model.predict_forces(graph), torch.zeros(n_atoms, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_model(dtype: torch.dtype) -> None:
    atoms = bulk("Si", a=5.6)
    atoms.rattle(0.1, seed=1)
    model = StillingerWeber().to(dtype)
    predictions = model.predict(graph_of(atoms, model), ["local_energies", "energy", "forces"])
    assert predictions["local_energies"].dtype == predictions["forces"].dtype == dtype
    expected = StillingerWeber().predict_energy(graph_of(atoms, model))
    torch.testing.assert_close(predictions["energy"], expected, rtol=1e-6, atol=0)


# --- parameters ------------------------------------------------------------------------------


def rattled_silicon() -> ase.Atoms:
    atoms = bulk("Si", a=5.431, cubic=True)
    atoms.rattle(0.3, seed=0)
    return atoms


def test_every_parameter_has_the_gradient_of_finite_differences() -> None:
    model, h = StillingerWeber(**ALL_TRAINED), 1e-6
    graph = graph_of(rattled_silicon(), model)
    model.predict_energy(graph).backward()
    assert len(list(model.parameters())) == 9
    for name, parameter in model.named_parameters():
        energies = []
        for step in (-h, h):
            with torch.no_grad():
                parameter.add_(step)
                energies.append(model.predict_energy(graph).item())
                parameter.sub_(step)
        slope = (energies[1] - energies[0]) / (2 * h)
        assert abs(slope) > 1e-3, name
        assert parameter.grad.item() == pytest.approx(slope, rel=1e-6), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_range_and_unit_of_length_are_trainable_from_the_start(dtype: torch.dtype) -> None:
    for sigma in np.linspace(1.9, 2.3, 9).tolist():  # products that round up as well as down
        model = StillingerWeber(sigma=sigma, a=(1.8, True)).to(dtype)
        model.predict_energy(graph_of(rattled_silicon(), model)).backward()
        assert model.a.grad is not None
        assert abs(model.a.grad.item()) > 0


def test_the_range_never_exceeds_what_graphs_list() -> None:
    model = StillingerWeber()
    with torch.no_grad():
        model.sigma.mul_(1.2)
    short, long = (AtomicGraph.from_ase(rattled_silicon(), c) for c in (model.cutoff_value, 6.0))
    torch.testing.assert_close(model.predict_energy(short), model.predict_energy(long))
    assert abs(model.predict_energy(dimer(model.cutoff_value - 1e-3)).item()) < 1e-150


def test_an_edge_at_the_cutoff_contributes_exactly_nothing_whatever_the_range() -> None:
    model = StillingerWeber()
    with torch.no_grad():
        model.sigma.mul_(1.05)
    energies = model(dimer(model.cutoff_value, cutoff=6.0))["local_energies"]
    assert torch.equal(energies, torch.zeros(2))


def test_the_range_shrinks_with_the_unit_of_length() -> None:
    model, other = StillingerWeber(), StillingerWeber(sigma=2.0)
    with torch.no_grad():
        model.sigma.fill_(2.0)
    graph = graph_of(rattled_silicon(), model)
    torch.testing.assert_close(
        model.predict_energy(graph), other.predict_energy(graph), rtol=1e-13, atol=0
    )


def test_trained_ones_are_parameters_and_the_others_are_not() -> None:
    trained = dict(StillingerWeber(B=(0.6, True)).named_parameters())
    assert set(trained) == {"lambda_", "epsilon", "sigma", "B"}


def test_a_number_instead_of_a_pair_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected A=\(value, trainable\), got A=7.0"):
        StillingerWeber(A=7.0)  # type: ignore[arg-type]


def test_saved_and_loaded(tmp_path) -> None:
    model = StillingerWeber(gamma=[1.3, True])  # type: ignore[arg-type]  # a list, as in YAML
    with torch.no_grad():
        model.gamma.add_(0.1)
    save_model(model, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt")
    graph = graph_of(rattled_silicon(), model)
    assert torch.equal(model.predict_energy(graph), loaded.predict_energy(graph))
    assert loaded.gamma.requires_grad
