"""Drivers that evaluate batches take exported models too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.units import Bohr, Hartree

from graph_pes.deploy import export_model
from graph_pes.drivers.batches import batch_from, evaluate
from graph_pes.drivers.ipi import IPIPotential
from graph_pes.drivers.torch_sim import TorchSimModel, torch_sim
from graph_pes.models import LennardJones, Morse


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("portable") / "model.pt2"
    export_model(model(), path, mode="portable")
    return path


def model() -> Morse:
    return Morse(3.0, D=0.3, a=2.0, r0=2.3).double()


def test_exported_models(exported: Path, tmp_path: Path) -> None:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=0)
    small = bulk("Si")
    state = torch_sim.initialize_state([atoms, small], torch.device("cpu"), torch.float64)
    expected = model().torch_sim_model()(state)
    found = TorchSimModel(str(exported))(state)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9)
    atoms.write(tmp_path / "init.xyz")
    potential = IPIPotential(str(tmp_path / "init.xyz"), str(exported))
    energy, forces, _, _ = potential(atoms.cell.array.T / Bohr, atoms.positions / Bohr)
    np.testing.assert_allclose(energy * Hartree, expected["energy"][0], rtol=1e-6)
    np.testing.assert_allclose(forces * Hartree / Bohr, expected["forces"][:8], atol=1e-6)


def test_a_model_in_training_is_left_so() -> None:
    trained = LennardJones().train()
    Z, R = torch.tensor([18, 18]), torch.tensor([[0.0, 0, 0], [1.1, 0, 0]])
    none = torch.zeros(1, 3)
    batch = batch_from(Z, R, torch.zeros(1, 3, 3), none.bool(), torch.tensor([0, 0]), 5.0)
    forces = evaluate(trained, batch, ["forces"])["forces"]
    assert not forces.requires_grad
    assert trained.training
