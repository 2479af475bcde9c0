"""Compiled models see the same neighbours at every step as if they were found anew."""

from __future__ import annotations

from collections.abc import Callable

import ase
import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet
from hypothesis import assume, given
from hypothesis import strategies as st

from graph_pes.atomic_graph import trim_edges
from graph_pes.deploy import ExportedModel, export_model
from graph_pes.deploy.engine import MIN_COLUMNS, engine_inputs
from graph_pes.drivers import GraphPESCalculator, ReusableNeighbourList
from graph_pes.drivers.kept_matrix import KeptMatrix
from graph_pes.models import (
    AdditionModel,
    FixedOffset,
    GraphPESModel,
    LennardJones,
    SmoothedPairPotential,
)
from tests.drivers.test_reuse import bare_graph, changed, displacements, strains
from tests.strategies import seeds, structures

CUTOFF, SKIN = 3.0, 1.0


def edges(vectors: torch.Tensor, neighbours: torch.Tensor) -> list[set[tuple[float, ...]]]:
    """Neighbours and vectors of each atom, in any order, without what fills up the matrix."""
    near = vectors.norm(dim=-1) <= CUTOFF
    return [
        {(int(n), *map(float, v.round(decimals=9))) for n, v in zip(j[k], r[k], strict=True)}
        for j, r, k in zip(neighbours, vectors, near, strict=True)
    ]


@given(structures(max_atoms=6), seeds, strains, displacements)
def test_neighbours_are_those_of_a_new_list(atoms, seed, strain, displacement):
    """Of one structure after another, in which neighbours come and go."""
    kept = KeptMatrix(ReusableNeighbourList.build(bare_graph(atoms), CUTOFF, SKIN), torch.float64)
    for n, factor in enumerate((0.0, 1.0, 1.0, 0.3)):
        graph = bare_graph(changed(atoms, seed + n // 2, factor * strain, factor * displacement))
        assume(kept.list.is_complete_for(graph))
        fresh = ReusableNeighbourList.build(graph, CUTOFF, 0.0)
        found = kept.inputs(graph)
        expected = engine_inputs(trim_edges(fresh.batch, CUTOFF), torch.float64)
        assert edges(found.vectors, found.neighbours) == edges(
            expected.vectors, expected.neighbours
        )
        lengths = found.vectors.norm(dim=-1)
        own = torch.arange(len(atoms)).unsqueeze(1).expand_as(lengths)
        assert torch.equal(found.neighbours[lengths > 100], own[lengths > 100])
        # no wider than it must be
        most = int((lengths <= CUTOFF * 1.0001).sum(1).max())
        assert found.vectors.shape[1] == max(MIN_COLUMNS, most)


# --- dynamics ---------------------------------------------------------------------------------


Models = tuple[GraphPESModel, ExportedModel]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A model, and the same without Python."""
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    pair = SmoothedPairPotential(LennardJones(cutoff=4.0, epsilon=0.05, sigma=2.2))
    model = AdditionModel(pair=pair, offset=FixedOffset(C=-3.0, Si=-2.0, Ar=-1.0)).double()
    export_model(model, path, mode="portable")
    return model, ExportedModel(path)


def compare(found: GraphPESCalculator, fresh: GraphPESCalculator, atoms: ase.Atoms) -> None:
    names = ["energy", "energies", "forces", *["stress"] * bool(atoms.pbc.all())]
    for name in names:
        expected = fresh.get_property(name, atoms)
        value = found.get_property(name, atoms)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-10)


def add(atoms: ase.Atoms) -> None:
    atoms.append(ase.Atom("C", atoms.positions[0] + [0.9, 0.8, 1.0]))


CHANGES: dict[str, Callable[[ase.Atoms], object]] = {
    "moved": lambda a: a.rattle(0.02, seed=1),
    "moved again": lambda a: a.rattle(0.1, seed=2),
    "sheared": lambda a: a.set_cell(a.cell.array @ [[1, 0.05, 0], [0, 1.02, 0], [0, 0, 0.98]]),
    "compressed": lambda a: a.set_cell(0.97 * a.cell.array, scale_atoms=True),
    "an atom more": add,
    "two atoms less": lambda a: a.__delitem__([0, 3]),
    "another element": lambda a: a.set_atomic_numbers([6, *a.numbers[1:]]),
    "wrapped": lambda a: a.wrap(),
    "a slab": lambda a: a.set_pbc([True, True, False]),
    "a molecule": lambda a: a.set_pbc(False),
    "no cell": lambda a: a.set_cell(None),
    "one atom": lambda a: a.__delitem__(slice(1, None)),
}


def test_results_are_those_of_a_fresh_calculation_whatever_changes(models: Models) -> None:
    model, exported = models
    atoms = bulk("SiC", "zincblende", a=4.0, cubic=True)
    found, fresh = GraphPESCalculator(exported), GraphPESCalculator(model, skin=0.0)
    for change in CHANGES.values():
        compare(found, fresh, atoms)
        change(atoms)
    compare(found, fresh, atoms)
    assert 0 < found.cache_hit_rate < 1


@given(structures(max_atoms=6, min_distance=1.0), seeds, st.sampled_from([0.0, 0.03, 0.1]))
def test_walks_through_cells_and_positions(models, atoms, seed, amplitude):
    model, exported = models
    rng = np.random.default_rng(seed)
    found, fresh = GraphPESCalculator(exported), GraphPESCalculator(model, skin=0.0)
    for _ in range(4):
        compare(found, fresh, atoms)
        F = np.eye(3) + amplitude * rng.uniform(-1, 1, (3, 3))
        atoms.set_cell(atoms.cell.array @ F)
        atoms.positions = atoms.positions @ F + amplitude * rng.normal(size=(len(atoms), 3))


@pytest.mark.parametrize("ensemble", ["NVE", "NPT"])
def test_dynamics(models: Models, ensemble: str) -> None:
    """At every step of a run in which neighbours, and with a barostat the cell, change."""
    model, exported = models
    atoms = bulk("Ar", a=3.6, cubic=True) * (2, 2, 2)
    atoms.calc = GraphPESCalculator(exported, skin=0.5)
    fresh, steps = GraphPESCalculator(model, skin=0.0), []
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.normal(0, 1.5, (len(atoms), 3)))
    if ensemble == "NVE":
        md = VelocityVerlet(atoms, 5 * units.fs)
    else:
        options = {"tdamp": 100 * units.fs, "pdamp": 200 * units.fs}
        md = IsotropicMTKNPT(atoms, 5 * units.fs, temperature_K=300, pressure_au=0.01, **options)
    volume = atoms.get_volume()
    md.attach(lambda: steps.append(compare(atoms.calc, fresh, atoms)), interval=2)
    md.run(60)
    assert len(steps) == 31
    assert (abs(atoms.get_volume() / volume - 1) > 0.01) == (ensemble == "NPT")
    assert 0.3 < atoms.calc.cache_hit_rate < 1
