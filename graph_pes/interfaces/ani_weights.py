"""Weights of ANI in our own implementation, and files of NeuroChem, which need no torchani."""

from __future__ import annotations

import bz2
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from graph_pes.models import ANI
from graph_pes.nn.element_networks import ElementNetworks

from . import foreign
from .foreign import UnsupportedModelError

#: As in torchani, and ASE: CODATA 2014.
HARTREE_TO_EV = 27.211386024367243

#: Of the activations of NeuroChem: those of hidden layers, CELU, and of the last layer, none.
CELU, LINEAR = 9, 6

#: Weight (output, input) and bias (output,) of a layer.
Layer = tuple[Tensor, Tensor]


class Parts(NamedTuple):
    """What a member of an ensemble consists of.

    Attributes
    ----------
    constants
        Of the symmetry functions, by the names that torchani has for them.
    networks
        Weight (output, input) and bias (output,) of each layer of the network of each element, by
        chemical symbol and in the order of the symmetry functions.
    energies
        Of the free atoms, in Hartree, by chemical symbol.
    """

    constants: Mapping[str, Any]
    networks: Mapping[str, Sequence[tuple[Tensor, Tensor]]]
    energies: Mapping[str, float]


@torch.no_grad()
def native_ani(parts: Parts) -> ANI:
    """Our `ANI` with the weights of a member of an ensemble, in double precision.

    Raises
    ------
    UnsupportedModelError
        If the networks are not what the symmetry functions are the input of, or differ in depth.
    """
    constants = dict(parts.constants)
    symbols = list(parts.networks)
    widths = {
        symbol: [len(layers[0][0].T), *(len(b) for _, b in layers)]
        for symbol, layers in parts.networks.items()
    }
    depths = {len(of_element) for of_element in widths.values()}
    if len(depths) > 1 or any(of_element[-1] != 1 for of_element in widths.values()):
        raise UnsupportedModelError(
            f"expected networks of equally many layers, and with one output, got those of {widths}"
        )
    # Where some are narrower, units that nothing comes from are added.
    hidden = [max(of_layer) for of_layer in zip(*widths.values(), strict=True)][1:-1]
    with foreign.default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        model = ANI(
            elements=symbols,
            cutoff=constants["radial_cutoff"],
            angular_cutoff=constants["angular_cutoff"],
            radial_shifts=constants["radial_shifts"],
            angular_shifts=constants["angular_shifts"],
            sections=constants["sections"],
            radial_eta=constants["radial_eta"],
            angular_eta=constants["angular_eta"],
            zeta=constants["angular_zeta"],
            hidden=hidden,
        )
    inputs = model.networks.widths[0]
    if any(of_element[0] != inputs for of_element in widths.values()):
        raise UnsupportedModelError(
            f"expected networks of the {inputs} symmetry functions of {len(symbols)} elements, got "
            f"those of {widths}"
        )
    copy_networks(model.networks, list(parts.networks.values()))
    scaling = model.scaler.per_element_scaling
    for symbol in symbols:
        scaling[symbol] = HARTREE_TO_EV
    return model


def copy_networks(networks: ElementNetworks, layers: Sequence[Sequence[Layer]]) -> None:
    """Those of each element, filled up with zeros."""
    for n, (W, b) in enumerate(zip(networks.weights, networks.biases, strict=True)):
        W.zero_()
        b.zero_()
        for element, of_element in enumerate(layers):
            weight, bias = of_element[n]
            W[element, : weight.shape[1], : weight.shape[0]] = weight.T.double()
            b[element, 0, : len(bias)] = bias.double()


# --- files of NeuroChem ---------------------------------------------------------------------

#: What the constants are called in files.
_NAMES = {
    "Rcr": "radial_cutoff",
    "Rca": "angular_cutoff",
    "EtaR": "radial_eta",
    "ShfR": "radial_shifts",
    "EtaA": "angular_eta",
    "Zeta": "angular_zeta",
    "ShfA": "angular_shifts",
    "ShfZ": "sections",
}


def read_neurochem(path: Path, member: int) -> Parts:
    """A member of an ensemble in the format of NeuroChem.

    Parameters
    ----------
    path
        The ``.info`` file, which names the others, relative to its folder.
    member
        Which of the ensemble.

    Raises
    ------
    FileNotFoundError
        If one of the files is missing.
    ValueError
        If the ensemble has no such member.
    UnsupportedModelError
        If a file holds something else than expected.
    """
    lines = path.read_text().split()
    if len(lines) < 4 or not lines[3].isdigit():
        raise UnsupportedModelError(
            f"{path}: expected the names of files of constants, of energies of atoms and of "
            f"networks, and a number of networks, got {lines}"
        )
    constants_file, energies_file, prefix, number = lines[:4]
    if not 0 <= member < int(number):
        raise ValueError(f"member: expected one of the {number} of the ensemble, got {member}")
    constants, symbols = read_constants(path.parent / constants_file)
    folder = path.parent / f"{prefix}{member}" / "networks"
    networks = {symbol: read_network(folder / f"ANN-{symbol}.nnf") for symbol in symbols}
    return Parts(constants, networks, read_energies(path.parent / energies_file))


def read_constants(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Constants of symmetry functions, and the elements in their order."""
    entries = dict(re.findall(r"^(\w+) *= *\[?([^\]\n]*)\]?", path.read_text(), re.MULTILINE))
    missing = sorted({*_NAMES, "Atyp"} - entries.keys())
    if missing:
        raise UnsupportedModelError(f"{path}: expected constants of ANI, which have {missing}")
    constants: dict[str, Any] = {}
    for key, name in _NAMES.items():
        values = [float(value) for value in entries[key].split(",")]
        if not name.endswith("cutoff"):
            # In single precision, as those of torchani.
            values = np.array(values, dtype=np.float32).tolist()
        several = name.endswith(("shifts", "sections"))
        if not several and len(values) > 1:
            raise UnsupportedModelError(f"{path}: expected one value of {key}, got {values}")
        constants[name] = values if several else values[0]
    return constants, [symbol.strip() for symbol in entries["Atyp"].split(",")]


def read_energies(path: Path) -> dict[str, float]:
    """Energies of atoms in Hartree."""
    found = re.findall(r"^(\w+), *\d+ *= *(\S+)", path.read_text(), re.MULTILINE)
    # In single precision, as those of torchani.
    return {symbol: float(np.float32(value)) for symbol, value in found}


def read_network(path: Path) -> list[Layer]:
    """The layers of a network: a compressed description names the files of their numbers."""
    data = path.read_bytes()
    start = data.find(b"BZh")
    if start < 0:
        raise UnsupportedModelError(f"{path}: expected a compressed description of a network")
    text = bz2.BZ2Decompressor().decompress(data[start:]).decode(errors="replace")
    descriptions = re.findall(r"layer \[(.*?)\n\]", text, re.DOTALL)
    layers = []
    for n, description in enumerate(descriptions, start=1):
        entries = dict(re.findall(r"(\w+)=([^;]*);", description))
        activation = LINEAR if n == len(descriptions) else CELU
        if int(entries["activation"]) != activation or int(entries["type"]) != 0:
            raise UnsupportedModelError(
                f"{path}: expected layers with the activation CELU, {CELU}, and a linear one, "
                f"{LINEAR}, at the end, got activation {entries['activation']} in layer {n}"
            )
        inputs, outputs = int(entries["blocksize"]), int(entries["nodes"])
        W, b = (read_numbers(path.parent, entries[kind]) for kind in ("weights", "biases"))
        layers.append((W.view(outputs, inputs), b))
    return layers


def read_numbers(folder: Path, entry: str) -> Tensor:
    """The numbers of a file, of which its name and how many they are is given."""
    found = re.fullmatch(r"FILE:(\S+)\[(\d+)\]", entry)
    if found is None:
        raise UnsupportedModelError(f"{folder}: expected the name of a file, got {entry!r}")
    name, number = found[1], int(found[2])
    values = np.fromfile(folder / name, dtype="<f4")
    if len(values) != number:
        raise UnsupportedModelError(
            f"{folder / name}: expected {number} numbers, got {len(values)}"
        )
    return torch.from_numpy(values.astype(np.float64))
