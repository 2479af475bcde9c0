"""Weights, energies, forces and stresses of a small network of MatterSim, in double precision.

Run in an environment of its own, with ``pip install torch==2.13.0 mattersim==1.2.3`` and without
torchvision::

    python tests/references/make_mattersim.py tests/references/mattersim.npz

There, constants have seven digits; here, they are exact. Structures with three atoms on a line are
left out: their cosines are off by 1e-7 there.
"""

from __future__ import annotations

import json
import sys

import ase
import numpy as np
import torch
from ase.neighborlist import neighbor_list
from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
from scipy.optimize import brentq
from scipy.special import spherical_jn
from structures import structures

SETTINGS = {
    "num_blocks": 2,
    "units": 6,
    "max_l": 4,
    "max_n": 4,
    "cutoff": 3.5,
    "max_z": 14,
    "threebody_cutoff": 2.9,
}
ON_A_LINE = 1 - 1e-6


def zeros(n: int) -> np.ndarray:
    """The first n of each degree up to 3."""
    found = [np.pi * np.arange(1, n + 4)]
    for l in range(1, 4):
        pairs = zip(found[-1][:-1], found[-1][1:], strict=True)
        found.append(np.array([brentq(lambda x: spherical_jn(l, x), a, b) for a, b in pairs]))  # noqa: B023
    return np.stack([z[:n] for z in found])


def exact_coefficients() -> torch.Tensor:
    """Of sines and cosines, in the order that the network has them."""
    z = zeros(4)
    found = np.zeros((4, 9, 4))
    found[0, 0] = z[0]
    rows = {
        1: [(-1, 1), (1, 2)],
        2: [(-1, 1), (3, 2), (3, 3)],
        3: [(1, 1), (6, 2), (15, 3), (15, 4)],
    }
    for l, factors in rows.items():
        norm = 1 / abs(spherical_jn(l + 1, z[l]))
        for n, (factor, power) in enumerate(factors):
            found[l, 2 * n] = factor * norm / z[l] ** power
            found[l, 2 * n + 1] = z[l]
    return torch.tensor(found)


def original() -> M3Gnet:
    torch.manual_seed(0)
    network = M3Gnet(device="cpu", **SETTINGS).double().eval()
    exact = exact_coefficients()
    torch.testing.assert_close(network.sbf.coef, exact, rtol=1e-5, atol=1e-6)
    network.sbf.coef.copy_(exact)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5).add_(0.2 * torch.randn_like(parameter))
        network.normalizer.scale.uniform_(0.5, 1.5)
        network.normalizer.shift.uniform_(-8, -1)
    return network


def edges_and_triplets(atoms: ase.Atoms) -> tuple[np.ndarray, ...]:
    """Edges, their offsets, and pairs of those that start at the same atom."""
    i, j, S, D = neighbor_list("ijSD", atoms, SETTINGS["cutoff"])
    short = np.linalg.norm(D, axis=1) <= SETTINGS["threebody_cutoff"]
    pairs = [
        (a, b) for a in np.flatnonzero(short) for b in np.flatnonzero(short & (i == i[a])) if a != b
    ]
    return np.stack([i, j]), S, D, np.array(pairs, dtype=int).reshape(-1, 2)


def predicted(network: M3Gnet, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    edges, S, _, pairs = edges_and_triplets(atoms)
    strain = torch.zeros(3, 3, requires_grad=True)
    R = torch.tensor(atoms.positions, requires_grad=True)
    deformation = torch.eye(3) + (strain + strain.T) / 2
    total = network(
        {
            "atom_pos": R @ deformation,
            "cell": (torch.tensor(atoms.cell.array) @ deformation).unsqueeze(0),
            "pbc_offsets": torch.tensor(S),
            "atom_attr": torch.tensor(atoms.numbers).unsqueeze(1),
            "edge_index": torch.tensor(edges),
            "three_body_indices": torch.tensor(pairs),
            "num_three_body": torch.tensor([len(pairs)]),
            "num_bonds": torch.tensor([edges.shape[1]]),
            "num_triple_ij": torch.tensor(np.bincount(pairs[:, 0], minlength=edges.shape[1])),
            "num_atoms": torch.tensor([len(atoms)]),
            "num_graphs": 1,
            "batch": torch.zeros(len(atoms), dtype=torch.long),
        }
    ).sum()
    of_R, of_strain = torch.autograd.grad(total, (R, strain))
    values = {"energy": total.detach().numpy(), "forces": -of_R.numpy()}
    if atoms.pbc.all():
        values["stress"] = of_strain.numpy() / atoms.get_volume()
    return values


def has_no_line(atoms: ase.Atoms) -> bool:
    _, _, D, pairs = edges_and_triplets(atoms)
    u = D / np.linalg.norm(D, axis=1, keepdims=True)
    return bool((abs((u[pairs[:, 0]] * u[pairs[:, 1]]).sum(1)) < ON_A_LINE).all())


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    # It makes several of its constants and inputs single precision.
    torch.Tensor.float = torch.Tensor.double
    network = original()
    frozen = {"settings": np.array(json.dumps(SETTINGS))}
    frozen |= {f"weights.{k}": v.numpy() for k, v in network.state_dict().items()}
    used = [atoms for atoms in structures() if has_no_line(atoms)]
    for n, atoms in enumerate(used):
        values = {"Z": atoms.numbers, "R": atoms.positions, "cell": atoms.cell.array}
        values |= {"pbc": atoms.pbc, **predicted(network, atoms)}
        frozen |= {f"structure.{n}.{key}": value for key, value in values.items()}
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
