"""PaiNN and SchNet of schnetpack."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Any

import ase
import torch
from ase.calculators.calculator import Calculator
from torch.utils.data import dataloader

dataloader.T_co = Any  # schnetpack 2.1.1 imports this name, which torch no longer has

import schnetpack as spk  # noqa: E402
from schnetpack.interfaces import AtomsConverter, SpkCalculator  # noqa: E402
from schnetpack.transform import MatScipyNeighborList  # noqa: E402

from ..structures import CUTOFF  # noqa: E402
from . import Predict, made_from  # noqa: E402


class Package:
    """See the protocol."""

    def __init__(self, entry: dict[str, Any], elements: list[str], device: str, stress: bool):
        network = made_from(entry)
        energy = spk.atomistic.Atomwise(network.n_atom_basis, output_key="energy")
        strain = [spk.atomistic.Strain()] if stress else []
        self.module = spk.model.NeuralNetworkPotential(
            network,
            input_modules=[*strain, spk.atomistic.PairwiseDistances()],
            output_modules=[energy, spk.atomistic.Forces(calc_stress=stress)],
        ).to(device)
        self.device = device

    def predictor(self, structures: Sequence[ase.Atoms]) -> Predict:
        neighbours = MatScipyNeighborList(CUTOFF)
        convert = AtomsConverter(neighbours, dtype=torch.float32, device=self.device)
        inputs = convert(list(structures))
        return lambda: self.module(dict(inputs))

    def calculator(self) -> Calculator:
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # the calculator unpickles the model
        with tempfile.NamedTemporaryFile(suffix=".pt") as file:
            torch.save(self.module, file.name)
            return SpkCalculator(
                file.name,
                neighbor_list=MatScipyNeighborList(CUTOFF),
                energy_unit="eV",
                device=self.device,
            )
