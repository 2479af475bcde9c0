"""Weights, energies and forces of PaiNN in graph-pes 1.0.2, in double precision.

Run in an environment of its own, with ``pip install graph-pes==1.0.2``::

    python tests/references/make_graph_pes_1_painn.py tests/references/graph_pes_1_painn.npz
"""

from __future__ import annotations

import sys

import ase
import numpy as np
import torch
from ase.build import bulk, molecule

from graph_pes import AtomicGraph
from graph_pes.models import PaiNN

SETTINGS = {"channels": 4, "radial_features": 5, "layers": 3, "cutoff": 3.5}
ELEMENTS = [1, 6, 8, 14]


def structures() -> list[ase.Atoms]:
    rng = np.random.default_rng(0)
    silicon = bulk("Si", cubic=True)
    skewed = ase.Atoms("COH2", rng.uniform(0, 3, (4, 3)), pbc=True)
    skewed.cell = [[4.0, 0.3, 0.0], [1.5, 3.6, -0.2], [-0.7, 1.1, 4.4]]
    slab = ase.Atoms("SiOC", [[0, 0, 0], [1.6, 0.2, 0.4], [0.2, 1.7, -0.3]], pbc=[1, 1, 0])
    slab.cell = [[2.9, 0, 0], [0.8, 3.1, 0], [0, 0, 12.0]]
    found = [molecule("CH3CH2OH"), molecule("CO2"), silicon, skewed, slab]
    for atoms in found:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    return found


def weights_of(model: PaiNN) -> dict[str, torch.Tensor]:
    weights = {
        "z_embedding": model.z_embedding._embeddings[torch.tensor(ELEMENTS)],
        "scales": model.scaler.per_element_scaling[torch.tensor(ELEMENTS)].flatten(),
        "frequencies": frequencies(model)[0],
    }
    layers = {"read_out": model.read_out}
    for n, (interaction, update) in enumerate(zip(model.interactions, model.updates, strict=True)):
        filters = interaction.filter_generator
        weights[f"{n}.filters.weight"] = find(filters, "weight")
        weights[f"{n}.filters.bias"] = find(filters, "bias")
        weights[f"{n}.U"] = update.U._linear.weight
        weights[f"{n}.V"] = update.V._linear.weight
        layers[f"{n}.phi"] = interaction.Phi
        layers[f"{n}.a"] = update.mlp
    for name, mlp in layers.items():
        for m, layer in enumerate(mlp.linear_layers):
            weights[f"{name}.{m}.weight"] = layer.weight
            weights[f"{name}.{m}.bias"] = layer.bias
    return weights


def find(module: torch.nn.Module, ending: str) -> torch.Tensor:
    (found,) = [p for name, p in module.named_parameters() if name.endswith(ending)]
    return found


def frequencies(model: PaiNN) -> list[torch.Tensor]:
    return [find(i.filter_generator, "frequencies") for i in model.interactions]


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    model = PaiNN(**SETTINGS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2).add_(0.1 * torch.randn_like(parameter))
        # Every layer has frequencies of its own there, one set here: make them equal.
        first, *others = frequencies(model)
        for other in others:
            other.copy_(first)
    model.eval()
    frozen = {name: value.detach().numpy() for name, value in weights_of(model).items()}
    frozen |= {name: np.array(value) for name, value in SETTINGS.items()}
    frozen["elements"] = np.array(ELEMENTS)
    frozen["structures"] = np.array(len(structures()))
    for n, atoms in enumerate(structures()):
        graph = AtomicGraph.from_ase(atoms, SETTINGS["cutoff"])
        predicted = model.predict(graph, ["energy", "forces"])
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
