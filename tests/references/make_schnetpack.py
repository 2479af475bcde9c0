"""Weights, energies, forces and stress of PaiNN and SchNet in schnetpack, in double precision.

Run in an environment of its own. schnetpack 2.1.1 asks for a sympy that recent versions of torch
don't have, so it is installed without its dependencies::

    pip install torch==2.13.0 ase h5py pyyaml hydra-core hydra-colorlog pytorch-lightning \
        fasteners dirsync torch-ema matscipy tensorboardX tqdm
    pip install --no-deps schnetpack==2.1.1
    python tests/references/make_schnetpack.py tests/references

This writes ``schnetpack_painn.npz`` and ``schnetpack_schnet.npz`` into the folder.
"""

# ruff: noqa: E402

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

import ase
import numpy as np
import torch
import torch.utils.data.dataloader
from structures import structures
from torch import nn

# schnetpack imports a name that torch used to have.
torch.utils.data.dataloader.T_co = TypeVar("T_co", covariant=True)

import schnetpack
from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances, Strain
from schnetpack.interfaces import AtomsConverter
from schnetpack.model import NeuralNetworkPotential
from schnetpack.nn import BesselRBF, CosineCutoff, GaussianRBF, shifted_softplus
from schnetpack.representation import PaiNN, SchNet
from schnetpack.transform import ASENeighborList

CHANNELS, RADIAL_FEATURES, LAYERS, CUTOFF = 6, 5, 3, 3.5
ELEMENTS = [1, 6, 8, 14]


def painn() -> tuple[nn.Module, nn.Module]:
    """The network of the paper, and its read-out."""
    basis = BesselRBF(RADIAL_FEATURES, CUTOFF)
    network = PaiNN(CHANNELS, LAYERS, basis, CosineCutoff(CUTOFF))
    return network, Atomwise(CHANNELS, output_key="energy")


def schnet() -> tuple[nn.Module, nn.Module]:
    """The network of the paper, and its read-out."""
    # Which can't be made in double precision.
    torch.set_default_dtype(torch.float32)
    basis = GaussianRBF(RADIAL_FEATURES, CUTOFF)
    torch.set_default_dtype(torch.float64)
    network = SchNet(CHANNELS, LAYERS, basis, CosineCutoff(CUTOFF))
    return network, Atomwise(CHANNELS, activation=shifted_softplus, output_key="energy")


def potential(network: nn.Module, read_out: nn.Module) -> NeuralNetworkPotential:
    model = NeuralNetworkPotential(
        representation=network,
        input_modules=[Strain(), PairwiseDistances()],
        output_modules=[read_out, Forces(calc_stress=True)],
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def predictions(model: NeuralNetworkPotential, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    convert = AtomsConverter(ASENeighborList(cutoff=CUTOFF), dtype=torch.float64)
    found = {key: value.detach().numpy() for key, value in model(convert(atoms)).items()}
    result = {"energy": found["energy"][0], "forces": found["forces"]}
    return {**result, "stress": found["stress"][0]} if atoms.pbc.all() else result


def weights(model: NeuralNetworkPotential) -> dict[str, np.ndarray]:
    """Parameters and constants under their names, those of our elements only."""
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    embedding = "representation.embedding.weight"
    return {**state, embedding: state[embedding][ELEMENTS]}


def main(folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    for name, make in (("painn", painn), ("schnet", schnet)):
        torch.manual_seed(0)
        model = potential(*make())
        frozen = {
            "version": np.array(schnetpack.__version__),
            "elements": np.array(ELEMENTS),
            "channels": np.array(CHANNELS),
            "radial_features": np.array(RADIAL_FEATURES),
            "layers": np.array(LAYERS),
            "cutoff": np.array(CUTOFF),
            **{f"weights.{key}": value for key, value in weights(model).items()},
        }
        for n, atoms in enumerate(structures()):
            geometry = {
                "Z": atoms.numbers,
                "R": atoms.positions,
                "cell": atoms.cell.array,
                "pbc": atoms.pbc,
            }
            values = geometry | predictions(model, atoms)
            frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
        np.savez_compressed(folder / f"schnetpack_{name}.npz", **frozen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
