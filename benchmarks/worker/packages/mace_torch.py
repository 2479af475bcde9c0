"""MACE of mace-torch, as it is trained by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator
from e3nn.util import jit
from mace import data  # before e3nn, which it makes work with this torch
from mace.calculators import LAMMPS_MACE, MACECalculator
from mace.tools import AtomicNumberTable
from mace.tools.torch_geometric import Batch

from ..structures import CUTOFF
from . import Predict, made_from


class Package:
    """See the protocol."""

    def __init__(self, entry: dict[str, Any], elements: list[str], device: str, stress: bool):
        numbers = sorted(int(ase.Atoms(symbol).numbers[0]) for symbol in elements)
        self.table = AtomicNumberTable(numbers)
        known = {"numbers": numbers, "n_elements": len(numbers), "zeros": np.zeros(len(numbers))}
        self.module = made_from(entry, **known).to(device)
        self.device, self.stress = device, stress
        self._script: torch.nn.Module | None = None

    def predictor(self, structures: Sequence[ase.Atoms]) -> Predict:
        graphs = [
            data.AtomicData.from_config(
                data.config_from_atoms(atoms), z_table=self.table, cutoff=CUTOFF
            )
            for atoms in structures
        ]
        inputs = Batch.from_data_list(graphs).to(self.device).to_dict()
        if self._script is not None:
            script, own = self._script, torch.ones(len(inputs["positions"]))
            return lambda: script(dict(inputs), own, False)
        return lambda: self.module(
            dict(inputs), training=self.module.training, compute_stress=self.stress
        )

    def calculator(self) -> Calculator:
        return MACECalculator(models=self.module, device=self.device, default_dtype="float32")

    def compile(self, task: str, is_batch: bool, cache: str) -> None:
        """What ``mace_create_lammps_model`` writes, for a model that was not trained."""
        self._script = jit.script(LAMMPS_MACE(self.module.eval()))
