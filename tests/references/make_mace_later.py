"""As make_mace.py, of models with the parts of the later foundation models.

Run in an environment of its own, with ``pip install torch==2.13.0 mace-torch==0.3.16``::

    python tests/references/make_mace_later.py tests/references/mace_later.npz

Each with the settings and weights that graph_pes converts: those of MACE-MP-0b (Agnesi transform,
repulsion of nuclei) and of MACE-MP-0b3 (sums that are divided by a density too), the latter with
more elements than `graph_pes.nn.mace_layers.FEW_ELEMENTS`; and those of MACE-OMOL, whose
structures are neutral.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from mace import modules
from make_mace import predictions
from structures import structures

SETTINGS: dict[str, Any] = {
    "r_max": 3.2,
    "num_bessel": 4,
    "num_polynomial_cutoff": 5,
    "max_ell": 2,
    "num_interactions": 2,
    "hidden_irreps": "2x0e + 2x1o",
    "MLP_irreps": "3x0e",
    "avg_num_neighbors": 2.3,
    "correlation": 2,
    "radial_MLP": [6, 4],
    "distance_transform": "Agnesi",
    "pair_repulsion": True,
    "heads": ["Default"],
    "apply_cutoff": True,
    "use_agnostic_product": False,
    "use_last_readout_only": False,
    "use_embedding_readout": False,
    "use_edge_irreps_first": False,
    "edge_irreps": None,
    "embedding_specs": None,
    "readout_cls": "NonLinearReadoutBlock",
}
#: Parameters that hardly matter before they are trained, all of them of MACE-OMOL.
SMALL_AT_FIRST = ("_embedding.weight", "_fn.net", "_weights.net", "beta", ".bias")
CATEGORY = {"type": "categorical", "per": "graph"}
MODELS: dict[str, dict[str, Any]] = {
    "0b": {
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "atomic_numbers": [1, 6, 8, 14],
    },
    "0b3": {
        "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
        "atomic_numbers": [1, 6, 7, 8, 9, 14],
    },
    "omol": {
        "interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock",
        "interaction_cls_first": "RealAgnosticResidualNonLinearInteractionBlock",
        "atomic_numbers": [1, 6, 8, 14],
        "apply_cutoff": False,
        "use_agnostic_product": True,
        "use_embedding_readout": True,
        "edge_irreps": "1x0e + 1x1o",
        "embedding_specs": {
            "total_charge": {**CATEGORY, "num_classes": 5, "emb_dim": 2, "offset": 2},
            "total_spin": {**CATEGORY, "num_classes": 4, "emb_dim": 3},
        },
        "readout_cls": "NonLinearBiasReadoutBlock",
    },
}


def model(settings: dict[str, Any]) -> torch.nn.Module:
    arguments = dict(settings)
    for key in ("interaction_cls", "interaction_cls_first", "readout_cls"):
        arguments[key] = getattr(modules.blocks, arguments[key])
    for key in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        if arguments[key] is not None:
            arguments[key] = modules.models.o3.Irreps(arguments[key])
    n = len(settings["atomic_numbers"])
    made = modules.ScaleShiftMACE(
        num_elements=n,
        atomic_energies=-np.arange(1.0, n + 1),
        gate=torch.nn.functional.silu,
        atomic_inter_scale=0.8,
        atomic_inter_shift=0.15,
        **arguments,
    )
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            if key.startswith("products"):  # make the many-body terms as large as the others
                parameter.mul_(2.0)
            if any(part in key for part in SMALL_AT_FIRST):
                parameter.add_(0.4 * torch.randn_like(parameter))
    return made.eval()


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    frozen: dict[str, np.ndarray] = {}
    for n, atoms in enumerate(structures()):
        values = {"Z": atoms.numbers, "R": atoms.positions, "cell": atoms.cell.array}
        frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
        frozen[f"structure.{n}.pbc"] = atoms.pbc
    for name, changes in MODELS.items():
        settings = {**SETTINGS, **changes}
        torch.manual_seed(0)
        mace = model(settings)
        frozen[f"{name}.settings"] = np.array(json.dumps(settings))
        state = mace.state_dict()
        frozen |= {f"{name}.state.{key}": value.numpy() for key, value in state.items()}
        for n, atoms in enumerate(structures()):
            for key, value in predictions(mace, atoms).items():
                frozen[f"{name}.structure.{n}.{key}"] = value
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
