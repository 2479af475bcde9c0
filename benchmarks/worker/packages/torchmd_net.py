"""TensorNet of TorchMD-Net, which has no stress."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import ase
import torch
from ase.calculators.calculator import Calculator
from torchmdnet.calculators import TMDNETCalculator

from . import Predict, made_from


class Package:
    """See the protocol."""

    def __init__(self, entry: dict[str, Any], elements: list[str], device: str, stress: bool):
        self.arguments = entry["args"]
        self.module = made_from(entry).to(device)
        self.device = device

    def predictor(self, structures: Sequence[ase.Atoms]) -> Predict:
        Z = torch.cat([torch.tensor(atoms.numbers) for atoms in structures]).to(self.device)
        R = torch.cat([torch.tensor(s.positions) for s in structures]).float().to(self.device)
        sizes = torch.tensor([len(atoms) for atoms in structures], device=self.device)
        batch = torch.arange(len(structures), device=self.device).repeat_interleave(sizes)
        (*_, last) = structures
        box = torch.tensor(last.cell.array).float().to(self.device) if last.pbc.any() else None

        def predict() -> dict[str, torch.Tensor]:
            energy, forces = self.module(Z, R.clone(), batch, box=box)
            return {"energy": energy, "forces": forces}

        return predict

    def calculator(self) -> Calculator:
        weights = {f"model.{key}": value for key, value in self.module.state_dict().items()}
        checkpoint = {"hyper_parameters": dict(self.arguments), "state_dict": weights}
        with tempfile.NamedTemporaryFile(suffix=".ckpt") as file:
            torch.save(checkpoint, file.name)
            neighbours = self.arguments["max_num_neighbors"]
            return TMDNETCalculator(file.name, self.device, max_num_neighbors=neighbours)
