"""Weights, energies, forces and stress of the TensorNet of MatGL 2.0.4, in double precision.

Run in an environment of its own, with ``pip install --no-deps matgl==2.0.4`` and
``pip install torch==2.13.0 torch-geometric lightning pymatgen ase``::

    python tests/references/make_matgl_tensornet.py tests/references/matgl_tensornet.npz
"""

from __future__ import annotations

import sys

import ase
import matgl
import numpy as np
import torch
from ase.build import bulk, molecule
from ase.stress import voigt_6_to_full_3x3_stress

matgl.set_default_dtype("float", 64)
from matgl.apps._pes_pyg import Potential  # noqa: E402
from matgl.ext._ase_pyg import PESCalculator  # noqa: E402
from matgl.models._tensornet_pyg import TensorNet  # noqa: E402

SETTINGS = {"cutoff": 3.5, "radial_features": 3, "channels": 4, "layers": 2}
SYMBOLS = ("H", "C", "O", "Si")
STD = 1.7


def structures() -> list[ase.Atoms]:
    rng = np.random.default_rng(0)
    skewed = ase.Atoms("COH2", rng.uniform(0, 3, (4, 3)), pbc=True)
    skewed.cell = [[4.0, 0.3, 0.0], [1.5, 3.6, -0.2], [-0.7, 1.1, 4.4]]
    lone = ase.Atoms("Si", pbc=True, cell=[[2.4, 0.1, 0.0], [0.9, 2.6, 0.2], [-0.4, 0.3, 2.9]])
    slab = ase.Atoms("SiOC", [[0, 0, 0], [1.6, 0.2, 0.4], [0.2, 1.7, -0.3]], pbc=True)
    slab.cell = [[2.9, 0, 0], [0.8, 3.1, 0], [0, 0, 12.0]]
    molecules = [molecule(name) for name in ("CH3CH2OH", "CO2", "H2O2", "SiH4", "C6H6")]
    found = [*molecules, bulk("Si", cubic=True), bulk("C"), lone, skewed, slab]
    for atoms in found:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    return found


def original(group: str) -> TensorNet:
    torch.manual_seed(0)
    model = TensorNet(
        element_types=SYMBOLS,
        units=SETTINGS["channels"],
        nblocks=SETTINGS["layers"],
        max_n=SETTINGS["radial_features"],
        rbf_type="SphericalBessel",
        use_smooth=True,
        cutoff=SETTINGS["cutoff"],
        equivariance_invariance_group=group,
        dtype=torch.float64,
        is_intensive=False,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5).add_(0.2 * torch.randn_like(parameter))
    return model.double().eval()


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    frozen = {name: np.array(value) for name, value in SETTINGS.items()}
    frozen["Zs"] = np.array([ase.Atoms(symbol).numbers[0] for symbol in SYMBOLS])
    frozen["std"] = np.array(STD)
    for name, value in original("O(3)").named_parameters():
        frozen[f"weights.{name}"] = value.detach().numpy()
    for n, atoms in enumerate(structures()):
        values = {"Z": atoms.numbers, "R": atoms.positions, "cell": atoms.cell.array}
        values["pbc"] = atoms.pbc
        frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
    for group in ("O(3)", "SO(3)"):
        potential = Potential(original(group), data_std=torch.tensor(STD), calc_stresses=True)
        for n, atoms in enumerate(structures()):
            atoms.calc = PESCalculator(potential, stress_unit="eV/A3", use_voigt=True)
            name = f"{group}.structure.{n}."
            frozen[f"{name}energy"] = np.array(atoms.get_potential_energy())
            frozen[f"{name}forces"] = atoms.get_forces()
            if atoms.cell.rank == 3:
                frozen[f"{name}stress"] = voigt_6_to_full_3x3_stress(atoms.get_stress())
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
