"""Weights, energies, forces and stress of TensorNet in graph-pes 1.0.2, in double precision.

Run in an environment of its own, with ``pip install graph-pes==1.0.2``::

    python tests/references/make_graph_pes_1_tensornet.py \
        tests/references/graph_pes_1_tensornet.npz
"""

from __future__ import annotations

import sys

import ase
import numpy as np
import torch
from ase.build import bulk, molecule

from graph_pes import AtomicGraph
from graph_pes.models import TensorNet

SETTINGS = {"cutoff": 3.5, "radial_features": 5, "channels": 4, "layers": 2}
ELEMENTS = [1, 6, 8, 14]


def structures() -> list[ase.Atoms]:
    rng = np.random.default_rng(0)
    skewed = ase.Atoms("COH2", rng.uniform(0, 3, (4, 3)), pbc=True)
    skewed.cell = [[4.0, 0.3, 0.0], [1.5, 3.6, -0.2], [-0.7, 1.1, 4.4]]
    slab = ase.Atoms("SiOC", [[0, 0, 0], [1.6, 0.2, 0.4], [0.2, 1.7, -0.3]], pbc=[1, 1, 0])
    slab.cell = [[2.9, 0, 0], [0.8, 3.1, 0], [0, 0, 12.0]]
    molecules = [molecule(name) for name in ("CH3CH2OH", "CO2", "H2O2", "SiH4", "C6H6")]
    found = [*molecules, bulk("Si", cubic=True), bulk("Si"), bulk("C"), skewed, slab]
    for atoms in found:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    return found


def weights_of(model: TensorNet) -> dict[str, torch.Tensor]:
    weights = {
        name: value
        for name, value in model.named_parameters()
        if not name.endswith(("_embeddings", "per_element_scaling"))
    }
    elements = torch.tensor(ELEMENTS)
    weights["elements"] = model.embedding.edge_embedding.z_embedding._embeddings[elements]
    weights["scales"] = model.scaler.per_element_scaling[elements].flatten()
    return weights


def radial_bases(model: TensorNet) -> list[torch.nn.Module]:
    return [m for m in model.modules() if type(m).__name__ == "ExponentialRBF"]


def frozen_case(direct: bool) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    model = TensorNet(**SETTINGS, direct_force_predictions=direct)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2).add_(0.1 * torch.randn_like(parameter))
        # Every layer has a basis of its own there, one set here: make them equal.
        first, *others = radial_bases(model)
        for other in others:
            other.load_state_dict(first.state_dict())
    model.eval()
    case = {f"weights.{k}": v.detach().numpy() for k, v in weights_of(model).items()}
    for n, atoms in enumerate(structures()):
        graph = AtomicGraph.from_ase(atoms, SETTINGS["cutoff"])
        keys = ["energy", "forces"] + (["stress"] if atoms.cell.rank == 3 and not direct else [])
        predicted = model.predict(graph, keys)
        case |= {f"structure.{n}.{key}": value.detach().numpy() for key, value in predicted.items()}
    return case


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    frozen = {name: np.array(value) for name, value in SETTINGS.items()}
    frozen["Zs"] = np.array(ELEMENTS)
    for name, direct in (("conservative", False), ("direct", True)):
        frozen |= {f"{name}.{key}": value for key, value in frozen_case(direct).items()}
    for n, atoms in enumerate(structures()):
        values = {"Z": atoms.numbers, "R": atoms.positions, "cell": atoms.cell.array}
        values["pbc"] = atoms.pbc
        frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
