"""NequIP of nequip, eager or by AOTInductor; it always computes stress where there is a cell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase
import torch
from ase.calculators.calculator import Calculator
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from nequip.model.inference_models import load_compiled_model
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
from nequip.utils.aot import aot_export_model
from nequip.utils.aoti_metadata import (
    NEQUIP_AOTI_INPUTS_KEY,
    NEQUIP_AOTI_OUTPUTS_KEY,
    serialize_aoti_keys,
)
from nequip.utils.global_state import get_latest_global_state, set_global_state

from ..structures import CUTOFF, structures_of
from . import Predict, made_from


class Package:
    """See the protocol."""

    def __init__(self, entry: dict[str, Any], elements: list[str], device: str, stress: bool):
        set_global_state(allow_tf32=False)
        self.module = made_from(entry, elements=elements).to(device)
        self.device, self.elements = device, elements
        self.transforms = [
            ChemicalSpeciesToAtomTypeMapper(elements),
            NeighborListTransform(CUTOFF),
        ]
        self._name = json.dumps([version("nequip"), torch.__version__, device, elements, entry])
        self._compiled: Path | None = None
        self._predict = self.module

    def _data(self, atoms: ase.Atoms) -> dict[str, torch.Tensor]:
        data = from_ase(atoms)
        for transform in self.transforms:
            data = transform(data)
        return data

    def predictor(self, structures: Sequence[ase.Atoms]) -> Predict:
        data = [self._data(atoms) for atoms in structures]
        inputs = AtomicDataDict.batched_from_list(data) if len(data) > 1 else data[0]
        inputs = AtomicDataDict.to_(inputs, self.device)

        def predict() -> dict[str, torch.Tensor]:
            found = self._predict(dict(inputs))
            return {"energy": found["total_energy"], "forces": found["forces"]}

        return predict

    def calculator(self) -> Calculator:
        if self._compiled is not None:
            return NequIPCalculator.from_compiled_model(self._compiled, device=self.device)
        return NequIPCalculator(self.module, self.device, transforms=self.transforms)

    def compile(self, task: str, is_batch: bool, cache: str) -> None:
        target = COMPILE_TARGET_DICT["batch" if is_batch else "ase"]
        name = hashlib.sha256(f"{self._name} {is_batch}".encode()).hexdigest()[:32]
        self._compiled = Path(cache) / f"{name}.nequip.pt2"
        if not self._compiled.is_file():
            self._compiled.parent.mkdir(parents=True, exist_ok=True)
            self._export(target)
        keys = (list(target["input"]), list(target["output"]))
        self._predict, _ = load_compiled_model(str(self._compiled), self.device, *keys)

    def _export(self, target: dict[str, Any]) -> None:
        """What ``nequip-compile`` does, for a model that was not trained."""
        metadata = {**self.module.metadata, **get_latest_global_state(only_metadata_related=True)}
        metadata[NEQUIP_AOTI_INPUTS_KEY] = serialize_aoti_keys(target["input"])
        metadata[NEQUIP_AOTI_OUTPUTS_KEY] = serialize_aoti_keys(target["output"])
        strings = {k: str(int(v) if isinstance(v, bool) else v) for k, v in metadata.items()}
        dims = {
            key: torch.export.Dim(name, min=2)
            for key, name in (("graph", "frames"), ("node", "nodes"), ("edge", "edges"))
        }
        (example,) = structures_of("Si:64")
        example.symbols[:] = (self.elements * len(example))[: len(example)]
        data = AtomicDataDict.to_(
            AtomicDataDict.batched_from_list([self._data(example)]), self.device
        )
        aot_export_model(
            model=self.module.eval(),
            device=self.device,
            input_fields=target["input"],
            output_fields=target["output"],
            data=target["data_settings"](data),
            batch_map=target["batch_map_settings"](dims),
            output_path=str(self._compiled),
            inductor_configs={"aot_inductor.metadata": strings},
        )
