"""Weights, energies, forces and stresses of sevenn 0.13.0.

Run in an environment of its own, with ``pip install torch==2.13.0 sevenn==0.13.0``::

    python tests/references/make_sevennet.py tests/references/sevennet.npz

Two small models: with the envelope and self-connections of SevenNet-0, and with those of l3i5 and
of the paper of NequIP. sevenn works in single precision only.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ase
import numpy as np
import torch
from ase.neighborlist import neighbor_list
from sevenn.model_build import build_E3_equivariant_model
from structures import structures

NODES = "4x0e+3x1e+2x2e"
COMMON: dict[str, Any] = {
    "chemical_species": ["C", "H", "O", "Si"],
    "_number_of_species": 4,
    "_type_map": {6: 0, 1: 1, 8: 2, 14: 3},
    "irreps_manual": ["4x0e", NODES, NODES, "4x0e"],
    "channel": 4,
    "lmax": 2,
    "lmax_edge": -1,
    "lmax_node": -1,
    "is_parity": False,
    "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 5},
    "cutoff": 3.5,
    "num_convolution_layer": 3,
    "weight_nn_hidden_neurons": [6, 6],
    "use_bias_in_linear": False,
    "readout_as_fcn": False,
    "readout_fcn_hidden_neurons": None,
    "readout_fcn_activation": None,
    "act_radial": "silu",
    "act_scalar": {"e": "silu", "o": "tanh"},
    "act_gate": {"e": "silu", "o": "tanh"},
    "_normalize_sph": True,
    "_model_type": "E3_equivariant_model",
    "interaction_type": "nequip",
    "conv_denominator": 3.1,
    "train_denominator": False,
    "train_shift_scale": False,
    "shift": [-0.3, 0.2, -0.5, 0.1],
    "scale": [1.3, 0.9, 1.1, 1.2],
    "version": "0.13.0",
}
MODELS = {
    "xplor": {
        "cutoff_function": {"cutoff_function_name": "XPLOR", "cutoff_on": 3.0},
        "self_connection_type": "linear",
    },
    "polynomial": {
        "cutoff_function": {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6},
        "self_connection_type": "nequip",
    },
}


def in_double_precision(module: torch.nn.Module, args: Any, data: dict) -> dict:
    for key in ("x", "node_attr"):
        data[key] = data[key].double()
    return data


def made(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A model and its configuration."""
    torch.manual_seed(0)
    config = {**COMMON, **MODELS[name]}
    model = build_E3_equivariant_model(config).double().eval()
    model.onehot_idx_to_onehot.register_forward_hook(in_double_precision)
    return model, config


def predictions(model: torch.nn.Module, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    i, j, vectors = neighbor_list("ijD", atoms, COMMON["cutoff"])
    data = {
        "atomic_numbers": torch.tensor(atoms.numbers),
        "edge_index": torch.tensor(np.stack([i, j])),
        "edge_vec": torch.tensor(vectors),
        "num_atoms": torch.tensor([len(atoms)]),
        "cell_volume": torch.tensor([atoms.get_volume() if atoms.pbc.all() else 0.0]).double(),
        "batch": torch.zeros(len(atoms), dtype=torch.long),
    }
    found = {key: x.detach().numpy() for key, x in model(data).items()}
    values = {"energy": found["inferred_total_energy"][0], "forces": found["inferred_force"]}
    if atoms.pbc.all():
        # minus the stress, in another order of components than ASE's
        xx, yy, zz, xy, yz, xz = -found["inferred_stress"][0]
        values["stress"] = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return values


def main(path: str) -> None:
    frozen: dict[str, np.ndarray] = {"structures": np.array(len(structures()))}
    for n, atoms in enumerate(structures()):
        values = {"Z": atoms.numbers, "R": atoms.positions, "cell": atoms.cell.array}
        frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
        frozen[f"structure.{n}.pbc"] = atoms.pbc
    for name in MODELS:
        model, config = made(name)
        pairs = [[key, sorted(x.items())] for key, x in config.items() if key == "_type_map"]
        plain = {**config, "_type_map": pairs[0][1]}
        frozen[f"{name}.settings"] = np.array(json.dumps(plain))
        weights = {k: v for k, v in model.state_dict().items() if "weight" in k or "w3j" in k}
        weights |= {k: v for k, v in model.named_parameters() if v.numel() > 0}
        frozen |= {f"{name}.{k}": v.detach().numpy() for k, v in weights.items() if v.numel()}
        for n, atoms in enumerate(structures()):
            for key, value in predictions(model, atoms).items():
                frozen[f"{name}.structure.{n}.{key}"] = value
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
