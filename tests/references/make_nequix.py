"""Small models in files of nequix 0.4.5, and their energies, forces and stresses.

Run in an environment of its own, with ``pip install nequix==0.4.5``, and the file of Nequix mp-1::

    python tests/references/make_nequix.py nequix-mp-1.nqx tests/references/nequix.npz

Of mp-1, the predictions are kept, and not the weights. Everything is in double precision. nequix
leaves the images of atoms out where a structure is periodic in some directions only; here, they
are taken into account.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ase
import jax
import jax.numpy as jnp
import jraph
import numpy as np
from ase.neighborlist import neighbor_list
from nequix.model import Nequix, load_model, save_model
from structures import structures

SPECIES = [1, 6, 8, 14]
ENERGIES = [-3.5, -8.25, -7.0, -7.75]
COMMON: dict[str, Any] = {
    "cutoff": 3.5,
    "hidden_irreps": "6x0e + 4x1o + 3x2e",
    "lmax": 2,
    "n_layers": 3,
    "radial_basis_size": 4,
    "radial_mlp_size": 5,
    "radial_polynomial_p": 6.0,
    "mlp_init_scale": 4.0,
    "avg_n_neighbors": 7.3,
    "shift": 0.2,
    "scale": 0.8,
}
MODELS = {
    # the choices of mp-1, and the others
    "norm": {"layer_norm": True, "index_weights": False, "radial_mlp_layers": 2},
    "indexed": {"layer_norm": False, "index_weights": True, "radial_mlp_layers": 1},
}


def in_double_precision(model: Nequix) -> Nequix:
    return jax.tree.map(lambda x: x.astype(jnp.float64), model)


def made(name: str) -> tuple[Nequix, dict[str, Any]]:
    """A model with random weights and scales, and its configuration."""
    config = {**COMMON, **MODELS[name]}
    key = jax.random.key(0)
    model = Nequix(key, n_species=len(SPECIES), atom_energies=ENERGIES, **config)
    leaves, tree = jax.tree.flatten(in_double_precision(model))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    # not the energies of atoms, which come first
    leaves[1:] = [x + 0.2 * jax.random.normal(k, x.shape) for k, x in pairs][1:]
    config["atomic_numbers"] = SPECIES
    config["atom_energies"] = dict(zip(map(str, SPECIES), ENERGIES, strict=True))
    return jax.tree.unflatten(tree, leaves), config


def graph_of(atoms: ase.Atoms, numbers: list[int], cutoff: float) -> jraph.GraphsTuple:
    """With a large cell where there is none, and as many atoms and edges as all others."""
    i, j, shifts = neighbor_list("ijS", atoms, cutoff)
    cell = atoms.cell.array if atoms.cell.rank == 3 else np.eye(3) * 100.0
    graph = jraph.GraphsTuple(
        n_node=np.array([len(atoms)]),
        n_edge=np.array([len(i)]),
        nodes={
            "species": np.array([numbers.index(Z) for Z in atoms.numbers]),
            "positions": atoms.positions,
        },
        edges={"shifts": shifts.astype(float)},
        senders=j,
        receivers=i,
        globals={"cell": cell[None]},
    )
    sizes = [len(neighbor_list("i", x, cutoff)) for x in structures()]
    most = max(len(x) for x in structures())
    return jraph.pad_with_graphs(graph, n_node=most + 1, n_edge=max(sizes) + 1, n_graph=2)


def predictions(model: Nequix, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Of all structures."""
    found, call = {}, jax.jit(lambda graph: model(graph))
    for n, atoms in enumerate(structures()):
        graph = graph_of(atoms, sorted(config["atomic_numbers"]), config["cutoff"])
        energy, forces, stress = call(graph)
        found[f"structure.{n}.energy"] = np.array(energy[0])
        found[f"structure.{n}.forces"] = np.array(forces[: len(atoms)])
        if atoms.pbc.all():
            found[f"structure.{n}.stress"] = np.array(stress[0])
        print(n, float(energy[0]), energy.dtype, flush=True)
    return found


def main(weights: str, path: str) -> None:
    published, settings = load_model(weights)
    jax.config.update("jax_enable_x64", True)
    frozen: dict[str, np.ndarray] = {}
    for n, atoms in enumerate(structures()):
        values = {"Z": atoms.numbers, "R": atoms.positions, "cell": atoms.cell.array}
        frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
        frozen[f"structure.{n}.pbc"] = atoms.pbc
    for name in MODELS:
        model, config = made(name)
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.nqx"
            save_model(str(file), model, config)
            frozen[f"{name}.file"] = np.frombuffer(file.read_bytes(), dtype=np.uint8)
        found = predictions(model, json.loads(json.dumps(config)))
        frozen |= {f"{name}.{key}": value for key, value in found.items()}
    found = predictions(in_double_precision(published), settings)
    frozen |= {f"nequix-mp-1.{key}": value for key, value in found.items()}
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(*sys.argv[1:])
