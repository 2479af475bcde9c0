"""The data structure that every model, dataset and driver speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

from .properties import PropertyKey

if TYPE_CHECKING:
    import ase

DEFAULT_CUTOFF: Final[float] = 5.0

#: Keys of ``AtomicGraph.other`` that hold quantities derived from the edges. They are kept
#: consistent by `trim_edges`, recomputed when needed, and never batched or shown.
EDGE_VECTORS: Final[str] = "_edge_vectors"
TRIPLET_EDGES: Final[str] = "_triplet_edges"
TRIPLET_CUTOFF: Final[str] = "_triplet_cutoff"
#: Number of neighbours of each atom, on graphs whose edges form a matrix (`as_neighbour_matrix`).
NEIGHBOUR_COUNTS: Final[str] = "_neighbour_counts"
#: Atomic numbers of all atoms that edges lead to, on graphs of which some belong to other
#: processes (`with_ghosts`).
GHOSTS: Final[str] = "_ghosts"
#: What `undirected_edges` gives, on graphs of which that is known.
UNDIRECTED: Final[str] = "_undirected"
DERIVED_KEYS: Final[tuple[str, ...]] = (
    EDGE_VECTORS,
    TRIPLET_EDGES,
    TRIPLET_CUTOFF,
    NEIGHBOUR_COUNTS,
    GHOSTS,
    UNDIRECTED,
)

#: Key of ``AtomicGraph.other`` that marks a graph in which the reverse of an edge may be missing.
DIRECTED: Final[str] = "_directed"


class AtomicGraph(NamedTuple):
    """One structure, or a batch of structures, as a graph of neighbouring atoms.

    Graphs are immutable: use `replace` to change a field.

    Attributes
    ----------
    Z
        Atomic numbers, shape (N,), int64.
    R
        Positions in Å, shape (N, 3).
    cell
        Lattice vectors as rows, in Å: shape (3, 3), or (S, 3, 3) for a batch; zeros if there
        is no cell.
    neighbour_list
        Shape (2, E), int64: row 0 holds the central atom i and row 1 the neighbour j of each
        edge. Both directions are present, and edges are sorted by i.
    neighbour_cell_offsets
        Shape (E, 3): the edge vector is ``R[j] + offset @ cell - R[i]``.
    properties
        Labels, by the names in `PROPERTIES`. In a batch, NaN marks the label of a structure
        that has none (see `label_mask`).
    cutoff
        The distance, in Å, up to which neighbours are listed.
    other
        Anything else, such as ``total_charge``.
    batch
        Index of the structure of each atom, shape (N,), for batches only.
    ptr
        Index of the first atom of each structure, then N: shape (S + 1,), for batches only.
    pbc
        Periodic directions, shape (3,), or (S, 3) for a batch.

    Examples
    --------
    >>> from ase.build import molecule
    >>> AtomicGraph.from_ase(molecule("H2O"), cutoff=1.2)
    AtomicGraph(atoms=3, edges=4, has_cell=False, cutoff=1.2)
    """

    Z: Tensor
    R: Tensor
    cell: Tensor
    neighbour_list: Tensor
    neighbour_cell_offsets: Tensor
    properties: dict[PropertyKey, Tensor]
    cutoff: float
    other: dict[str, Tensor]
    batch: Tensor | None = None
    ptr: Tensor | None = None
    pbc: Tensor | None = None

    @classmethod
    def from_ase(
        cls,
        structure: ase.Atoms,
        cutoff: float = DEFAULT_CUTOFF,
        property_mapping: Mapping[str, PropertyKey] | None = None,
        others_to_include: Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
    ) -> AtomicGraph:
        """Graph of an ASE structure, which is left as it was.

        Parameters
        ----------
        structure
            The structure. Labels are taken from its ``info``, ``arrays`` and the results
            already held by its calculator (nothing is calculated).
        cutoff
            List neighbours up to this distance, in Å.
        property_mapping
            ``{name in ASE: name in the graph}``. By default energy, forces, stress, virial
            and tensor are taken where present. Stress and virial may have six components
            (ASE's Voigt order: xx, yy, zz, yz, xz, xy), nine or 3×3.
        others_to_include
            Further entries of ``info`` and ``arrays`` to keep in ``other``; by default
            ``total_charge`` and ``total_spin``.
        dtype
            Precision of positions, cell and labels (energies are always float64): by default
            torch's default dtype.

        Raises
        ------
        ValueError
            If a mapped label is missing, is not finite or has the wrong shape; if positions
            are not finite; if a periodic direction has no lattice vector.

        Examples
        --------
        >>> from ase.build import bulk
        >>> AtomicGraph.from_ase(bulk("Cu"), cutoff=3.0)
        AtomicGraph(atoms=1, edges=12, has_cell=True, cutoff=3.0)
        """
        from .ase_io import graph_from_ase

        return graph_from_ase(structure, cutoff, property_mapping, others_to_include, dtype)

    def to_ase(self) -> ase.Atoms:
        """The structure as ASE atoms, with labels in ``info`` and ``arrays``.

        Raises
        ------
        ValueError
            For a batch of structures.
        """
        from .ase_io import graph_to_ase

        return graph_to_ase(self)

    @classmethod
    def create_with_defaults(
        cls,
        Z: Tensor,
        R: Tensor,
        cell: Tensor | None = None,
        neighbour_list: Tensor | None = None,
        neighbour_cell_offsets: Tensor | None = None,
        properties: dict[PropertyKey, Tensor] | None = None,
        other: dict[str, Tensor] | None = None,
        cutoff: float = 0.0,
        pbc: Tensor | None = None,
    ) -> AtomicGraph:
        """Graph from tensors: no cell, no edges and no labels unless they are given.

        Edges are brought into order of their central atom.

        Examples
        --------
        >>> AtomicGraph.create_with_defaults(Z=torch.tensor([1, 1]), R=torch.rand(2, 3))
        AtomicGraph(atoms=2, edges=0, has_cell=False, cutoff=0.0)
        """
        if cell is None:
            cell = R.new_zeros(3, 3)
        if neighbour_list is None:
            neighbour_list = torch.zeros(2, 0, dtype=torch.long, device=R.device)
        if neighbour_cell_offsets is None:
            neighbour_cell_offsets = R.new_zeros(neighbour_list.shape[1], 3)
        order = torch.argsort(neighbour_list[0], stable=True)
        return cls(
            Z=Z,
            R=R,
            cell=cell,
            neighbour_list=neighbour_list[:, order],
            neighbour_cell_offsets=neighbour_cell_offsets[order],
            properties=properties or {},
            cutoff=cutoff,
            other=other or {},
            pbc=pbc,
        )

    def to(self, device: torch.device | str) -> AtomicGraph:
        """The same graph on another device."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device)
            if isinstance(value, dict):
                return {key: move(x) for key, x in value.items()}
            return value

        return AtomicGraph(*map(move, self))

    def __repr__(self) -> str:
        name = "AtomicGraph"
        info: dict[str, Any] = {}
        if self.ptr is not None:
            name, info["structures"] = "AtomicGraphBatch", self.ptr.shape[0] - 1
        info["atoms"] = self.Z.shape[0]
        info["edges"] = self.neighbour_list.shape[1]
        info["has_cell"] = bool((self.cell != 0).any())
        info["cutoff"] = float(f"{self.cutoff:.3g}")
        if self.properties:
            info["properties"] = list(self.properties)
        visible = [key for key in self.other if key not in (*DERIVED_KEYS, DIRECTED)]
        if visible:
            info["other"] = visible
        return f"{name}({', '.join(f'{k}={v}' for k, v in info.items())})"


def replace(graph: AtomicGraph, **fields: Any) -> AtomicGraph:
    """A copy of a graph with some fields changed.

    Examples
    --------
    >>> graph = AtomicGraph.create_with_defaults(Z=torch.tensor([1]), R=torch.zeros(1, 3))
    >>> replace(graph, R=graph.R + 1).R
    tensor([[1., 1., 1.]])
    """
    return graph._replace(**fields)
