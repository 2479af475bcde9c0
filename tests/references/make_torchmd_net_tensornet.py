"""Weights, energies and forces of the TensorNet of TorchMD-Net 3.1.0, in double precision.

Run in an environment of its own, with ``pip install torch==2.13.0 torchmd-net==3.1.0 ase``::

    python tests/references/make_torchmd_net_tensornet.py \
        tests/references/torchmd_net_tensornet.npz

Its kernels are switched off: some of their constants are in single precision, and with the group
SO(3) they transpose one of its matrices. Cells are as wide as that package wants them, twice the
cutoff. It predicts no stress.
"""

from __future__ import annotations

import sys

import ase
import numpy as np
import torch
from ase.build import molecule
from torchmdnet.models import tensornet
from torchmdnet.models.model import create_model

SETTINGS = {"cutoff": 2.6, "radial_features": 5, "channels": 4, "layers": 2}
ELEMENTS = [1, 6, 8, 14]
CASES = {"O(3)": ("O(3)", 0), "SO(3)": ("SO(3)", 0), "charged": ("O(3)", -2)}


def structures() -> list[ase.Atoms]:
    rng = np.random.default_rng(0)
    names = ("CH3CH2OH", "CO2", "H2O2", "SiH4", "C6H6", "H", "CH3CHO")
    found = [molecule(name) for name in names]
    for cell in (
        [[5.3, 0, 0], [1.1, 5.6, 0], [-0.9, 1.3, 5.9]],
        [[5.4, 0, 0], [0, 5.4, 0], [0, 0, 5.4]],
    ):
        bulk = ase.Atoms("Si2O4C3H3", cell=cell, pbc=True)
        grid = np.stack(np.meshgrid(range(2), range(2), range(3)), -1).reshape(-1, 3)
        bulk.set_scaled_positions(grid / [2, 2, 3])
        found.append(bulk)
    for atoms in found:
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    return found


def original(group: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = create_model(
        {
            "model": "tensornet",
            "embedding_dimension": SETTINGS["channels"],
            "num_layers": SETTINGS["layers"],
            "num_rbf": SETTINGS["radial_features"],
            "rbf_type": "expnorm",
            "trainable_rbf": True,
            "activation": "silu",
            "cutoff_lower": 0.0,
            "cutoff_upper": SETTINGS["cutoff"],
            "max_z": 15,
            "max_num_neighbors": 64,
            "equivariance_invariance_group": group,
            "precision": 64,
            "prior_model": None,
            "atom_filter": -1,
            "derivative": True,
            "output_model": "Scalar",
            "reduce_op": "sum",
        }
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0).add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def without_kernels() -> None:
    tensornet.OPT = False
    for name in ("compose_tensor", "decompose_tensor", "tensor_matmul_o3", "tensor_matmul_so3"):
        setattr(tensornet, name, getattr(tensornet, f"_{name}"))


def main(path: str) -> None:
    without_kernels()
    torch.set_default_dtype(torch.float64)
    frozen = {name: np.array(value) for name, value in SETTINGS.items()}
    frozen["Zs"] = np.array(ELEMENTS)
    for name, value in original("O(3)").named_parameters():
        rows = ELEMENTS if name.endswith("emb.weight") else slice(None)
        frozen[f"weights.{name}"] = value.detach()[rows].numpy()
    for n, atoms in enumerate(structures()):
        values = {"Z": atoms.numbers, "R": atoms.positions, "cell": atoms.cell.array}
        values["pbc"] = atoms.pbc
        frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
    for case, (group, charge) in CASES.items():
        model = original(group)
        for n, atoms in enumerate(structures()):
            energy, forces = model(
                torch.tensor(atoms.numbers),
                torch.tensor(atoms.positions),
                box=torch.tensor(atoms.cell.array) if atoms.pbc.any() else None,
                q=torch.tensor([float(charge)]),
            )
            frozen[f"{case}.structure.{n}.energy"] = energy.detach().numpy().reshape(())
            frozen[f"{case}.structure.{n}.forces"] = forces.detach().numpy()
        frozen[f"{case}.charge"] = np.array(charge)
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
