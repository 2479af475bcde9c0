"""Exported models of direct forces, which have no stress, in every driver."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ipi.utils.units import unit_to_internal

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.deploy import ExportedModel, export_model
from graph_pes.drivers.ase import GraphPESCalculator
from graph_pes.drivers.ipi import IPIPotential
from graph_pes.drivers.torch_sim import TorchSimModel
from graph_pes.models import Committee
from tests.direct_forces import DirectForces

# after the driver, which hides the warnings of its import
import torch_sim as ts  # isort: skip


@pytest.fixture(scope="module")
def model() -> DirectForces:
    return DirectForces().double().eval()


@pytest.fixture(scope="module")
def exported(model: DirectForces, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    path = tmp_path_factory.mktemp("direct") / "model.pt2"
    export_model(model, path, mode="portable")
    return ExportedModel(path)


@pytest.fixture
def crystal() -> ase.Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    return atoms


def test_energies_and_forces_in_ase(
    model: DirectForces, exported: ExportedModel, crystal: ase.Atoms
) -> None:
    calculator = GraphPESCalculator(exported)
    assert "stress" not in calculator.implemented_properties
    for atoms in (crystal, molecule("CH4")):
        expected = GraphPESCalculator(model).calculate_all([atoms], ["energy", "forces"])[0]
        for found in (
            {
                "energy": calculator.get_potential_energy(atoms),
                "forces": calculator.get_forces(atoms),
            },
            calculator.calculate_all([atoms])[0],
        ):
            assert set(found) == {"energy", "forces"}
            assert found["energy"] == pytest.approx(expected["energy"], abs=1e-12)
            np.testing.assert_allclose(found["forces"], expected["forces"], atol=1e-12)


def test_stress_is_not_there_in_ase(exported: ExportedModel, crystal: ase.Atoms) -> None:
    crystal.calc = calculator = GraphPESCalculator(exported)
    with pytest.raises(PropertyNotImplementedError):
        crystal.get_stress()
    for ask in (calculator.calculate, lambda atoms, keys: calculator.calculate_all([atoms], keys)):
        with pytest.raises(PropertyNotImplementedError, match="without the derivatives"):
            ask(crystal, ["stress"])
    with pytest.raises(ValueError, match=r"can't predict \['virial'\]"):
        exported.predict(None, ["virial"])  # type: ignore[arg-type]


def test_committees_lack_stress_only(tmp_path: Path) -> None:
    committee = Committee([DirectForces(), DirectForces()]).double()
    export_model(committee, tmp_path / "model.pt2", mode="portable")
    exported = ExportedModel(tmp_path / "model.pt2")
    known = committee.predictable_properties - {"stress", "virial"}
    assert exported.predictable_properties == known
    batch = to_batch([AtomicGraph.from_ase(bulk("Cu"), 3.0, dtype=torch.float64)])
    found, expected = (
        exported.predict(batch, sorted(known)),
        committee.predict(batch, sorted(known)),
    )
    torch.testing.assert_close(found, expected)


def test_torch_sim_without_stress(
    model: DirectForces, exported: ExportedModel, crystal: ase.Atoms
) -> None:
    with pytest.raises(ValueError, match="use compute_stress=False"):
        TorchSimModel(exported)
    state = ts.io.atoms_to_state([crystal, bulk("Cu")], torch.device("cpu"), torch.float64)
    found = TorchSimModel(exported, compute_stress=False)(state)
    expected = TorchSimModel(model, compute_stress=False)(state)
    assert set(found) == {"energy", "forces"}
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="use compute_stress=False"):
        TorchSimModel(exported, compute_stress=False).compute_stress = True


def test_virials_in_ipi_are_not_numbers(
    model: DirectForces, tmp_path: Path, crystal: ase.Atoms
) -> None:
    export_model(model, tmp_path / "model.pt2", mode="portable")
    crystal.write(tmp_path / "init.xyz")
    potential = IPIPotential(str(tmp_path / "init.xyz"), str(tmp_path / "model.pt2"))
    cell = unit_to_internal("length", "angstrom", crystal.cell.array.T)
    positions = unit_to_internal("length", "angstrom", crystal.positions)
    energy, forces, virial, _ = potential(cell, positions)
    crystal.calc = GraphPESCalculator(model)
    expected = crystal.get_potential_energy()
    assert energy == pytest.approx(unit_to_internal("energy", "electronvolt", expected))
    expected = unit_to_internal("force", "ev/ang", crystal.get_forces())
    np.testing.assert_allclose(forces, expected, atol=1e-9)
    assert np.isnan(virial).all()
