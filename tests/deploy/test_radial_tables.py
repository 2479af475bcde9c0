"""Tables give what networks of the distance gave."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import ase
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.deploy import ExportedModel, export_model
from graph_pes.deploy.engine import EngineModel
from graph_pes.deploy.export import DEFAULT_TABLE_TOLERANCES
from graph_pes.deploy.radial_tables import with_radial_tables
from graph_pes.deploy.trace import example_inputs
from graph_pes.models import FixedOffset, GraphPESModel, LennardJones, SchNet
from graph_pes.models.addition import AdditionModel
from graph_pes.nn.radial_table import RadialTable, values_and_slopes
from tests.conformance.models import MODELS
from tests.strategies import structure_lists

CUTOFF = 4.0
TABULATED = ("PaiNN", "SchNet", "NequIP", "ZEmbeddingNequIP", "MACE", "ZEmbeddingMACE")
TABULATED += ("MACE-density", "TensorNet")


def exact_model(name: str) -> GraphPESModel:
    torch.manual_seed(3)
    (row,) = (row for row in MODELS if row.name == name)
    return row.factory().double().eval()


@pytest.mark.parametrize("name", TABULATED)
def test_models_predict_the_same_with_tables(name: str) -> None:
    model = exact_model(name)
    tabulated, report = with_radial_tables(model, 1e-7)
    assert report is not None
    assert 0 < report.error <= 1e-7
    assert any(isinstance(module, RadialTable) for module in tabulated.modules())
    assert not any(isinstance(module, RadialTable) for module in model.modules())

    # errors are relative to what atoms in a crowd, as tables are made for, have at most
    energies, gradients = EngineModel(model)(*example_inputs(model, 61, 23))
    largest = float(gradients.abs().max())
    scales = {
        "local_energies": float(energies.abs().max()),
        "forces": largest,
        "virial": CUTOFF * largest,
    }

    @settings(deadline=None, max_examples=10)
    @example([ase.Atoms("O", cell=[[0, 0, 0], [0, 0, 0], [-1.12, 2.27, 2.98]], pbc=[0, 0, 1])])
    @example([ase.Atoms("O2", [[0, 0, 0], [0, 0, 0.6]])])
    @given(structure_lists(elements=("H", "C", "O")))
    def check(structures: list[ase.Atoms]) -> None:
        batch = to_batch([AtomicGraph.from_ase(s, CUTOFF, dtype=torch.float64) for s in structures])
        found, expected = (m.predict(batch, list(scales)) for m in (tabulated, model))
        for key, scale in scales.items():
            scale = max(float(expected[key].abs().max()), scale)
            torch.testing.assert_close(found[key], expected[key], rtol=0, atol=3e-7 * scale)

    check()


@pytest.mark.parametrize("name", ["PaiNN", "SchNet", "NequIP", "TensorNet"])
def test_forces_are_derivatives_of_the_tabulated_energy(name: str) -> None:
    tabulated, _ = with_radial_tables(exact_model(name), 1e-4)  # coarse: far from the model's
    torch.manual_seed(0)
    atoms = ase.Atoms("HCOH", 1.6 * torch.rand(4, 3).numpy() + [[0, 0, n] for n in range(4)])

    def energy_and_forces(structure: ase.Atoms) -> tuple[float, torch.Tensor]:
        graph = AtomicGraph.from_ase(structure, CUTOFF, dtype=torch.float64)
        predictions = tabulated.predict(graph, ["energy", "forces"])
        return float(predictions["energy"]), predictions["forces"]

    _, forces = energy_and_forces(atoms)
    step = 1e-5
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(energy_and_forces(moved)[0])
        slope = (energies[0] - energies[1]) / (2 * step)
        assert float(forces[atom, axis]) == pytest.approx(-slope, rel=1e-6, abs=1e-8)


def smooth(r: torch.Tensor) -> torch.Tensor:
    """Functions that end smoothly at 4 Å."""
    x = (1 - r / CUTOFF).clamp(min=0) ** 3
    return torch.stack([x * torch.sin(3 * r), x * torch.exp(-r)], dim=1)


@settings(deadline=None)
@given(st.floats(0, 6), st.sampled_from([64, 100]))
def test_tables_interpolate_values_and_slopes(r: float, intervals: int) -> None:
    table = RadialTable(smooth, intervals, CUTOFF)
    x = torch.tensor([r], dtype=torch.float64)
    value, slope = values_and_slopes(table, x)
    expected, expected_slope = values_and_slopes(smooth, x)
    h = CUTOFF / intervals
    # the largest fourth derivative of the functions is below 200
    torch.testing.assert_close(value, expected, rtol=0, atol=200 * h**4 / 384)
    torch.testing.assert_close(slope, expected_slope, rtol=0, atol=200 * h**3 / 24)


@given(st.integers(1, 64))
def test_tables_have_no_kinks(knot: int) -> None:
    table = RadialTable(smooth, 64, CUTOFF)
    at = knot * CUTOFF / 64
    sides = torch.tensor([math.nextafter(at, 0), at], dtype=torch.float64)
    value, slope = values_and_slopes(table, sides)
    torch.testing.assert_close(value[0], value[1], rtol=0, atol=1e-13)
    torch.testing.assert_close(slope[0], slope[1], rtol=0, atol=1e-12)


def test_tables_are_zero_from_the_cutoff_on_and_never_out_of_range() -> None:
    table = RadialTable(smooth, 64, CUTOFF).float()
    r = torch.tensor([CUTOFF, 4.0001, 1e6], requires_grad=True)
    values = table(r)
    assert torch.equal(values, torch.zeros(3, 2))
    (slope,) = torch.autograd.grad(values.sum(), r)
    assert torch.equal(slope, torch.zeros(3))
    assert table(torch.tensor([math.nan])).isnan().all()  # rather than an invalid index


def test_finer_tables_are_better() -> None:
    model = exact_model("SchNet")
    coarse, fine = (with_radial_tables(model, tolerance)[1] for tolerance in (1e-4, 1e-9))
    assert coarse is not None
    assert fine is not None
    assert coarse.intervals < fine.intervals
    assert fine.error < coarse.error


def test_energies_of_free_atoms_do_not_hide_errors() -> None:
    network = exact_model("SchNet")
    with_offset = AdditionModel(network=network, offset=FixedOffset(H=1e9, C=1e9, O=1e9))
    alone, both = (with_radial_tables(m, 1e-6)[1] for m in (network, with_offset))
    assert alone is not None
    assert both is not None
    assert both.energy_error == pytest.approx(alone.energy_error, rel=0.9, abs=1e-6)
    assert both.intervals == alone.intervals


def test_without_need_there_are_no_tables(caplog: pytest.LogCaptureFixture) -> None:
    network = SchNet(cutoff=CUTOFF, channels=4, layers=1).double()
    assert with_radial_tables(network, 0) == (network, None)
    simple = LennardJones(cutoff=CUTOFF).double()
    assert with_radial_tables(simple, 1e-6) == (simple, None)
    with caplog.at_level(logging.WARNING, "graph_pes"):
        assert with_radial_tables(network, 1e-17) == (network, None)
    assert "SchNet runs without radial tables" in caplog.text


def test_files_say_how_exact_their_tables_are(tmp_path: Path) -> None:
    model = SchNet(cutoff=CUTOFF, channels=4, layers=1).float()
    metadata = export_model(model, tmp_path / "model.pt2", mode="portable")
    assert metadata.radial_tables.startswith("4 functions, ")
    assert ExportedModel(tmp_path / "model.pt2").metadata == metadata


def test_networks_that_depend_on_elements_have_no_tables(tmp_path: Path) -> None:
    model = exact_model("MACE-Agnesi")
    assert with_radial_tables(model, 1e-6) == (model, None)
    metadata = export_model(model.float(), tmp_path / "model.pt2", mode="portable")
    assert metadata.radial_tables == "none"
    atoms = ase.Atoms("OHCH", [[0, 0, 0], [0.9, 0.2, 0], [-0.3, 1.3, 0.1], [0.2, 0, 2.9]])
    graph = to_batch([AtomicGraph.from_ase(atoms, CUTOFF)])
    found = ExportedModel(tmp_path / "model.pt2").predict(graph, ["energy", "forces"])
    for key, value in model.predict(graph, ["energy", "forces"]).items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5)


def test_files_in_double_precision_have_no_tables_unless_asked_for() -> None:
    assert DEFAULT_TABLE_TOLERANCES[torch.float32] == 1e-6
    assert DEFAULT_TABLE_TOLERANCES[torch.float64] == 0
