"""Orb of orb-models; conservative models always compute stress, direct ones do not here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import torch
from ase.calculators.calculator import Calculator
from orb_models.forcefield.atomic_system import SystemConfig, ase_atoms_to_atom_graphs
from orb_models.forcefield.base import batch_graphs
from orb_models.forcefield.calculator import ORBCalculator

from ..structures import CUTOFF
from . import Predict, made_from


class Package:
    """See the protocol."""

    def __init__(self, entry: dict[str, Any], elements: list[str], device: str, stress: bool):
        self.module = made_from(entry).to(device)
        self.device = device
        self.system = SystemConfig(radius=CUTOFF, max_num_neighbors=120)

    def predictor(self, structures: Sequence[ase.Atoms]) -> Predict:
        graphs = [
            ase_atoms_to_atom_graphs(atoms, self.system, device=self.device) for atoms in structures
        ]
        batch = batch_graphs(graphs)
        direct = "forces" in self.module.heads
        key = "forces" if direct else "grad_forces"

        def predict() -> dict[str, torch.Tensor]:
            with torch.set_grad_enabled(self.module.training or not direct):
                found = self.module.predict(batch.clone())
            return {"energy": found["energy"], "forces": found[key]}

        return predict

    def calculator(self) -> Calculator:
        return ORBCalculator(self.module, system_config=self.system, device=self.device)
