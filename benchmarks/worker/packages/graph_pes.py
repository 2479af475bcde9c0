"""graph-pes, version 1 or 2; only the latter compiles, the former has TorchScript for LAMMPS."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ase
import torch
from ase.calculators.calculator import Calculator

from graph_pes.atomic_graph import AtomicGraph, to_batch

from ..structures import CUTOFF
from . import Predict, made_from


class Package:
    """See the protocol."""

    def __init__(self, entry: dict[str, Any], elements: list[str], device: str, stress: bool):
        with suppress(ImportError):  # version 2: as its drivers and commands do
            from graph_pes.memory import keep_freed_memory

            keep_freed_memory()
        self.module = made_from(entry, elements=elements).to(device)
        self.device, self.stress = device, stress
        self._predictor = self.module
        self._script: torch.nn.Module | None = None

    def predictor(self, structures: Sequence[ase.Atoms]) -> Predict:
        if self._script is not None:
            from graph_pes.utils.lammps import as_lammps_data

            (atoms,) = structures
            script, inputs = self._script, as_lammps_data(AtomicGraph.from_ase(atoms, CUTOFF))
            return lambda: script(inputs)
        batch = to_batch([AtomicGraph.from_ase(s, CUTOFF) for s in structures]).to(self.device)
        direct = "forces" in self.module.implemented_properties
        properties = ["energy", "forces", *(["stress"] if self.stress and not direct else [])]
        return lambda: self._predictor.predict(batch, properties)

    def calculator(self) -> Calculator:
        if self._predictor is self.module:
            return self.module.ase_calculator()
        calculator = self.module.ase_calculator(compile=True)
        assert type(calculator.model) is type(self._predictor)
        return calculator

    def compile(self, task: str, is_batch: bool, cache: str) -> None:
        if task == "lammps":
            self._script = self._scripted()
            return
        from graph_pes.deploy import ExportedModel, compiled
        from graph_pes.deploy.compiled_training import CompiledTraining

        if task == "training":
            logging.getLogger("graph_pes").addHandler(_WarningsAreErrors(logging.WARNING))
            self._predictor = CompiledTraining(self.module)
        else:
            self._predictor = compiled(self.module.eval())
            if not isinstance(self._predictor, ExportedModel):
                raise RuntimeError("compilation failed: the log says why")

    def _scripted(self) -> torch.nn.Module:
        """What version 1 writes for its pair style."""
        from e3nn.util import jit
        from graph_pes.utils.lammps import LAMMPSModel

        return jit.script(LAMMPSModel(self.module.eval()))


class _WarningsAreErrors(logging.Handler):
    """Models that can't be compiled run as they are, with a warning: not what is to be timed."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())
