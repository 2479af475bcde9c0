"""Weights, energies, forces and stress of NequIP in graph-pes 1.0.2, in double precision.

Run in an environment of its own, with ``pip install graph-pes==1.0.2``::

    python tests/references/make_graph_pes_1_nequip.py tests/references

This writes ``graph_pes_1_nequip_<variant>.npz`` into the folder, one for each variant below.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from graph_pes.utils.nn import AtomicOneHot
from structures import structures

from graph_pes import AtomicGraph, GraphPESModel
from graph_pes.models import NequIP, ZEmbeddingNequIP

ELEMENTS = ["H", "C", "O", "Si"]
VARIANTS: dict[str, tuple[type[GraphPESModel], dict[str, Any]]] = {
    # All parities, which matter from four layers on.
    "parities": (
        NequIP,
        {
            "elements": ELEMENTS,
            "cutoff": 3.5,
            "layers": 4,
            "features": {"channels": [4, 3, 2], "l_max": 2, "use_odd_parity": True},
            "radial_features": 5,
        },
    ),
    "linear": (
        NequIP,
        {
            "elements": ELEMENTS,
            "cutoff": 3.5,
            "layers": 2,
            "features": {"node_irreps": "4x0e + 3x1o + 2x2e", "edge_irreps": "0e + 1o + 2e + 3o"},
            "self_interaction": "linear",
            "neighbour_aggregation": "constant_fixed",
            "direct_force_predictions": True,
            "radial_features": 4,
        },
    ),
    "embedded": (
        ZEmbeddingNequIP,
        {
            "Z_embed_dim": 3,
            "cutoff": 3.5,
            "layers": 3,
            "features": {"channels": 4, "l_max": 1, "use_odd_parity": False},
            "prune_last_layer": False,
            "neighbour_aggregation": "mean",
            "radial_features": 4,
        },
    ),
}


def reduced(name: str, value: np.ndarray) -> np.ndarray:
    """Only the rows of our elements, where there is one for each."""
    numbers = [1, 6, 8, 14]
    return value[numbers] if "mbedding" in name or ("scal" in name and value.shape) else value


class DoubleOneHot(AtomicOneHot):
    """Whose integers TorchScript does not take for single precision."""

    def forward(self, Z: torch.Tensor) -> torch.Tensor:
        return super().forward(Z).double()


def made(kind: type[GraphPESModel], settings: dict[str, Any]) -> GraphPESModel:
    model = kind(**settings).double()
    if "elements" in settings:
        model.Z_embedding = DoubleOneHot(settings["elements"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1.1).add_(0.1 * torch.randn_like(parameter))
            if name.endswith("aggregation.scale"):
                parameter.fill_(3.7)
        # Every layer has frequencies of its own there, one set here: make them equal.
        first, *others = [p for name, p in model.named_parameters() if "frequencies" in name]
        for other in others:
            other.copy_(first)
    return model.eval()


def predictions(model: GraphPESModel, graph: AtomicGraph, periodic: bool) -> dict[str, np.ndarray]:
    keys = ["energy", "forces"] + (["stress"] if periodic else [])
    if "forces" in model.implemented_properties:
        keys = ["energy", "forces"]
    found = {key: value.detach().numpy() for key, value in model.predict(graph, keys).items()}
    # Where there is one atom, a dimension of length one is lost there.
    return {**found, "forces": found["forces"].reshape(-1, 3)}


def main(folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    for variant, (kind, settings) in VARIANTS.items():
        torch.manual_seed(1)
        model = made(kind, settings)
        frozen = {
            f"weights.{name}": reduced(name, parameter.detach().numpy())
            for name, parameter in model.named_parameters()
        }
        for n, layer in enumerate(model.layers):
            for name in ("irreps_in", "irreps_out"):
                frozen[f"{n}.{name}"] = np.array(str(getattr(layer, name)))
        for n, atoms in enumerate(a for a in structures() if len(a) > 1):
            geometry = {
                "Z": atoms.numbers,
                "R": atoms.positions,
                "cell": atoms.cell.array,
                "pbc": atoms.pbc,
            }
            graph = AtomicGraph.from_ase(atoms, settings["cutoff"])
            values = geometry | predictions(model, graph, bool(atoms.pbc.all()))
            frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
        np.savez_compressed(folder / f"graph_pes_1_nequip_{variant}.npz", **frozen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
