"""Weights, energies, forces and stress of NequIP in the package nequip, in double precision.

Run in an environment of its own, with ``pip install torch==2.13.0 nequip==0.19.1 ase``::

    python tests/references/make_nequip.py tests/references

This writes ``nequip_parity.npz`` and ``nequip_natural.npz`` into the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ase
import nequip
import numpy as np
import torch
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state
from structures import structures

ELEMENTS, CUTOFF = ["H", "C", "O", "Si"], 3.5
VARIANTS: dict[str, dict[str, Any]] = {
    "parity": {
        "num_layers": 4,
        "l_max": 1,
        "parity": True,
        "num_features": [4, 3],
        "radial_mlp_depth": 1,
        "radial_mlp_width": 6,
    },
    "natural": {
        "num_layers": 3,
        "l_max": 2,
        "parity": False,
        "num_features": [4, 3, 2],
        "radial_mlp_depth": 2,
        "radial_mlp_width": 5,
    },
}


def predictions(model: torch.nn.Module, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    data = ChemicalSpeciesToAtomTypeMapper(ELEMENTS)(NeighborListTransform(CUTOFF)(from_ase(atoms)))
    found = model(AtomicDataDict.batched_from_list([data]))
    result = {"energy": found["total_energy"].view(()), "forces": found["forces"]}
    if atoms.pbc.all():
        result["stress"] = found["stress"][0]
    return {key: value.detach().numpy() for key, value in result.items()}


def main(folder: Path) -> None:
    set_global_state(allow_tf32=False)
    for name, settings in VARIANTS.items():
        model = NequIPGNNModel(
            seed=0,
            model_dtype="float64",
            r_max=CUTOFF,
            type_names=ELEMENTS,
            num_bessels=5,
            avg_num_neighbors=7.3,
            **settings,
        ).eval()
        parameters = [(n.split("func.")[1], p) for n, p in model.named_parameters() if p.numel()]
        frozen = {f"weights.{n}": parameter.detach().numpy() for n, parameter in parameters}
        frozen["version"] = np.array(nequip.__version__)
        for n in range(settings["num_layers"]):
            layer = getattr(model.model.func, f"layer{n}_convnet")
            for key in ("irreps_in", "irreps_out"):
                frozen[f"{n}.{key}"] = np.array(str(getattr(layer, key)["node_features"]))
        for n, atoms in enumerate(structures()):
            geometry = {
                "Z": atoms.numbers,
                "R": atoms.positions,
                "cell": atoms.cell.array,
                "pbc": atoms.pbc,
            }
            values = geometry | predictions(model, atoms)
            frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
        np.savez_compressed(folder / f"nequip_{name}.npz", **frozen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
