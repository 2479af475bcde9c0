"""MatterSim: networks of the architecture of M3GNet, of the package mattersim."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, triplet_edges
from graph_pes.models import AdditionModel
from graph_pes.models.base import GraphPESModel
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.periodic_table import SYMBOLS
from graph_pes.tensors import safe_norm

from . import foreign
from .downloads import downloaded
from .foreign import Package, Precision, UnsupportedModelError
from .mattersim_weights import native_m3gnet
from .plain import plain

MATTERSIM = Package(
    "mattersim",
    "mattersim",
    "it comes with a torchvision that only loads beside a torch of the same build; it is not "
    "used, and can be uninstalled",
)
_AT = "https://raw.githubusercontent.com/microsoft/mattersim/main/pretrained_models/"
MODELS = {
    "mattersim-v1.0.0-1m": f"{_AT}mattersim-v1.0.0-1M.pth",
    "mattersim-v1.0.0-5m": f"{_AT}mattersim-v1.0.0-5M.pth",
}


class MatterSimModel(GraphPESModel):
    """A network of the package mattersim, without the energies of the atoms.

    Parameters
    ----------
    settings
        The arguments of its class, ``mattersim.forcefield.m3gnet.m3gnet.M3Gnet``.

    Raises
    ------
    ImportError
        If mattersim is not installed.
    """

    calls_package = "mattersim"

    def __init__(self, settings: Mapping[str, Any]):
        super().__init__(settings["cutoff"], ["local_energies"], settings["threebody_cutoff"])
        self.one_hot = AtomicOneHot(SYMBOLS[1 : settings["max_z"] + 1])
        self.network = foreign.made(lambda: _network(settings))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,)."""
        network: Any = self.network
        i, j, vectors = foreign.edges_of(graph)
        r = safe_norm(vectors)
        triplets = triplet_edges(graph, float(self.three_body_cutoff))
        ij, ik = triplets
        of_first, of_second = vectors.index_select(0, ij), vectors.index_select(0, ik)
        r_ik = r.index_select(0, ik)
        cosines = (of_first * of_second).sum(dim=1) / (r.index_select(0, ij) * r_ik)
        # As there: the slope of the arc cosine is infinite at its ends.
        angles = torch.acos(cosines.clamp(-1 + 1e-7, 1 - 1e-7))
        # They have a component for the atomic number 0.
        elements = nn.functional.pad(self.one_hot(graph.Z), (1, 0)).to(r.dtype)
        atoms, radial = network.atom_embedding(elements), network.rbf(r)
        edges, of_triplets = network.edge_encoder(radial), network.sbf(r_ik, angles)
        known = {
            "edge_attr_zero": radial,
            "edge_index": torch.stack([i, j]),
            "three_basis": of_triplets,
            "three_body_index": triplets.T,
            "edge_length": r.unsqueeze(1),
            "total_num_atoms": len(graph.Z),
            "total_num_bonds": len(r),
            "three_body_edge_map": ij,
            # numbers that are only used where those above are missing
            **dict.fromkeys(("num_edges", "num_triple_ij", "num_atoms"), graph.Z),
        }
        for block in network.graph_conv:
            atoms, edges = block(atoms, edges, **known)
        energies = network.normalizer(network.final(atoms).flatten(), graph.Z)
        return {"local_energies": energies}


def _network(settings: Mapping[str, Any]) -> nn.Module:
    """A network with random weights, that adds no energies of atoms."""
    return MATTERSIM.load("forcefield.m3gnet.m3gnet").M3Gnet(device="cpu", **settings)


def mattersim(
    model: str | os.PathLike[str] = "mattersim-v1.0.0-1m",
    precision: Precision | None = None,
    native: bool = False,
) -> AdditionModel:
    """A model of MatterSim, for 94 elements; Yang et al., doi:10.48550/arXiv.2405.04967.

    Parameters
    ----------
    model
        ``"mattersim-v1.0.0-1m"``, ``"mattersim-v1.0.0-5m"``, or the path of a file of one's own,
        such as fine-tuning with mattersim writes.
    precision
        ``"float32"``, that of the files, or ``"float64"``.
    native
        Whether to convert the weights to our own `M3GNet`, for which mattersim is not needed at
        all.

    Returns
    -------
    AdditionModel
        The sum of ``network``, a `MatterSimModel` or `M3GNet`, and ``offset``, the energies of
        the atoms, in evaluation mode.

    Raises
    ------
    ImportError
        If, without ``native``, mattersim is not installed.
    DownloadError
        If the weights are not there and can't be downloaded.
    UnsupportedModelError
        If, with ``native``, the file holds something else than a network that `M3GNet` has.
    """
    path = Path(model)
    if not path.exists():
        name = foreign.one_of(os.fspath(model), MODELS)
        if not native:
            MATTERSIM.load("forcefield")
        path = downloaded(MODELS[name])
    if native:
        return _native(*contents_of(path), precision)
    Potential = MATTERSIM.load("forcefield").Potential
    potential = Potential.from_checkpoint(str(path), device="cpu", load_training_state=False)
    return from_mattersim(potential, precision)


def contents_of(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and state of the network in a file of MatterSim.

    Raises
    ------
    UnsupportedModelError
        If there is none in it.
    """
    contents = torch.load(path, map_location="cpu", weights_only=True)
    keys = ("model_name", "model_args", "model")
    if not isinstance(contents, Mapping) or not contents.keys() >= set(keys):
        raise UnsupportedModelError(f"{path}: expected a file of MatterSim, with {', '.join(keys)}")
    kind, settings, state = (contents[key] for key in keys)
    if kind != "m3gnet":
        raise UnsupportedModelError(f"{path}: expected an m3gnet of MatterSim, got {kind!r}")
    return settings, state


def from_mattersim(
    potential: Any, precision: Precision | None = None, native: bool = False
) -> AdditionModel:
    """A model of MatterSim that is in memory.

    Parameters
    ----------
    potential
        A ``mattersim.forcefield.Potential``.
    precision, native
        See `mattersim`.
    """
    network = potential.model
    settings = plain(network.get_model_args())
    state = {key: x.detach().cpu().clone() for key, x in network.state_dict().items()}
    if native:
        return _native(settings, state, precision)
    wrapped = MatterSimModel(settings)
    shift = state["normalizer.shift"]
    state["normalizer.shift"] = torch.zeros_like(shift)
    foreign.load_weights(wrapped.network, state, "mattersim")
    energies = dict(zip(SYMBOLS[1:], shift[1:].double().tolist(), strict=False))
    dtype = next(network.parameters()).dtype
    return foreign.with_energies_of_atoms(wrapped, energies, precision, dtype)


def _native(
    settings: Mapping[str, Any], state: Mapping[str, Tensor], precision: Precision | None
) -> AdditionModel:
    """Our own implementation."""
    network, of_atoms = native_m3gnet(settings, state)
    dtype = state["normalizer.shift"].dtype
    return foreign.with_energies_of_atoms(network, of_atoms, precision, dtype)
