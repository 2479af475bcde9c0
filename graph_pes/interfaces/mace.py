"""Models of mace-torch: MACE-MP, MACE-OFF, MACE-OMOL, GO-MACE-23, Egret, and one's own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    neighbour_vectors,
    values_of_structures,
)
from graph_pes.models import AdditionModel
from graph_pes.models.base import GraphPESModel
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.periodic_table import SYMBOLS
from graph_pes.tensors import index_sum

from . import foreign
from .downloads import downloaded
from .foreign import Package, Precision, UnsupportedModelError
from .mace_nonlinear_weights import is_nonlinear, native_nonlinear_mace
from .mace_weights import native_mace
from .plain import plain

MACE_TORCH = Package(
    "mace", "mace", "mace-torch needs e3nn 0.4.4, and most other packages a later one"
)

_ACESUIT = "https://github.com/ACEsuit"
#: Where the files of the models are: folders of releases, and names in them.
_MP = {
    "small": "mace-mp/mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249",
    "medium": "mace-mp/mace_mp_0/2023-12-03-mace-128-L1_epoch-199",
    "large": "mace-mp/mace_mp_0/MACE_MPtrj_2022.9",
    "small-0b": "mace-mp/mace_mp_0b/mace_agnesi_small",
    "medium-0b": "mace-mp/mace_mp_0b/mace_agnesi_medium",
    "small-0b2": "mace-mp/mace_mp_0b2/mace-small-density-agnesi-stress",
    "medium-0b2": "mace-mp/mace_mp_0b2/mace-medium-density-agnesi-stress",
    "large-0b2": "mace-mp/mace_mp_0b2/mace-large-density-agnesi-stress",
    "medium-0b3": "mace-mp/mace_mp_0b3/mace-mp-0b3-medium",
    "medium-mpa-0": "mace-mp/mace_mpa_0/mace-mpa-0-medium",
    "small-omat-0": "mace-mp/mace_omat_0/mace-omat-0-small",
    "medium-omat-0": "mace-mp/mace_omat_0/mace-omat-0-medium",
    "mace-matpes-pbe-0": "mace-foundations/mace_matpes_0/MACE-matpes-pbe-omat-ft",
    "mace-matpes-r2scan-0": "mace-foundations/mace_matpes_0/MACE-matpes-r2scan-omat-ft",
}
_OMOL = {"extra_large": "mace-foundations/mace_omol_0/MACE-omol-0-extra-large-1024"}


def _releases(files: Mapping[str, str]) -> dict[str, str]:
    """Addresses of ``repository/release/file``."""
    parts = {name: file.split("/") for name, file in files.items()}
    return {
        name: f"{_ACESUIT}/{repository}/releases/download/{release}/{file}.model"
        for name, (repository, release, file) in parts.items()
    }


MACE_MP, MACE_OMOL = _releases(_MP), _releases(_OMOL)
_OFF = "https://raw.githubusercontent.com/ACEsuit/mace-off/main/mace_off23"
MACE_OFF = {
    "small": f"{_OFF}/MACE-OFF23_small.model",
    "medium": f"{_OFF}/MACE-OFF23_medium.model",
    "large": f"{_OFF}/MACE-OFF23_large.model",
}
_EGRET = "https://github.com/rowansci/egret-public/raw/b1b4c1261315b38f0dd3f6ec0fce891a9119ffe0"
EGRET = {
    "egret-1": f"{_EGRET}/compiled_models/EGRET_1.model",
    "egret-1t": f"{_EGRET}/compiled_models/EGRET_1T.model",
    "egret-1e": f"{_EGRET}/compiled_models/EGRET_1E.model",
}
GO_MACE_23 = (
    "https://github.com/zakmachachi/GO-MACE-23/raw/refs/heads/main/models/fitting/potential/"
    "iter-12-final-model/go-mace-23.pt"
)


class MACETorchModel(GraphPESModel):
    """A ``ScaleShiftMACE`` of mace-torch, without the energies of the atoms.

    Parameters
    ----------
    settings
        As `settings_of` gives them.
    head
        Name of the head that is evaluated, of those among the settings; the last by default.

    Raises
    ------
    ImportError
        If mace-torch is not installed.
    ValueError
        If there is no such head.
    """

    calls_package = "mace-torch"

    def __init__(self, settings: Mapping[str, Any], head: str | None = None):
        super().__init__(settings["r_max"], implemented_properties=["local_energies"])
        heads = list(settings["heads"])
        self.head = (
            len(heads) - 1 if head is None else heads.index(foreign.one_of(head, heads, "head"))
        )
        self.one_hot = AtomicOneHot([SYMBOLS[Z] for Z in settings["atomic_numbers"]])
        self.features = list(settings["embedding_specs"] or {})
        self.network = foreign.made(lambda: _network(settings))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,)."""
        i, j, vectors = foreign.edges_of(graph)
        batch, S = foreign.structures_of(graph)
        # There are no positions: what is added to their differences are the vectors.
        data = {
            "positions": vectors.new_zeros(graph.Z.shape[0], 3),
            "shifts": -vectors,
            "edge_index": torch.stack([j, i]),
            "node_attrs": self.one_hot(graph.Z).to(vectors.dtype),
            "cell": vectors.new_zeros(S * 3, 3),
            "batch": batch,
            "ptr": torch.zeros(S + 1, dtype=torch.long, device=batch.device),
            "head": torch.full((S,), self.head, device=batch.device),
            **{key: self._feature(graph, key) for key in self.features},
        }
        found = self.network(data, training=True, compute_force=False)
        # An energy of the charge and spin belongs to all atoms.
        whole = found["energy"] - found["interaction_energy"]
        atoms = index_sum(torch.ones_like(vectors[:1, 0]).expand(len(batch)), batch, S)
        return {"local_energies": found["node_energy"] + (whole / atoms).index_select(0, batch)}

    def _feature(self, graph: AtomicGraph, key: str) -> Tensor:
        defaults = {"total_charge": 0.0, "total_spin": 1.0}
        if key not in graph.other and key not in defaults:
            raise ValueError(f"this model needs {key}, which the graph does not have in `other`")
        dtype = neighbour_vectors(graph).dtype
        return values_of_structures(graph, key, defaults.get(key, 0.0), dtype)


def _network(settings: Mapping[str, Any]) -> nn.Module:
    """A ``ScaleShiftMACE`` with random weights."""
    blocks = MACE_TORCH.load("modules.blocks")
    modules = MACE_TORCH.load("modules")
    e3nn = Package("e3nn", "mace", MACE_TORCH.conflict).load()
    o3 = Package("e3nn", "mace", MACE_TORCH.conflict).load("o3")
    arguments = dict(settings)
    for key in ("interaction_cls", "interaction_cls_first", "readout_cls"):
        arguments[key] = getattr(blocks, arguments[key])
    for key in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        arguments[key] = None if arguments[key] is None else o3.Irreps(arguments[key])
    arguments["gate"] = modules.gate_dict[arguments["gate"]]
    shape = (len(arguments["heads"]), arguments["num_elements"])
    arguments["atomic_energies"] = np.zeros(shape)
    for key in ("atomic_inter_scale", "atomic_inter_shift"):
        arguments[key] = np.array(arguments[key])
    before = e3nn.get_optimization_defaults()
    # Code that is not scripted can be copied, differentiated twice and traced.
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = modules.ScaleShiftMACE(**arguments)
    finally:
        e3nn.set_optimization_defaults(**before)
    return network


def settings_of(network: nn.Module) -> dict[str, Any]:
    """The arguments of a ``ScaleShiftMACE``, as plain values.

    Raises
    ------
    UnsupportedModelError
        If it is another kind of model.
    """
    scripts = MACE_TORCH.load("tools.scripts_utils")
    found = scripts.extract_config_mace_model(network)
    if type(network).__name__ != "ScaleShiftMACE" or "error" in found:
        raise UnsupportedModelError(
            f"expected a ScaleShiftMACE of mace-torch, got a {type(network).__name__}"
        )
    gates = {gate: name for name, gate in MACE_TORCH.load("modules").gate_dict.items()}
    return {
        **{key: plain(value) for key, value in found.items()},
        "gate": gates[found["gate"]],
        "cueq_config": None,
        "heads": list(found["heads"]),
        "distance_transform": found["distance_transform"] or "None",
    }


def from_mace_torch(
    network: nn.Module,
    head: str | None = None,
    precision: Precision | None = None,
    native: bool = False,
) -> AdditionModel:
    """A model of mace-torch that is in memory.

    Parameters
    ----------
    network
        A ``ScaleShiftMACE``.
    head, precision, native
        See `mace_model`.
    """
    settings = settings_of(network)
    head = (
        settings["heads"][-1] if head is None else foreign.one_of(head, settings["heads"], "head")
    )
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    which = settings["heads"].index(head)
    energies = torch.atleast_2d(state.pop("atomic_energies_fn.atomic_energies"))[which].double()
    symbols = [SYMBOLS[Z] for Z in settings["atomic_numbers"]]
    del settings["atomic_energies"]
    dtype = next(network.parameters()).dtype
    model: GraphPESModel
    if native:
        convert = native_nonlinear_mace if is_nonlinear(settings) else native_mace
        model = convert(settings, state, which)
        shifts = state["scale_shift.shift"].double().reshape(-1)
        energies = energies + shifts[min(which, len(shifts) - 1)]
    else:
        model = MACETorchModel(settings, head)
        foreign.load_weights(model.network, state, "mace-torch")
    of_atoms = dict(zip(symbols, energies.tolist(), strict=True))
    return foreign.with_energies_of_atoms(model, of_atoms, precision, dtype)


def mace_model(
    path: str | os.PathLike[str],
    head: str | None = None,
    precision: Precision | None = None,
    native: bool = False,
) -> AdditionModel:
    """A model that was trained with mace-torch.

    Parameters
    ----------
    path
        A file of mace-torch that holds a ``ScaleShiftMACE``. Such a file is a pickle, which can
        run any code when it is read: read none of unknown origin.
    head
        Which head to evaluate; the last one by default.
    precision
        ``"float32"`` or ``"float64"``; that of the file by default.
    native
        Whether to convert the weights to our own `MACE` or `NonLinearMACE`. It is exported,
        compiled and run like any other model, and files of it need no mace-torch. If not, the
        network of mace-torch is evaluated.

    Returns
    -------
    AdditionModel
        The sum of ``network``, a `MACETorchModel` or one of ours, and ``offset``, the energies of
        the atoms, in evaluation mode.

    Raises
    ------
    ImportError
        If mace-torch is not installed.
    UnsupportedModelError
        If the model is of another class; or, with ``native``, if it has parts that ours have
        not.
    """
    MACE_TORCH.load("modules")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.load(path, map_location="cpu", weights_only=False)
    return from_mace_torch(network, head, precision, native)


def mace_mp(
    model: str = "small", precision: Precision | None = None, native: bool = False
) -> AdditionModel:
    """A model of the Materials Project and its successors, for 89 elements.

    Batatia et al., doi:10.1063/5.0297006. The models of OMat and MatPES are under the Academic
    Software Licence.

    Parameters
    ----------
    model
        ``"small"``, ``"medium"``, ``"large"``, ``"medium-0b3"``, ``"medium-mpa-0"`` ...
    precision, native
        See `mace_model`.
    """
    return mace_model(downloaded(MACE_MP[foreign.one_of(model, MACE_MP)]), None, precision, native)


def mace_off(
    model: str = "small", precision: Precision | None = None, native: bool = False
) -> AdditionModel:
    """A model of organic molecules, MACE-OFF23, for H, C, N, O, F, P, S, Cl, Br and I.

    Kovács et al., doi:10.1021/jacs.4c07099. Academic Software Licence.

    Parameters
    ----------
    model
        ``"small"``, ``"medium"`` or ``"large"``.
    precision, native
        See `mace_model`.
    """
    path = downloaded(MACE_OFF[foreign.one_of(model, MACE_OFF)])
    return mace_model(path, None, precision, native)


def mace_omol(
    model: str = "extra_large", precision: Precision | None = None, native: bool = False
) -> AdditionModel:
    """A model of molecules of 83 elements, their charge and spin: Open Molecules 2025.

    Structures have ``total_charge`` (default 0) and ``total_spin``, the multiplicity (default
    1), as in `AtomicGraph.from_ase`. Academic Software Licence.

    Parameters
    ----------
    model
        ``"extra_large"``.
    precision, native
        See `mace_model`.
    """
    path = downloaded(MACE_OMOL[foreign.one_of(model, MACE_OMOL)])
    return mace_model(path, "omol", precision, native)


def go_mace_23(precision: Precision | None = None, native: bool = False) -> AdditionModel:
    """A model of graphene oxide, for H, C and O; doi:10.1002/anie.202410088.

    Parameters
    ----------
    precision, native
        See `mace_model`.
    """
    return mace_model(downloaded(GO_MACE_23), None, precision, native)


def egret(
    model: str = "egret-1", precision: Precision | None = None, native: bool = False
) -> AdditionModel:
    """A model of organic molecules; doi:10.48550/arXiv.2504.20955. MIT licence.

    Parameters
    ----------
    model
        ``"egret-1"``, ``"egret-1t"`` (transition states) or ``"egret-1e"`` (energies).
    precision, native
        See `mace_model`.
    """
    return mace_model(downloaded(EGRET[foreign.one_of(model, EGRET)]), None, precision, native)
