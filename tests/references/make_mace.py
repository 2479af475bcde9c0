"""Weights, energies, forces and stresses of mace-torch 0.3.16, in double precision.

Run in an environment of its own, with ``pip install torch==2.13.0 mace-torch==0.3.16``::

    python tests/references/make_mace.py tests/references/mace.npz

Four small models: with and without vectors among the hidden features, each with the first layer
of ``MACE`` as published (conditioned on the element of the central atom), and with that of the
present defaults of mace-torch (a residual connection in all layers).
"""

from __future__ import annotations

import sys

import ase
import numpy as np
import torch
from mace import data, modules
from mace.tools import AtomicNumberTable
from mace.tools.torch_geometric import Batch
from structures import structures

CUTOFF = 3.2
ELEMENTS = [1, 6, 8, 14]
FIRST = {
    "mixed": modules.RealAgnosticInteractionBlock,
    "residual": modules.RealAgnosticResidualInteractionBlock,
}
MODELS = {
    f"L{L}_{first}": (cls, irreps, first)
    for first, cls in (("mixed", modules.MACE), ("residual", modules.ScaleShiftMACE))
    for L, irreps in ((0, "3x0e"), (1, "3x0e + 3x1o"))
}
SETTINGS = {
    "channels": 3,
    "cutoff": CUTOFF,
    "n_radial": 5,
    "l_max": 3,
    "layers": 2,
    "correlation": 3,
    "readout_width": 4,
    "hidden_depth": 2,
    "hidden_features": 6,
    "average_neighbours": 2.3,
    "scale": 0.8,
    "shift": 0.15,
}


def model(name: str) -> torch.nn.Module:
    cls, irreps, first = MODELS[name]
    scaling = {"atomic_inter_scale": SETTINGS["scale"], "atomic_inter_shift": SETTINGS["shift"]}
    made = cls(
        r_max=CUTOFF,
        num_bessel=SETTINGS["n_radial"],
        num_polynomial_cutoff=5,
        max_ell=SETTINGS["l_max"],
        interaction_cls=modules.RealAgnosticResidualInteractionBlock,
        interaction_cls_first=FIRST[first],
        num_interactions=SETTINGS["layers"],
        num_elements=len(ELEMENTS),
        hidden_irreps=modules.models.o3.Irreps(irreps),
        MLP_irreps=modules.models.o3.Irreps(f"{SETTINGS['readout_width']}x0e"),
        atomic_energies=np.array([-1.1, -3.7, -4.9, -2.3]),
        avg_num_neighbors=SETTINGS["average_neighbours"],
        atomic_numbers=ELEMENTS,
        correlation=SETTINGS["correlation"],
        gate=torch.nn.functional.silu,
        radial_MLP=[SETTINGS["hidden_features"]] * SETTINGS["hidden_depth"],
        **(scaling if cls is modules.ScaleShiftMACE else {}),
    )
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            if key.startswith("products"):  # make the many-body terms as large as the others
                parameter.mul_(2.0)
    return made.eval()


def predictions(model: torch.nn.Module, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    atoms = atoms.copy()
    table = AtomicNumberTable(model.atomic_numbers.tolist())
    config = data.config_from_atoms(atoms)
    batch = Batch.from_data_list(
        [data.AtomicData.from_config(config, z_table=table, cutoff=model.r_max.item())]
    )
    periodic = atoms.pbc.any()
    found = model(batch.to_dict(), compute_stress=bool(periodic))
    values = {"energy": found["energy"][0], "forces": found["forces"]}
    if atoms.pbc.all():
        values["stress"] = found["stress"][0]
    return {key: value.detach().numpy() for key, value in values.items()}


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    frozen: dict[str, np.ndarray] = {name: np.array(value) for name, value in SETTINGS.items()}
    frozen |= {"elements": np.array(ELEMENTS), "structures": np.array(len(structures()))}
    for n, atoms in enumerate(structures()):
        values = {"Z": atoms.numbers, "R": atoms.positions, "cell": atoms.cell.array}
        frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
        frozen[f"structure.{n}.pbc"] = atoms.pbc
    for name in MODELS:
        torch.manual_seed(0)
        mace = model(name)
        state = dict(mace.named_parameters())
        state["atomic_energies"] = mace.atomic_energies_fn.atomic_energies
        frozen |= {f"{name}.{key}": value.detach().numpy() for key, value in state.items()}
        for n, atoms in enumerate(structures()):
            for key, value in predictions(mace, atoms).items():
                frozen[f"{name}.structure.{n}.{key}"] = value
    # The couplings that the weights of the symmetric contractions refer to: the same in all models.
    for m, contraction in enumerate(mace.products[0].symmetric_contractions.contractions):
        for nu in (1, 2, 3):
            frozen[f"U.{m}.{nu}"] = getattr(contraction, f"U_matrix_{nu}").numpy()
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
