"""ANI: networks of symmetry functions, of torchani."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, undirected_edges
from graph_pes.models import AdditionModel
from graph_pes.models.base import GraphPESModel
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.tensors import safe_norm

from . import foreign
from .ani_weights import HARTREE_TO_EV, Layer, Parts, native_ani, read_neurochem
from .foreign import Package, Precision, UnsupportedModelError

TORCHANI = Package("torchani", "ani", "its versions 2.2 and 2.9 are different packages")

#: Of the symmetry functions: names of `AEVComputer.from_constants`, and where they are kept.
_CONSTANTS = {
    "radial_cutoff": ("radial", "cutoff"),
    "angular_cutoff": ("angular", "cutoff"),
    "radial_eta": ("radial", "eta"),
    "radial_shifts": ("radial", "shifts"),
    "angular_eta": ("angular", "eta"),
    "angular_zeta": ("angular", "zeta"),
    "angular_shifts": ("angular", "shifts"),
    "sections": ("angular", "sections"),
}


class ANIModel(GraphPESModel):
    """One member of an ANI ensemble, without the energies of the atoms.

    Parameters
    ----------
    settings
        As `settings_of` gives them.

    Raises
    ------
    ImportError
        If torchani is not installed.
    """

    calls_package = "torchani"

    def __init__(self, settings: Mapping[str, Any]):
        cutoff = settings["constants"]["radial_cutoff"]
        super().__init__(cutoff, implemented_properties=["local_energies"])
        self.one_hot = AtomicOneHot(list(settings["networks"]))
        self.network = foreign.made(lambda: _network(settings))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,)."""
        network: Any = self.network
        pairs = undirected_edges(graph)
        assert pairs is not None, "torchani needs both directions of every edge"
        vectors = foreign.edges_of(graph)[2].index_select(0, pairs)
        neighbours = TORCHANI.load("neighbors").Neighbors(
            graph.neighbour_list.index_select(1, pairs), safe_norm(vectors), -vectors
        )
        # A batch is one structure whose parts do not see each other.
        elements = self.one_hot(graph.Z).argmax(dim=1).unsqueeze(0)
        nowhere = vectors.new_zeros(1, elements.shape[1], 3)
        aevs = network["aev"].compute_from_neighbors(elements, nowhere, neighbours)
        energies = network["networks"](elements, aevs, atomic=True)
        return {"local_energies": energies.reshape(-1) * HARTREE_TO_EV}


def _network(settings: Mapping[str, Any]) -> nn.ModuleDict:
    """Symmetry functions, and networks with random weights."""
    networks, n = TORCHANI.load("nn"), len(settings["networks"])
    AEVComputer = TORCHANI.load("aev").AEVComputer
    aev = AEVComputer.from_constants(**settings["constants"], num_species=n)
    of_elements = {
        symbol: networks.AtomicNetwork(sizes, activation="celu", bias=True)
        for symbol, sizes in settings["networks"].items()
    }
    return nn.ModuleDict({"aev": aev, "networks": networks.ANINetworks(of_elements)})


def settings_of(model: Any) -> dict[str, Any]:
    """What the symmetry functions and networks of an ``ANI`` of torchani are made of.

    Raises
    ------
    UnsupportedModelError
        If it is an ensemble, has other activations or functions, or adds other energies.
    """
    container, computer = model.neural_networks, model.aev_computer
    if type(container).__name__ != "ANINetworks":
        raise UnsupportedModelError(
            f"expected one member of an ensemble, model[0] for instance, got a "
            f"{type(container).__name__}"
        )
    parts = (computer.radial, computer.angular, computer.radial.cutoff_fn)
    kinds = [type(part).__name__ for part in parts]
    if kinds != ["ANIRadial", "ANIAngular", "CutoffCosine"]:
        raise UnsupportedModelError(
            f"expected the symmetry functions of ANI with cosine cutoffs, got {kinds}"
        )
    more = [name for name in model.potentials if name != "nnp"]
    if more:
        raise UnsupportedModelError(f"expected energies of networks only, but it adds {more}")
    sizes = {}
    for symbol, network in container.atomics.items():
        layers = [*network.layers, network.final_layer]
        if type(network.activation).__name__ != "TightCELU" or layers[0].bias is None:
            raise UnsupportedModelError("expected networks with biases and CELU")
        sizes[symbol] = [layers[0].in_features, *(layer.out_features for layer in layers)]
    constants: dict[str, Any] = {}
    for name, (part, key) in _CONSTANTS.items():
        value = getattr(getattr(computer, part), key)
        if not isinstance(value, Tensor):
            constants[name] = float(value)
        elif name.endswith(("shifts", "sections")):
            constants[name] = value.flatten().double().tolist()
        else:
            constants[name] = float(value)
    return {"constants": constants, "networks": sizes}


def _layers(network: Any) -> list[Layer]:
    layers = [*network.layers, network.final_layer]
    return [(layer.weight.detach().cpu(), layer.bias.detach().cpu()) for layer in layers]


def from_torchani(
    model: Any, precision: Precision | None = None, native: bool = False
) -> AdditionModel:
    """A member of an ANI ensemble that is in memory.

    Parameters
    ----------
    model
        An ``ANI`` of torchani with one network for each element.
    precision, native
        See `ani`.
    """
    settings = settings_of(model)
    hartree = model.energy_shifter.self_energies.detach().double().tolist()
    energies = dict(zip(settings["networks"], hartree, strict=True))
    dtype = next(model.neural_networks.parameters()).dtype
    if native:
        atomics = model.neural_networks.atomics
        networks = {symbol: _layers(network) for symbol, network in atomics.items()}
        return _native(Parts(settings["constants"], networks, energies), precision, dtype)
    wrapped = ANIModel(settings)
    state = {f"networks.{k}": x for k, x in model.neural_networks.state_dict().items()}
    state |= {f"aev.{k}": x for k, x in model.aev_computer.state_dict().items()}
    foreign.load_weights(wrapped.network, state, "torchani")
    return foreign.with_energies_of_atoms(wrapped, _in_eV(energies), precision, dtype)


def _native(parts: Parts, precision: Precision | None, dtype: torch.dtype) -> AdditionModel:
    """Our own implementation."""
    return foreign.with_energies_of_atoms(
        native_ani(parts), _in_eV(parts.energies), precision, dtype
    )


def _in_eV(energies: Mapping[str, float]) -> dict[str, float]:
    return {symbol: energy * HARTREE_TO_EV for symbol, energy in energies.items()}


def ani(
    path: str | os.PathLike[str],
    member: int = 0,
    precision: Precision | None = None,
    native: bool = False,
) -> AdditionModel:
    """One member of an ANI ensemble, for molecules; Devereux et al., doi:10.1021/acs.jctc.0c00121.

    Parameters
    ----------
    path
        The ``.info`` file of a model in the format of NeuroChem, as in the repository
        ``aiqm/ani-model-zoo``, beside the folders that it names.
    member
        Which of the ensemble.
    precision
        ``"float32"``, that of the files, or ``"float64"``.
    native
        Whether to convert the weights to our own `ANI`, for which torchani is not needed at all.

    Returns
    -------
    AdditionModel
        The sum of ``network``, an `ANIModel` or `ANI`, and ``offset``, the energies of the
        atoms, in evaluation mode.

    Raises
    ------
    ImportError
        If, without ``native``, torchani is not installed.
    UnsupportedModelError
        If the files hold something else than expected.
    """
    if native:
        return _native(read_neurochem(Path(path), member), precision, torch.float32)
    neurochem: Any = TORCHANI.load("neurochem")
    info = Path(path).resolve()
    where = neurochem.neurochem_dir
    neurochem.neurochem_dir = lambda: info.parent
    try:
        model = neurochem.load_model_from_info_file(info, model_index=member)
    finally:
        neurochem.neurochem_dir = where
    return from_torchani(model, precision)
