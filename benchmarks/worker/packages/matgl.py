"""TensorNet of MatGL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import torch
from ase.calculators.calculator import Calculator
from matgl.apps._pes_pyg import Potential
from matgl.ext._ase_pyg import Atoms2Graph, PESCalculator
from torch_geometric.data import Batch

from ..structures import CUTOFF
from . import Predict, made_from


class Package:
    """See the protocol."""

    def __init__(self, entry: dict[str, Any], elements: list[str], device: str, stress: bool):
        network = made_from(entry, elements=tuple(elements))
        self.module = Potential(network, calc_stresses=stress).to(device)
        self.device = device
        self.convert = Atoms2Graph(tuple(elements), CUTOFF)

    def predictor(self, structures: Sequence[ase.Atoms]) -> Predict:
        found = [self.convert.get_graph(atoms) for atoms in structures]
        graph = Batch.from_data_list([g for g, _, _ in found]).to(self.device)
        lattices = torch.cat([lattice for _, lattice, _ in found]).to(self.device)
        state = torch.tensor(found[0][2], device=self.device)

        def predict() -> dict[str, torch.Tensor]:
            energy, forces, *_ = self.module(graph.clone(), lattices, state)
            return {"energy": energy, "forces": forces}

        return predict

    def calculator(self) -> Calculator:
        return PESCalculator(self.module, stress_unit="eV/A3", use_voigt=True)
