"""Weights, energies, forces and stresses of MACE in graph-pes 1.0.2, in double precision.

Run in an environment of its own, with ``pip install graph-pes==1.0.2``, after make_mace.py::

    python tests/references/make_graph_pes_1_mace.py tests/references/graph_pes_1_mace.npz

Two small models: ``MACE`` with vectors among the hidden features and three layers, and
``ZEmbeddingMACE`` without vectors. The couplings that the package comes with are rounded to
single precision; they are replaced by the exact ones, which mace.npz has.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ase
import numpy as np
import torch
from structures import structures

from graph_pes import AtomicGraph
from graph_pes.models import MACE, ZEmbeddingMACE

SETTINGS = {
    "cutoff": 3.2,
    "n_radial": 5,
    "channels": 3,
    "l_max": 3,
    "correlation": 3,
    "readout_width": 4,
}
RADIAL = {"hidden_depth": 2, "hidden_features": 6}
ELEMENTS = [14, 1, 8, 6]
MODELS = {
    "elements": lambda **settings: MACE(
        elements=["Si", "H", "O", "C"], hidden_irreps="0e + 1o", layers=3, **settings
    ),
    "embedding": lambda **settings: ZEmbeddingMACE(
        z_embed_dim=2, hidden_irreps="0e", layers=2, **settings
    ),
}


class Double(torch.nn.Module):
    """One-hot vectors are single precision there, whatever the precision of the model."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module

    def forward(self, Z: torch.Tensor) -> torch.Tensor:
        return self.module(Z).double()


def model(name: str) -> torch.nn.Module:
    made = MODELS[name](**SETTINGS, weights_mlp={**RADIAL, "activation": "SiLU"})
    exact = np.load(Path(__file__).with_name("mace.npz"))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.2).add_(0.1 * torch.randn_like(parameter))
        for layer in made.layers:
            layer.interaction.aggregator.scale.fill_(2.3)
            for m, contraction in enumerate(layer.contractions):
                for part in [contraction.initial_contraction, *contraction.weight_contractions]:
                    # Shape (2L + 1, d, ..., d, paths).
                    order = part.U.dim() - 2
                    U = torch.from_numpy(exact[f"U.{m}.{order}"]).view_as(part.U)
                    assert (U - part.U).abs().max() < 1e-6
                    part.U.copy_(U)
    made.node_attribute_generator = Double(made.node_attribute_generator)
    return made.eval()


def weights_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """By their names there; of tables of elements only the rows that are used."""
    weights = {}
    for name, parameter in model.named_parameters():
        if parameter.shape[:1] == (119,):
            parameter = parameter[ELEMENTS]
        weights[name] = parameter.detach().numpy()
    return weights


def predictions(model: torch.nn.Module, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    graph = AtomicGraph.from_ase(atoms, SETTINGS["cutoff"])
    keys = ["energy", "forces"] + (["stress"] if atoms.pbc.all() and len(atoms) > 1 else [])
    return {key: value.detach().numpy() for key, value in model.predict(graph, keys).items()}


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    frozen: dict[str, np.ndarray] = {k: np.array(v) for k, v in {**SETTINGS, **RADIAL}.items()}
    frozen |= {"elements": np.array(ELEMENTS), "structures": np.array(len(structures()))}
    for n, atoms in enumerate(structures()):
        values = {"Z": atoms.numbers, "R": atoms.positions, "cell": atoms.cell.array}
        frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
        frozen[f"structure.{n}.pbc"] = atoms.pbc
    for name in MODELS:
        torch.manual_seed(0)
        mace = model(name)
        frozen |= {f"{name}.{key}": value for key, value in weights_of(mace).items()}
        for n, atoms in enumerate(structures()):
            for key, value in predictions(mace, atoms).items():
                frozen[f"{name}.structure.{n}.{key}"] = value
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
