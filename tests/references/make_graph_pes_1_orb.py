"""Weights, energies, forces and stresses of Orb in graph-pes 1.0.2, in double precision.

Run in an environment of its own, with ``pip install graph-pes==1.0.2``::

    python tests/references/make_graph_pes_1_orb.py tests/references/graph_pes_1_orb.npz
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from structures import structures

from graph_pes import AtomicGraph
from graph_pes.models import Orb

SMALL = {"channels": 6, "layers": 2, "radial_features": 3, "mlp_hidden_dim": 7, "cutoff": 3.5}
VARIANTS = {
    "direct": {},
    "conservative": {
        "conservative": True,
        "l_max": 2,
        "mlp_layers": 1,
        "edge_outer_product": False,
        "activation": "gelu",
        "norm_type": "rms",
    },
    # With smoothing, the softmax is not continuous there.
    "softmax": {
        "conservative": True,
        "l_max": 1,
        "attention_gate": "softmax",
        "distance_smoothing": False,
        "max_neighbours": 9,
    },
}
ELEMENTS = [1, 6, 8, 14]


def weights_of(model: Orb) -> dict[str, np.ndarray]:
    """The parameters under their names there; of the elements that are used."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    Zs = torch.tensor(ELEMENTS)
    for name, module in (
        ("_encoder.Z_embedding", model._encoder.Z_embedding._embeddings),
        ("scaler", model.scaler.per_element_scaling),
    ):
        (full,) = [n for n, p in model.named_parameters() if n.startswith(name)]
        del weights[full]
        weights[name] = module[Zs].detach().view(len(Zs), -1)
    return {name: value.numpy() for name, value in weights.items()}


def predictions(variant: str) -> dict[str, np.ndarray]:
    torch.manual_seed(len(variant))
    model = Orb(**SMALL, **VARIANTS[variant]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(2.0).add_(0.3 * torch.randn_like(parameter))
    model.eval()
    frozen = {f"weights.{name}": value for name, value in weights_of(model).items()}
    for n, atoms in enumerate(structures()):
        graph = AtomicGraph.from_ase(atoms, SMALL["cutoff"])
        stress = ["stress"] if atoms.pbc.all() else []
        for key, value in model.predict(graph, ["energy", "forces", *stress]).items():
            frozen[f"structure.{n}.{key}"] = value.detach().numpy()
    return {f"{variant}.{name}": value for name, value in frozen.items()}


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    settings = {name: {**SMALL, **options} for name, options in VARIANTS.items()}
    frozen = {"settings": np.array(json.dumps(settings)), "elements": np.array(ELEMENTS)}
    for n, atoms in enumerate(structures()):
        frozen |= {
            f"structure.{n}.Z": atoms.numbers,
            f"structure.{n}.R": atoms.positions,
            f"structure.{n}.cell": atoms.cell.array,
            f"structure.{n}.pbc": atoms.pbc,
        }
    for variant in VARIANTS:
        frozen |= predictions(variant)
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
