"""Weights, energies, forces and stresses of EDDP in graph-pes 1.0.2, in double precision.

Run in an environment of its own, with ``pip install graph-pes==1.0.2``::

    python tests/references/make_graph_pes_1_eddp.py tests/references/graph_pes_1_eddp.npz
"""

from __future__ import annotations

import sys

import ase
import numpy as np
import torch
from ase.build import molecule

from graph_pes import AtomicGraph
from graph_pes.models import EDDP

SETTINGS = {
    "cutoff": 4.0,
    "features": 4,
    "max_power": 6.0,
    "mlp_width": 5,
    "mlp_layers": 2,
    "three_body_cutoff": 3.2,
    "three_body_features": 3,
    "three_body_max_power": 5.0,
}
# Not in order of their atomic numbers, which decide on the order of features there.
ELEMENTS = ["O", "H", "C"]


def structures() -> list[ase.Atoms]:
    rng = np.random.default_rng(0)
    skewed = ase.Atoms("COH2", rng.uniform(0, 3, (4, 3)), pbc=True)
    skewed.cell = [[4.0, 0.3, 0.0], [1.5, 3.6, -0.2], [-0.7, 1.1, 4.4]]
    slab = ase.Atoms("HOC", [[0, 0, 0], [1.6, 0.2, 0.4], [0.2, 1.7, -0.3]], pbc=[1, 1, 0])
    slab.cell = [[2.9, 0, 0], [0.8, 3.1, 0], [0, 0, 12.0]]
    one_atom = ase.Atoms("C", pbc=True, cell=[[1.9, 1.8, 0], [0.1, 2.0, 1.7], [1.8, 0, 1.9]])
    names = ("CH3CH2OH", "CO2", "C6H6", "H2O", "CH3OH", "CH4")
    found = [*map(molecule, names), skewed, slab, one_atom]
    for atoms in found:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    return found


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    model = EDDP(ELEMENTS, learnable_powers=True, **SETTINGS).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2).add_(0.1 * torch.randn_like(parameter))
    model.eval()
    frozen = {name: value.detach().numpy() for name, value in model.named_parameters()}
    frozen |= {name: np.array(value) for name, value in SETTINGS.items()}
    frozen["elements"] = np.array(ELEMENTS)
    frozen["structures"] = np.array(len(structures()))
    for n, atoms in enumerate(structures()):
        graph = AtomicGraph.from_ase(atoms, SETTINGS["cutoff"])
        stress = ["stress"] if atoms.pbc.all() else []
        predicted = model.predict(graph, ["energy", "forces", *stress])
        values = {
            "Z": atoms.numbers,
            "R": atoms.positions,
            "cell": atoms.cell.array,
            "pbc": atoms.pbc,
            **{key: value.detach().numpy() for key, value in predicted.items()},
        }
        frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
