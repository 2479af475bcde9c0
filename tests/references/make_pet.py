"""Weights, energies, forces and stresses of small PETs of metatrain, in double precision.

Run in an environment of its own, with ``pip install torch==2.13.0 upet==0.3.1``::

    python tests/references/make_pet.py tests/references/metatrain_pet.npz
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from metatrain.pet import PET
from metatrain.utils.architectures import get_default_hypers
from metatrain.utils.data import DatasetInfo
from metatrain.utils.data.target_info import get_energy_target_info
from structures import structures
from upet.ase import UPETCalculator

ELEMENTS = [1, 6, 8, 14]
SIZES = {
    "d_pet": 6,
    "d_head": 4,
    "d_node": 8,
    "d_feedforward": 5,
    "num_heads": 2,
    "num_attention_layers": 1,
}
#: How the networks differ from what metatrain makes by default.
VARIANTS = {
    "default": {},
    "adaptive": {"cutoff": 5.5, "num_neighbors_adaptive": 5},
    "older": {
        "cutoff_function": "Cosine",
        "transformer_type": "PostLN",
        "normalization": "LayerNorm",
        "activation": "SiLU",
        "featurizer_type": "residual",
        "num_neighbors_adaptive": 6,
        "adaptive_cutoff_method": "grid",
        "d_node": SIZES["d_pet"],
    },
}


def make(hypers: dict) -> PET:
    torch.manual_seed(0)
    target = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"})
    info = DatasetInfo(length_unit="Angstrom", atomic_types=ELEMENTS, targets={"energy": target})
    model = PET({**get_default_hypers("pet")["model"], **SIZES, **hypers}, info).double().eval()
    with torch.no_grad():
        for parameter in model.backend.parameters():
            parameter.mul_(1.5).add_(0.2 * torch.randn_like(parameter))
    return model


def main() -> None:
    warnings.simplefilter("ignore")
    frozen: dict[str, np.ndarray] = {}
    for variant, hypers in VARIANTS.items():
        model = make(hypers)
        plain = {**model.hypers, "long_range": None}
        frozen[f"{variant}.hypers"] = np.array(json.dumps(plain))
        for key, x in model.backend.state_dict().items():
            frozen[f"{variant}.weights.{key}"] = x.numpy()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pet-small-s-v1.0.0.ckpt"
            torch.save({**model.get_checkpoint(), "epoch": 0, "best_epoch": 0}, path)
            calculator = UPETCalculator(checkpoint_path=path, dtype=torch.float64, device="cpu")
        for n, atoms in enumerate(structures()):
            at = f"structure.{n}."
            frozen |= {f"{at}Z": atoms.numbers, f"{at}R": atoms.positions}
            frozen |= {f"{at}cell": atoms.cell.array, f"{at}pbc": atoms.pbc}
            atoms.calc = calculator
            found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            if atoms.pbc.all():
                found["stress"] = atoms.get_stress(voigt=False)
            for key, value in found.items():
                frozen[f"{variant}.{at}{key}"] = np.array(value)
    np.savez_compressed(sys.argv[1], **frozen)


if __name__ == "__main__":
    main()
