"""Orb: networks that learn the symmetry under rotation, of orb-models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    edges_per_graph,
    keep_at_most_k_neighbours,
    structure_sizes,
    values_of_structures,
)
from graph_pes.models import AdditionModel
from graph_pes.models.base import GraphPESModel
from graph_pes.periodic_table import SYMBOLS
from graph_pes.tensors import voigt_6_to_full_3x3

from . import foreign
from .downloads import downloaded
from .foreign import Package, Precision, UnsupportedModelError
from .orb_weights import arguments_of, native_orb

ORB = Package("orb_models", "orb", "it sets the default precision of torch for all of a process")
CUTOFF = 6.0
ACTIVATIONS = {"SiLU", "SSP", "GELU", "ReLU"}
_AT = "https://orbitalmaterials-public-models.s3.us-west-1.amazonaws.com/forcefields/"
#: Where the weights are; names tell what forces are, how many neighbours count, and the data.
MODELS = {
    **{
        name: f"{_AT}orb-v3/{name}-20250404.ckpt"
        for kind in ("conservative", "direct")
        for neighbours in ("20", "inf")
        for data in ("omat", "mpa")
        for name in [f"orb-v3-{kind}-{neighbours}-{data}"]
    },
    **{
        name: f"{_AT}{name}-20250820.ckpt"
        for name in ("orb-v3-conservative-omol", "orb-v3-direct-omol")
    },
}
#: How many neighbours count where all of them should.
MANY_NEIGHBOURS = 120


class OrbModel(GraphPESModel):
    """A network of orb-models, without the energies of the atoms.

    Parameters
    ----------
    settings
        As `settings_of` gives them.

    Raises
    ------
    ImportError
        If orb-models is not installed.
    """

    needs_whole_structure = "its energies are those of the mean of all atoms"
    calls_package = "orb-models"

    def __init__(self, settings: Mapping[str, Any]):
        direct = [] if settings["conservative"] else ["forces", *["stress"] * settings["stress"]]
        super().__init__(CUTOFF, implemented_properties=["local_energies", *direct])
        self.max_neighbours = int(settings["max_neighbours"])
        self.network = foreign.made(lambda: _network(settings))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,); unless conservative forces (N, 3), and stress (S, 3, 3)."""
        network: Any = self.network
        batch = _as_theirs(keep_at_most_k_neighbours(graph, self.max_neighbours))
        nodes, heads = network.model(batch)["node_features"], network.heads
        found = {name: head.predict(nodes, batch) for name, head in heads.items()}
        for name, value in network.pair_repulsion_fn(batch).items():
            if name in found:
                found[name] = found[name] + value
        of_atoms = found["energy"] / batch.n_node
        assert graph.batch is not None
        predictions = {"local_energies": of_atoms.index_select(0, graph.batch)}
        if "forces" in self.implemented_properties:
            predictions["forces"] = found["forces"]
        if "stress" in self.implemented_properties:
            predictions["stress"] = voigt_6_to_full_3x3(found["stress"])
        return predictions


def _as_theirs(graph: AtomicGraph) -> Any:
    """A batch as orb-models has it."""
    i, j, vectors = foreign.edges_of(graph)
    numbers = nn.functional.one_hot(graph.Z, 118).to(vectors.dtype)
    charges = values_of_structures(graph, "total_charge", 0.0, vectors.dtype)
    spins = values_of_structures(graph, "total_spin", 1.0, vectors.dtype)
    return ORB.load("forcefield.base").AtomGraphs(
        senders=i,
        receivers=j,
        n_node=structure_sizes(graph),
        n_edge=edges_per_graph(graph),
        node_features={
            "atomic_numbers": graph.Z,
            "atomic_numbers_embedding": numbers,
            "positions": graph.R,
        },
        edge_features={"vectors": vectors},
        system_features={"cell": graph.cell, "total_charge": charges, "total_spin": spins},
        node_targets=None,
        edge_targets=None,
        system_targets=None,
        system_id=None,
        fix_atoms=None,
        tags=None,
        radius=CUTOFF,
        max_num_neighbors=torch.tensor([0]),
    )


def _network(settings: Mapping[str, Any]) -> nn.Module:
    """A network with random weights, that adds no energies of atoms."""
    pretrained = ORB.load("forcefield.pretrained")
    kind = "conservative" if settings["conservative"] else "direct"
    make = getattr(pretrained, f"orb_v3_{kind}_architecture")
    network = make(**settings["sizes"], has_stress=settings["stress"], device="cpu")
    del network.heads["confidence"]
    network.heads["energy"].reference.linear.weight.data.zero_()
    return network


def settings_of(model: Any) -> dict[str, Any]:
    """What a network of Orb-v3 is made of.

    Raises
    ------
    UnsupportedModelError
        If it is not one.
    """
    network, energy = model.model, model.heads["energy"]
    parts = [model.pair_repulsion, energy.atom_avg, network.outer_product_with_cutoff]
    for layer in network.gnn_stacks:
        parts += [layer._attention_gate == "sigmoid", layer._distance_cutoff]
    if "forces" in model.heads:
        forces = model.heads["forces"]
        parts += [forces.remove_mean, forces.remove_torque_for_nonpbc_systems]
    if not all(parts):
        raise UnsupportedModelError("expected a network of the architecture of Orb-v3")
    inside = [x for x in network._encoder._node_fn.modules() if isinstance(x, nn.Linear)]
    head = [x for x in energy.mlp.modules() if isinstance(x, nn.Linear)]
    (activation,) = {type(x).__name__ for x in energy.mlp.modules()} & ACTIVATIONS
    conservative = hasattr(model, "grad_forces_name")
    return {
        "conservative": conservative,
        "stress": model.has_stress if conservative else "stress" in model.heads,
        "max_neighbours": model.system_config.max_num_neighbors,
        "sizes": {
            "latent_dim": inside[-1].out_features,
            "base_mlp_hidden_dim": inside[0].out_features,
            "base_mlp_depth": len(inside) - 1,
            "head_mlp_hidden_dim": head[0].out_features,
            "head_mlp_depth": len(head) - 1,
            "num_message_passing_steps": len(network.gnn_stacks),
            "activation": activation.lower(),
            "has_charge_spin_cond": network.conditioner is not None,
        },
    }


def from_orb_models(
    model: Any, precision: Precision | None = None, native: bool = False
) -> AdditionModel:
    """A network of Orb-v3 that is in memory.

    Parameters
    ----------
    model
        A regressor of orb-models, with its ``system_config``.
    precision, native
        See `orb_model`.
    """
    settings = settings_of(model)
    state = {key: x.detach().cpu().clone() for key, x in model.state_dict().items()}
    if native:
        kinds = {key: settings[key] for key in ("conservative", "stress", "max_neighbours")}
        activation = settings["sizes"]["activation"]
        return _native(state, precision, **kinds, activation=activation)
    wrapped = OrbModel(settings)
    reference = state["heads.energy.reference.linear.weight"]
    energies = reference.flatten().double().tolist()
    state["heads.energy.reference.linear.weight"] = torch.zeros_like(reference)
    own = {key: x for key, x in state.items() if not key.startswith("heads.confidence.")}
    foreign.load_weights(wrapped.network, own, "orb-models")
    of_atoms = dict(zip(SYMBOLS[1:], energies[1:], strict=False))
    dtype = next(model.parameters()).dtype
    return foreign.with_energies_of_atoms(wrapped, of_atoms, precision, dtype)


def _native(
    state: Mapping[str, Tensor], precision: Precision | None, **kinds: Any
) -> AdditionModel:
    """Our own implementation; see `arguments_of`."""
    network, of_atoms = native_orb(state, arguments_of(state, **kinds))
    dtype = state["model.atom_emb.embeddings.weight"].dtype
    return foreign.with_energies_of_atoms(network, of_atoms, precision, dtype)


def orb_model(
    model: str | os.PathLike[str] = "orb-v3-direct-20-omat",
    precision: Precision | None = None,
    native: bool = False,
) -> AdditionModel:
    """A network of Orb-v3, for 117 elements; Rhodes et al., doi:10.48550/arXiv.2504.06231.

    Those called ``omol`` take ``total_charge`` (default 0) and ``total_spin``, the multiplicity
    (default 1), of structures. Energies of the ones called ``20`` jump when neighbours change.

    Parameters
    ----------
    model
        ``"orb-v3-direct-20-omat"``, or another name in
        ``orb_models.forcefield.pretrained.ORB_PRETRAINED_MODELS`` that starts with ``orb-v3``.
    precision
        ``"float32"``, that of the files, or ``"float64"``.
    native
        Whether to convert the weights to our own `Orb`, for which orb-models is not needed at
        all.

    Returns
    -------
    AdditionModel
        The sum of ``network``, an `OrbModel` or `Orb`, and ``offset``, the energies of the
        atoms, in evaluation mode.

    Raises
    ------
    ImportError
        If, without ``native``, orb-models is not installed.
    DownloadError
        If the weights are not there and can't be downloaded.
    UnsupportedModelError
        If, with ``native``, the file holds other weights than those of `Orb`.
    """
    name = foreign.one_of(os.fspath(model), MODELS)
    if native:
        state = torch.load(downloaded(MODELS[name]), map_location="cpu", weights_only=True)
        return _native(
            state,
            precision,
            conservative="-conservative-" in name,
            stress="-omol" not in name,
            max_neighbours=20 if "-20-" in name else MANY_NEIGHBOURS,
        )
    make = ORB.load("forcefield.pretrained").ORB_PRETRAINED_MODELS[name]
    before = torch.get_float32_matmul_precision()
    path = str(downloaded(MODELS[name]))
    with foreign.default_dtype(torch.float32):
        made = make(path, device="cpu", precision="float32-highest", compile=False)
    torch.set_float32_matmul_precision(before)
    return from_orb_models(made.requires_grad_(True), precision)
