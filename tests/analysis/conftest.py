"""Structures whose labels differ from a model's predictions by known errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from graph_pes import AtomicGraph
from graph_pes.models import PaiNN


@dataclass(frozen=True)
class Labelled:
    """A model, and structures labelled with prediction minus error (E per atom, F, σ)."""

    model: PaiNN
    graphs: list[AtomicGraph]
    energy_errors: np.ndarray
    force_errors: list[np.ndarray]
    stress_errors: dict[int, np.ndarray]


def predictions(model: PaiNN, atoms: Atoms) -> dict[str, torch.Tensor]:
    graph = AtomicGraph.from_ase(atoms, model.cutoff_value, dtype=torch.float64)
    keys = ["energy", "forces"] + ["stress"] * bool(atoms.pbc.all())
    return model.eval().predict(graph, keys)


@pytest.fixture
def labelled() -> Labelled:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = PaiNN(channels=4, radial_features=4, layers=2, cutoff=3.0).double()
    structures = [molecule("H2O"), bulk("SiC", "zincblende", a=4.3), molecule("CH4"), bulk("Si")]
    graphs, energy_errors, force_errors, stress_errors = [], [], [], {}
    for n, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=n)
        predicted = predictions(model, atoms)
        energy_errors.append(rng.normal())
        force_errors.append(rng.normal(size=(len(atoms), 3)))
        atoms.info["energy"] = predicted["energy"].item() - len(atoms) * energy_errors[-1]
        atoms.arrays["forces"] = predicted["forces"].numpy() - force_errors[-1]
        if "stress" in predicted:
            error = rng.normal(size=(3, 3))
            stress_errors[n] = error + error.T
            atoms.info["stress"] = predicted["stress"].numpy() - stress_errors[n]
        graphs.append(AtomicGraph.from_ase(atoms, cutoff=4.0, dtype=torch.float64))
    model.train()
    return Labelled(model, graphs, np.array(energy_errors), force_errors, stress_errors)
