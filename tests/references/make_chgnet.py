"""Weights, energies, forces, stress and magnetic moments of a small CHGNet, in double precision.

Run in an environment of its own, with ``pip install torch==2.13.0 chgnet==0.4.2``::

    python tests/references/make_chgnet.py tests/references/chgnet.npz

Molecules, slabs and wires are in cells that are periodic in all directions there.
"""

from __future__ import annotations

import json
import sys

import chgnet.graph.converter
import chgnet.graph.crystalgraph
import chgnet.model.model
import numpy as np
import torch
from chgnet.model import CHGNet
from chgnet.model.dynamics import CHGNetCalculator
from structures import structures

SETTINGS = {
    "atom_fea_dim": 6,
    "bond_fea_dim": 6,
    "angle_fea_dim": 6,
    "num_radial": 5,
    "num_angular": 7,
    "n_conv": 4,
    "atom_conv_hidden_dim": 5,
    "bond_conv_hidden_dim": 5,
    "mlp_hidden_dims": [7, 4],
    "atom_graph_cutoff": 4.5,
    "bond_graph_cutoff": 2.8,
    "cutoff_coeff": 6,
    "composition_model": None,
}


def made() -> CHGNet:
    torch.manual_seed(4)
    model = CHGNet(**SETTINGS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3).add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    for module in (chgnet.graph.converter, chgnet.graph.crystalgraph, chgnet.model.model):
        module.TORCH_DTYPE = torch.float64
    model = made()
    frozen = {"settings": np.array(json.dumps(model.model_args))}
    for name, value in model.state_dict().items():
        frozen[f"weights.{name}"] = value.numpy()
    calculator = CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="ignore")
    for n, atoms in enumerate(structures()):
        values = {"Z": atoms.numbers, "R": atoms.positions, "pbc": atoms.pbc}
        values["cell"] = atoms.cell.array
        periodic = atoms.copy()
        if not atoms.pbc.any():
            periodic.set_cell([20.0, 21.0, 22.0])
        periodic.pbc = True
        calculator.calculate(periodic, ["energy", "forces", "stress"], task="efsm")
        values["energy"] = np.array(calculator.results["energy"])
        values["forces"] = calculator.results["forces"]
        values["magnetic_moments"] = calculator.results["magmoms"]
        if atoms.pbc.all():
            values["stress"] = calculator.results["stress"]
        frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
