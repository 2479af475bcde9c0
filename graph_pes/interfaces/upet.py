"""UPET: point-edge transformers, which learn the symmetry under rotation, of metatrain."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, values_of_structures
from graph_pes.models import AdditionModel
from graph_pes.models.base import GraphPESModel
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.periodic_table import SYMBOLS
from graph_pes.tensors import safe_norm

from . import foreign
from .downloads import downloaded
from .foreign import Package, Precision, UnsupportedModelError
from .plain import plain
from .upet_weights import native_pet

METATRAIN = Package("metatrain", "upet", "it needs versions of vesin and metatomic of its own")
URL = "https://huggingface.co/lab-cosmo/upet/resolve/main/models/{}.ckpt"
NAME = re.compile(r"pet-\w+-(xs|s|m|l|xl)-v\d+\.\d+\.\d+")


class UPETModel(GraphPESModel):
    """A network of the architecture PET of metatrain, without the energies of the atoms.

    Parameters
    ----------
    settings
        As `settings_of` gives them.

    Raises
    ------
    ImportError
        If metatrain is not installed.
    """

    scales: Tensor

    calls_package = "metatrain"

    def __init__(self, settings: Mapping[str, Any]):
        self.settings = settings["hypers"]
        super().__init__(self.settings["cutoff"], implemented_properties=["local_energies"])
        self.target = settings["target"]
        self.one_hot = AtomicOneHot([SYMBOLS[Z] for Z in settings["atomic_types"]])
        self.network = foreign.made(lambda: _network(settings))
        ones = torch.ones(len(settings["atomic_types"]), dtype=torch.float64)
        self.register_buffer("scales", ones)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,)."""
        network: Any = self.network
        batch, _ = foreign.structures_of(graph)
        species = self.one_hot(graph.Z).argmax(dim=1)
        data = {**self.edges_in_rows(graph, species), "system_indices": batch}
        if network.system_conditioning is not None:
            for theirs, ours, default in (
                ("charge", "total_charge", 0),
                ("spin_multiplicity", "total_spin", 1),
            ):
                data[theirs] = values_of_structures(graph, ours, default, torch.long)
            network.system_conditioning.validate(data["charge"], data["spin_multiplicity"])
        features = network.calculate_features(data)
        found, _, _ = network.predict(*features, data, graph.cell, batch, [self.target])
        (energies,) = found[self.target]
        return {"local_energies": energies.flatten() * self.scales.index_select(0, species)}

    def edges_in_rows(self, graph: AtomicGraph, species: Tensor) -> dict[str, Tensor]:
        """Edges in one row for each atom, filled up, with the names that metatrain gives them."""
        nef, settings = METATRAIN.load("pet.modules.nef"), self.settings
        i, j, vectors = foreign.edges_of(graph)
        cutoffs = self._cutoffs(i, j, safe_norm(vectors), len(species))
        kept = (safe_norm(vectors) <= cutoffs).nonzero()[:, 0]
        i, j, vectors, cutoffs = (x.index_select(0, kept) for x in (i, j, vectors, cutoffs))
        offsets = graph.neighbour_cell_offsets.index_select(0, kept).round().long()
        counts = torch.bincount(i, minlength=len(species))
        rows, places, real = nef.get_nef_indices(i, counts, int(counts.max()))
        envelope = getattr(
            METATRAIN.load("pet.modules.utilities"),
            f"cutoff_func_{settings['cutoff_function'].lower()}",
        )
        factors = envelope(safe_norm(vectors), cutoffs, float(settings["cutoff_width"]))
        reverse = nef.compute_reversed_neighbor_list(
            rows, nef.get_corresponding_edges(i, j, offsets), places, real
        )
        reverse = nef.edge_array_to_nef(j, rows) * rows.shape[1] + reverse
        # Where there is no edge, any indices will do that are not all the same.
        nowhere = (~real).flatten().cumsum(0).view_as(real) - 1
        vectors = nef.edge_array_to_nef(vectors, rows)
        return {
            "element_indices_nodes": species,
            "element_indices_neighbors": nef.edge_array_to_nef(species.index_select(0, j), rows),
            "edge_vectors": vectors,
            "edge_distances": torch.sqrt((vectors**2).sum(dim=2) + 1e-15),
            "reverse_neighbor_index": torch.where(real, reverse, nowhere),
            "padding_mask": real,
            "cutoff_factors": nef.edge_array_to_nef(factors, rows, real, 0.0),
        }

    def _cutoffs(self, i: Tensor, j: Tensor, r: Tensor, n_atoms: int) -> Tensor:
        """Of each edge; shorter for atoms that have many neighbours, if the model does so."""
        wanted = self.settings["num_neighbors_adaptive"]
        if wanted is None:
            return torch.full_like(r, self.cutoff_value)
        adaptive = METATRAIN.load("pet.modules.adaptive_cutoff")
        method = self.settings["adaptive_cutoff_method"].lower()
        of_atoms = getattr(adaptive, f"get_adaptive_cutoffs_{method}")(
            i,
            r,
            float(wanted),
            n_atoms,
            self.cutoff_value,
            cutoff_width=float(self.settings["cutoff_width_adaptive"]),
        )
        return (of_atoms.index_select(0, i) + of_atoms.index_select(0, j)) / 2


def _network(settings: Mapping[str, Any]) -> nn.Module:
    """A network with random weights, that predicts nothing but the energy."""
    backend = METATRAIN.load("pet.modules.backend")
    network = backend.PETBackend(settings["hypers"], settings["atomic_types"])
    network.add_output(settings["target"], settings["shapes"])
    return network


def settings_of(model: Any, target: str = "energy") -> dict[str, Any]:
    """What a ``PET`` of metatrain is made of.

    Parameters
    ----------
    model
        In memory.
    target
        See `upet`.

    Raises
    ------
    ValueError
        If there is no such target.
    UnsupportedModelError
        If there is more to the energy than the network and the energies of the atoms, or the
        units are other ones.
    """
    foreign.one_of(target, model.target_names, "target")
    unit = model.outputs[target].unit
    others = [type(x).__name__ for x in list(model.additive_models)[1:]]
    if model.long_range or others:
        raise UnsupportedModelError(
            f"expected a PET of short range without other terms, got long_range="
            f"{model.long_range} and {others}"
        )
    if unit != "eV" or model.dataset_info.length_unit.lower() != "angstrom":
        raise UnsupportedModelError(
            f"expected eV and Å, got {unit} and {model.dataset_info.length_unit}"
        )
    return {
        "hypers": plain(dict(model.hypers)),
        "atomic_types": [int(Z) for Z in model.atomic_types],
        "target": target,
        "shapes": plain(dict(model.output_shapes[target])),
    }


def upet(
    model: str | os.PathLike[str] = "pet-mad-s-v1.6.0",
    target: str = "energy",
    precision: Precision | None = None,
    native: bool = False,
) -> AdditionModel:
    """A UPET; Mazitov et al., doi:10.1038/s41467-025-65662-7.

    Those called ``pet-omol`` take ``total_charge`` (default 0) and ``total_spin``, the
    multiplicity (default 1), of structures.

    Parameters
    ----------
    model
        ``"pet-mad-s-v1.6.0"``, the name of another one with its size and version, or the path of
        a checkpoint of metatrain.
    target
        Which of its energies, for models of several: ``"energy/pbe"`` for instance.
    precision
        ``"float32"``, that of the files, or ``"float64"``.
    native
        Whether to convert the weights to our own `PET`, which needs metatrain no more once it is
        made, and can be compiled, exported and run in LAMMPS.

    Returns
    -------
    AdditionModel
        The sum of ``network``, a `UPETModel` or `PET`, and ``offset``, the energies of the atoms,
        in evaluation mode.

    Raises
    ------
    ImportError
        If metatrain is not installed.
    DownloadError
        If the weights are not there and can't be downloaded.
    UnsupportedModelError
        If there is more to the energy than the network and the energies of the atoms, or, with
        ``native``, the network has parts that `PET` has not.
    """
    path = Path(model)
    if not path.exists():
        if not NAME.fullmatch(str(model)):
            raise ValueError(
                f"model: expected a file, or a name such as 'pet-mad-s-v1.6.0', got {str(model)!r}"
            )
        METATRAIN.load()
        path = downloaded(URL.format(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = METATRAIN.load("utils.io").load_model(path)
    return from_metatrain(loaded, target, precision, native)


def from_metatrain(
    model: Any,
    target: str = "energy",
    precision: Precision | None = None,
    native: bool = False,
) -> AdditionModel:
    """A PET of metatrain that is in memory.

    Parameters
    ----------
    model
        A ``metatrain.pet.PET``, or what adds uncertainties to one, which are left out.
    target, precision, native
        See `upet`.
    """
    model = getattr(model, "model", model)
    if type(model).__name__ != "PET":
        raise UnsupportedModelError(f"expected a PET of metatrain, got a {type(model).__name__}")
    settings = settings_of(model, target)
    heads = ("node_heads.", "edge_heads.", "node_last_layers.", "edge_last_layers.")
    own = tuple(f"{head}{target}." for head in heads)
    state = {
        key: x.detach().cpu()
        for key, x in model.backend.state_dict().items()
        if key.startswith(own) or not key.startswith(heads)
    }
    scales = model.scaler.model.scales[target].block().values.detach().cpu().flatten().double()
    network: GraphPESModel
    if native:
        network = native_pet(settings, state, scales)
    else:
        network = UPETModel(settings)
        foreign.load_weights(network.network, state, "metatrain")
        network.scales.copy_(scales.expand(len(network.scales)))
    energies = model.additive_models[0].model.weights[target].block().values.detach().cpu()
    symbols = [SYMBOLS[Z] for Z in settings["atomic_types"]]
    of_atoms = dict(zip(symbols, energies.double().flatten().tolist(), strict=True))
    dtype = next(model.backend.parameters()).dtype
    return foreign.with_energies_of_atoms(network, of_atoms, precision, dtype)
