from __future__ import annotations

import json

import ase
import numpy as np
import pytest
import torch

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.interfaces.mattersim_weights import native_m3gnet
from graph_pes.models import AdditionModel, FixedOffset, M3GNet
from tests.conformance.models import randomised

from .transplant import REFERENCES, Frozen, assert_agrees, relative_errors


def state_of_mattersim(frozen: Frozen) -> dict[str, torch.Tensor]:
    start = "weights."
    return {
        k.removeprefix(start): torch.tensor(v) for k, v in frozen.items() if k.startswith(start)
    }


def transplanted(frozen: Frozen, dtype: torch.dtype) -> AdditionModel:
    settings, state = json.loads(str(frozen["settings"])), state_of_mattersim(frozen)
    network, energies = native_m3gnet(settings, state)
    return AdditionModel(network=network, offset=FixedOffset(**energies)).to(dtype).eval()


@pytest.fixture
def frozen() -> Frozen:
    return dict(np.load(REFERENCES / "mattersim.npz"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_same_as_mattersim(frozen: Frozen, dtype: torch.dtype) -> None:
    assert_agrees(transplanted(frozen, dtype), frozen, {"energy", "forces", "stress"})


def test_every_parameter_matters(frozen: Frozen) -> None:
    """So that the comparison would notice if one was copied to the wrong place."""
    model = transplanted(frozen, torch.float64)
    for name, parameter in model["network"].named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(1.01)
        assert max(relative_errors(model, frozen).values()) > 1e-6, name
        with torch.no_grad():
            parameter.copy_(before)


def bent(angle: float) -> AtomicGraph:
    """An atom with two others, which are too far from each other to be neighbours."""
    c, s = np.cos(angle), np.sin(angle)
    atoms = ase.Atoms("OH2", [[0, 0, 0], [0.7, 0, 0], [0.8 * c, 0.8 * s, 0]])
    return AtomicGraph.from_ase(atoms, 1.05, dtype=torch.float64)


def test_angles_matter() -> None:
    """Where all distances between neighbours are the same, up to the three-body cutoff.

    Functions of degree zero are the same at all angles.
    """
    small, large = bent(1.6), bent(2.2)
    assert small.neighbour_list.shape == large.neighbour_list.shape == (2, 4)
    for three_body_cutoff, l_max, matters in ((1.0, 1, True), (1.0, 0, False), (0.75, 2, False)):
        torch.manual_seed(0)
        model = M3GNet(1.05, three_body_cutoff, channels=6, layers=1, l_max=l_max)
        model = randomised(model.double(), 2.0)
        energies = [model.predict_energy(graph).item() for graph in (small, large)]
        assert (abs(energies[0] - energies[1]) > 1e-6) == matters


@pytest.mark.parametrize("angle", [0.0, np.pi, np.pi - 1e-9])
def test_atoms_on_a_line(angle: float) -> None:
    """Forces are finite, and along the line; energies have no cusp there."""
    model = randomised(M3GNet(5.0, channels=6, layers=2).double())
    atoms = ase.Atoms("OH2", [[0, 0, 0], [1.0, 0, 0], [1.7 * np.cos(angle), 0, 0]])

    def energy(y: float) -> float:
        moved = atoms.copy()
        moved.positions[2, 1] = y
        graph = AtomicGraph.from_ase(moved, 5.0, dtype=torch.float64)
        return model.predict_energy(graph).item()

    forces = model.predict_forces(AtomicGraph.from_ase(atoms, 5.0, dtype=torch.float64))
    assert torch.isfinite(forces).all()
    assert forces[:, 0].abs().max() > 1e-3
    assert forces[:, 1:].abs().max() < 1e-10
    step = 1e-4
    assert abs(energy(step) - 2 * energy(0.0) + energy(-step)) < 10 * step**2


def test_arguments() -> None:
    with pytest.raises(ValueError, match="at most the cutoff, 3.0 Å, got 4.0 Å"):
        M3GNet(cutoff=3.0)
    with pytest.raises(ValueError, match="got 0 Å"):
        M3GNet(three_body_cutoff=0)
    with pytest.raises(ValueError, match="layers of at least 1, got 0"):
        M3GNet(layers=0)
    with pytest.raises(ValueError, match="l_max of at least 0, got -1"):
        M3GNet(l_max=-1)
    with pytest.raises(ValueError, match="at least one channel"):
        M3GNet(channels=0)
    with pytest.raises(ValueError, match="at least one radial function"):
        M3GNet(radial_features=0)
