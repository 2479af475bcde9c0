from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones as ASELennardJones
from hypothesis import given
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, neighbour_vectors, to_batch
from graph_pes.models import (
    AdditionModel,
    FixedOffset,
    GraphPESModel,
    LearnableOffset,
    LennardJones,
    Morse,
    StillingerWeber,
    UnitConverter,
    load_model,
    save_model,
)
from tests.strategies import periodic_structures, structures

KCAL_MOL, BOHR, NM = 0.0433641, 0.529177, 10.0
SIGMA, EPSILON, RC = 1.3, 0.02, 3.1  # Å and eV
PROPERTIES = ["energy", "forces", "virial"]


@pytest.fixture(autouse=True)
def _double_precision(default_dtype: Callable[[torch.dtype], None]) -> None:
    """Parameters in other units are other numbers: do not round them."""
    default_dtype(torch.float64)


def in_other_units(energy: float, length: float) -> UnitConverter:
    """The same Lennard-Jones potential, whatever the units."""
    inner = LennardJones.from_ase(
        sigma=SIGMA / length, epsilon=EPSILON / energy, rc=RC / length, ro=2.0 / length, smooth=True
    )
    return UnitConverter(inner, energy, length).eval()


def graph_of(atoms: ase.Atoms, cutoff: float = RC) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for key, value in expected.items():
        scale = 1 + value.abs().max().item()
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("energy", [1.0, KCAL_MOL])
@pytest.mark.parametrize("length", [BOHR, NM])
@given(atoms=periodic_structures(min_distance=0.9, max_atoms=5))
def test_against_ase(energy: float, length: float, atoms: ase.Atoms) -> None:
    atoms.calc = ASELennardJones(sigma=SIGMA, epsilon=EPSILON, rc=RC, ro=2.0, smooth=True)
    model = in_other_units(energy, length)
    predicted = model.predict(graph_of(atoms), ["energy", "forces", "stress"])
    expected = {
        "energy": torch.tensor(atoms.get_potential_energy(), dtype=torch.float64),
        "forces": torch.from_numpy(atoms.get_forces()),
        "stress": torch.from_numpy(atoms.get_stress(voigt=False)),
    }
    assert_same(predicted, expected)


def test_ase_in_its_own_units() -> None:
    """ASE's calculator, in nm and kcal/mol too: energy, forces and stress have three units."""
    atoms = bulk("Ar", a=2.2, cubic=True)
    atoms.rattle(0.1, seed=0)
    predicted = in_other_units(KCAL_MOL, NM).predict(
        graph_of(atoms), ["energy", "forces", "stress"]
    )
    atoms.set_cell(atoms.cell / NM, scale_atoms=True)
    atoms.calc = ASELennardJones(
        sigma=SIGMA / NM, epsilon=EPSILON / KCAL_MOL, rc=RC / NM, ro=2.0 / NM, smooth=True
    )
    for found, expected, unit in (
        (predicted["energy"], atoms.get_potential_energy(), KCAL_MOL),
        (predicted["forces"], atoms.get_forces(), KCAL_MOL / NM),
        (predicted["stress"], atoms.get_stress(voigt=False), KCAL_MOL / NM**3),
    ):
        np.testing.assert_allclose(found, np.asarray(expected) * unit, rtol=1e-9, atol=1e-9)


@given(atoms=structures(min_distance=0.9))
def test_in_a_sum_and_in_itself(atoms: ase.Atoms) -> None:
    plain = in_other_units(1.0, 1.0)
    # eV and Å, seen in kcal/mol and nm, seen in eV and Å again
    there_and_back = UnitConverter(UnitConverter(plain, 1 / KCAL_MOL, 1 / NM), KCAL_MOL, NM)
    total = AdditionModel(
        a=in_other_units(KCAL_MOL, NM),
        b=UnitConverter(AdditionModel(c=in_other_units(KCAL_MOL, BOHR)), 2.0, 1.0),
        d=there_and_back,
    ).eval()
    graph = graph_of(atoms, 4.0)
    expected = plain.predict(graph, PROPERTIES)
    for given_graph in (graph, to_batch([graph])):
        found = total.predict(given_graph, PROPERTIES)
        shaped = {key: value.view_as(expected[key]) for key, value in found.items()}
        assert_same(shaped, {key: 4 * value for key, value in expected.items()})


def test_cutoffs() -> None:
    model = UnitConverter(StillingerWeber(), KCAL_MOL, BOHR)
    assert model.cutoff_value == pytest.approx(StillingerWeber().cutoff_value * BOHR)
    assert float(model.three_body_cutoff) == pytest.approx(model.cutoff_value)


@pytest.mark.parametrize("three_body_cutoff", [None, 1.5, 4.0])
@pytest.mark.parametrize("length", [0.5, 2.0, NM])
def test_triplets_that_were_found_before(length: float, three_body_cutoff: float | None) -> None:
    """Triplets up to a distance in Å are not taken for ones up to as many of another unit."""
    silicon = bulk("Si")
    silicon.rattle(0.1, seed=0)
    plain = StillingerWeber().eval()
    scaled = StillingerWeber(sigma=2.0951 / length)
    model = UnitConverter(scaled, 1.0, length).eval()
    graph = to_batch([graph_of(silicon, 4.0)], three_body_cutoff)
    assert_same(model.predict(graph, PROPERTIES), plain.predict(graph, PROPERTIES))


class Spy(GraphPESModel):
    """Remembers the graph that it is given."""

    def __init__(self) -> None:
        super().__init__(0.4, ["local_energies"])

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        self.seen = graph
        return {"local_energies": 0 * graph.R.sum(-1)}


def test_all_lengths_are_in_units_of_the_model() -> None:
    spy, graph = Spy(), graph_of(bulk("Cu"), 4.0)
    UnitConverter(spy, 1.0, NM).predict_energy(graph)
    torch.testing.assert_close(spy.seen.R, graph.R / NM)
    torch.testing.assert_close(spy.seen.cell[0], graph.cell / NM)
    torch.testing.assert_close(neighbour_vectors(spy.seen), neighbour_vectors(graph) / NM)
    assert spy.seen.cutoff == pytest.approx(0.4)


class Direct(GraphPESModel):
    """Predicts everything directly, 1 in its own units."""

    def __init__(self) -> None:
        direct = ["energy", "forces", "stress", "virial", "dipole", "polarizability", "charges"]
        super().__init__(3.0, ["local_energies", *direct])

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        N, S = len(graph.Z), len(graph.cell)
        shapes = {"local_energies": (N,), "energy": (S,), "forces": (N, 3), "dipole": (S, 3)}
        shapes |= dict.fromkeys(("stress", "virial", "polarizability"), (S, 3, 3))
        return {key: torch.ones(shapes.get(key, (N,))) for key in self.implemented_properties}


def test_direct_predictions() -> None:
    model = UnitConverter(Direct(), energy_to_eV=3.0, length_to_A=2.0)
    predicted = model.predict(graph_of(bulk("Cu"), 6.0), model.implemented_properties)
    assert {key: value.unique().item() for key, value in predicted.items()} == {
        "local_energies": 3.0,
        "energy": 3.0,
        "virial": 3.0,
        "forces": 1.5,
        "stress": 0.375,
        "dipole": 2.0,
        "polarizability": 4.0,
        "charges": 1.0,
    }


def test_pre_fit_is_in_units_of_the_model() -> None:
    graph = graph_of(molecule("H2"), 5.0)
    graph.properties["energy"] = torch.tensor(-30.0, dtype=torch.float64)
    offset = LearnableOffset()
    UnitConverter(offset, KCAL_MOL, NM).pre_fit_all_components([graph])
    assert offset.offsets["H"].item() == pytest.approx(-15 / KCAL_MOL, rel=1e-4)
    morse = Morse(cutoff=0.5)
    model = AdditionModel(morse=UnitConverter(morse, 1.0, NM), fixed=FixedOffset())
    model.pre_fit_all_components([graph])
    bond = float(np.linalg.norm(np.diff(molecule("H2").positions, axis=0)))
    # Its r0 is 0.1 above the bond, in its own unit of length.
    assert morse.r0.item() == pytest.approx(bond / NM + 0.1, rel=1e-5)


def test_graphs_are_left_as_they_are() -> None:
    graph = to_batch([graph_of(bulk("Si"), 4.0)], three_body_cutoff=3.0)
    before = {key: value.clone() for key, value in graph.other.items()}
    R, cell = graph.R.clone(), graph.cell.clone()
    in_other_units(KCAL_MOL, NM).predict(graph, PROPERTIES)
    assert torch.equal(graph.R, R)
    assert torch.equal(graph.cell, cell)
    assert graph.other.keys() == before.keys()
    assert all(torch.equal(graph.other[key], value) for key, value in before.items())


def test_files(tmp_path: Path) -> None:
    model, graph = in_other_units(KCAL_MOL, NM), graph_of(molecule("CH4"))
    save_model(model, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt").eval()
    for key, value in model.predict(graph, PROPERTIES).items():
        assert torch.equal(loaded.predict(graph, PROPERTIES)[key], value)


@pytest.mark.parametrize("units", [(0.0, 1.0), (1.0, -1.0)])
def test_impossible_units(units: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"UnitConverter: expected \w+ > 0, got (0|-1)"):
        UnitConverter(Morse(), *units)
