"""CHGNet: bonds, angles and charges of materials."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey
from graph_pes.models import AdditionModel
from graph_pes.models.base import GraphPESModel
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.periodic_table import SYMBOLS
from graph_pes.tensors import safe_norm

from . import foreign
from .chgnet_weights import native_chgnet
from .foreign import Package, Precision, UnsupportedModelError
from .plain import plain

CHGNET = Package("chgnet", "chgnet", "it needs a pymatgen that others do not get on with")
VERSIONS = ("0.3.0", "0.2.0", "r2scan")


class CHGNetModel(GraphPESModel):
    """The network of a CHGNet, without the energies of the atoms.

    Parameters
    ----------
    settings
        The arguments of its class.
    n_elements
        How many elements it is for, from hydrogen on.

    Raises
    ------
    ImportError
        If chgnet is not installed.
    """

    calls_package = "chgnet"

    def __init__(self, settings: Mapping[str, Any], n_elements: int = 94):
        super().__init__(settings["atom_graph_cutoff"], implemented_properties=["local_energies"])
        self.angle_cutoff = float(settings["bond_graph_cutoff"])
        self.one_hot = AtomicOneHot(SYMBOLS[1 : n_elements + 1])
        self.network = foreign.made(lambda: _network(settings))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,)."""
        network: Any = self.network
        bonds = undirected_bonds(graph)
        i, j, vectors = foreign.edges_of(graph)
        r = safe_norm(vectors)
        directions = -vectors / r.unsqueeze(1)
        of_bonds, expansion = r.index_select(0, bonds.first), network.bond_basis_expansion
        first, second = pairs_of_edges(i, r < self.angle_cutoff)
        of_angles = [directions.index_select(0, edges) for edges in (first, second)]
        pairs = [bonds.of_edges.index_select(0, edges) for edges in (first, second)]
        batch, _ = foreign.structures_of(graph)
        g = SimpleNamespace(
            atomic_numbers=graph.Z,
            atom_owners=batch,
            batched_atom_graph=torch.stack([i, j], dim=1),
            batched_bond_graph=torch.stack([i.index_select(0, first), *pairs], dim=1),
            bond_bases_ag=expansion.rbf_expansion_ag(of_bonds),
            bond_bases_bg=expansion.rbf_expansion_bg(of_bonds),
            angle_bases=network.angle_basis_expansion(*of_angles) if len(first) else (),
            directed2undirected=bonds.of_edges,
        )
        energies = network._compute(g, return_site_energies=True)["site_energies"]
        return {"local_energies": torch.cat(list(energies))}


def _network(settings: Mapping[str, Any]) -> nn.Module:
    """A CHGNet with random weights, that adds no energies of atoms."""
    network = CHGNET.load("model").CHGNet(**settings)
    network.composition_model = None
    return network


def undirected_bonds(graph: AtomicGraph) -> SimpleNamespace:
    """Which edges are the same bond, in either direction.

    Returns
    -------
    SimpleNamespace
        ``of_edges`` (E,), the bond that each edge is, and ``first``, one edge of each bond.
    """
    i, j = graph.neighbour_list
    offsets = graph.neighbour_cell_offsets.round().long()
    # Of the two directions, the one whose first number that is not zero is positive.
    signed = torch.cat([(j - i).unsqueeze(1), offsets], dim=1).sign()
    weights = torch.tensor([27, 9, 3, 1], device=i.device)
    forwards = (signed * weights).sum(dim=1) > 0
    ends = torch.where(forwards, torch.stack([i, j]), torch.stack([j, i]))
    keys = torch.cat([ends.T, torch.where(forwards.unsqueeze(1), offsets, -offsets)], dim=1)
    _, of_edges = torch.unique(keys, dim=0, return_inverse=True)
    n = int(of_edges.max()) + 1 if len(of_edges) else 0
    edges = torch.arange(len(of_edges), device=i.device)
    first = edges.new_zeros(n).scatter_(0, of_edges, edges)
    return SimpleNamespace(of_edges=of_edges, first=first)


def pairs_of_edges(i: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """All ordered pairs of different chosen edges that start at the same atom.

    Parameters
    ----------
    i
        Where edges start, sorted: shape (E,).
    chosen
        Booleans of shape (E,).

    Examples
    --------
    >>> i, chosen = torch.tensor([0, 0, 0, 1]), torch.tensor([True, False, True, True])
    >>> pairs_of_edges(i, chosen)
    (tensor([0, 2]), tensor([2, 0]))
    """
    edges = chosen.nonzero()[:, 0]
    _, atom, counts = torch.unique_consecutive(
        i.index_select(0, edges), return_inverse=True, return_counts=True
    )
    of_atom = counts.index_select(0, atom)
    first = torch.arange(len(edges), device=i.device).repeat_interleave(of_atom)
    starts = (counts.cumsum(0) - counts).index_select(0, atom)
    begins = (of_atom.cumsum(0) - of_atom).index_select(0, first)
    within = torch.arange(len(first), device=i.device) - begins
    second = starts.index_select(0, first) + within
    different = first != second
    return edges[first[different]], edges[second[different]]


def chgnet(
    model: str = "0.3.0", precision: Precision | None = None, native: bool = False
) -> AdditionModel:
    """A CHGNet of the Materials Project, for 94 elements; doi:10.1038/s42256-023-00716-3.

    Its energies are those of the Materials Project with the corrections MP2020.

    Parameters
    ----------
    model
        ``"0.3.0"``, ``"0.2.0"`` or ``"r2scan"``, whose weights come with the package.
    precision
        ``"float32"``, that of the files, or ``"float64"``.
    native
        Whether to convert the weights to our own `CHGNet`, which predicts ``magnetic_moments``
        too; not those of 0.2.0.

    Returns
    -------
    AdditionModel
        The sum of ``network``, a `CHGNetModel` or `CHGNet`, and ``offset``, the energies of the
        atoms, in evaluation mode.

    Raises
    ------
    ImportError
        If chgnet is not installed.
    UnsupportedModelError
        If, with ``native``, the network has parts that `CHGNet` has not.
    """
    foreign.one_of(model, VERSIONS)
    loaded = CHGNET.load("model").CHGNet.load(model_name=model, use_device="cpu", verbose=False)
    return from_chgnet(loaded, precision, native)


def from_chgnet(
    network: Any, precision: Precision | None = None, native: bool = False
) -> AdditionModel:
    """A CHGNet that is in memory.

    Parameters
    ----------
    network
        A ``chgnet.model.CHGNet``.
    precision, native
        See `chgnet`.
    """
    settings = plain(network.model_args)
    if not (network.mlp_first and network.is_intensive):
        raise UnsupportedModelError("expected a CHGNet with mlp_first and is_intensive")
    reference = network.composition_model
    energies = reference.fc.weight[0].detach().double().tolist()
    state = {key: x.detach().cpu() for key, x in network.state_dict().items()}
    own = {key: x for key, x in state.items() if not key.startswith("composition_model.")}
    model: GraphPESModel
    if native:
        model = native_chgnet(settings, own)
    else:
        model = CHGNetModel(settings, len(energies))
        foreign.load_weights(model.network, own, "chgnet")
    of_atoms = dict(zip(SYMBOLS[1:], energies, strict=False))
    dtype = next(network.parameters()).dtype
    return foreign.with_energies_of_atoms(model, of_atoms, precision, dtype)
