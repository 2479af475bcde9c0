"""Data sets: sequences of labelled graphs."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final, overload

import torch
from torch.utils.data import Dataset

from graph_pes.atomic_graph import PROPERTIES, AtomicGraph, PropertyKey
from graph_pes.atomic_graph.ase_io import stored_values
from graph_pes.atomic_graph.properties import DEFAULT_LABELS

from .selection import Selection
from .transforms import Transform, parse_transform

if TYPE_CHECKING:
    import ase

#: How many structures are looked at to find out which labels a data set has.
_STRUCTURES_TO_LOOK_AT: Final[int] = 256


class GraphDataset(Dataset[AtomicGraph]):
    """Graphs, each transformed anew when it is accessed.

    Parameters
    ----------
    graphs
        At least one graph.
    transform
        A function from graph to graph, or the name of one (``"random_rotation"``).

    Attributes
    ----------
    graphs
        The graphs before they are transformed.

    Raises
    ------
    ValueError
        If there are no graphs, or the transform is unknown.

    Examples
    --------
    >>> from ase.build import molecule
    >>> graphs = [AtomicGraph.from_ase(molecule(m), cutoff=3.0) for m in ("H2O", "CH4")]
    >>> dataset = GraphDataset(graphs, transform="random_rotation")
    >>> len(dataset), dataset[-1]
    (2, AtomicGraph(atoms=5, edges=20, has_cell=False, cutoff=3.0))
    """

    def __init__(self, graphs: Sequence[AtomicGraph], transform: Transform | str | None = None):
        if len(graphs) == 0:
            raise ValueError(
                f"{type(self).__name__}: the data set is empty, expected at least one graph"
            )
        self.graphs = graphs
        self.transform = parse_transform(transform)

    def __getitem__(self, index: int) -> AtomicGraph:
        return self.transform(self.graphs[_checked_index(index, len(self))])

    def __len__(self) -> int:
        return len(self.graphs)

    def prepare_data(self) -> None:
        """Called once, by the first of all processes, before `setup`; sets no state."""

    def setup(self) -> None:
        """Called by every process before the first graph is drawn; may be called again."""

    @property
    def properties(self) -> list[PropertyKey]:
        """Labels that any of the graphs has.

        Where graphs are made on access, only the first few hundred structures are looked at.
        """
        found = _label_names(self.graphs)
        return [key for key in PROPERTIES if key in found]

    def config_types(self) -> list[str | None] | None:
        """What kind of structure each one is, where the source of the data says so.

        Returns
        -------
        list[str | None] | None
            One per graph, None for those without; None if there are none at all.
        """
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,}, properties={self.properties})"


class ASEToGraphDataset(GraphDataset):
    """ASE structures as a data set of graphs.

    Floats take torch's default dtype at the time when the data set is made, energies are
    float64.

    Parameters
    ----------
    structures
        At least one structure. Error messages call them by their index, and also by their
        file if this is a `Selection`.
    cutoff
        List neighbours up to this distance, in Å.
    pre_transform
        Make all graphs once, in `setup`, and keep them in memory; otherwise each graph is
        made whenever it is accessed.
    property_mapping
        ``{name in ASE: name in the graph}``, see `AtomicGraph.from_ase`. Labels that are not
        mapped are left out; by default energy, forces, stress, virial and tensor are taken
        from those structures that have them.
    others_to_include
        Further entries of ``info`` and ``arrays`` to keep in ``graph.other``.
    transform
        A function from graph to graph, or the name of one.

    Attributes
    ----------
    structures
        The structures as they were given, in the order of the graphs.

    Raises
    ------
    ValueError
        If there are no structures. Later, in `setup` or on access, if a structure can't be
        made into a graph: for a label that is missing, of the wrong shape or not finite,
        positions that are not finite, or a periodic cell without volume.

    Examples
    --------
    >>> from ase.build import molecule
    >>> water = molecule("H2O")
    >>> water.info["U0"] = -14.2
    >>> ASEToGraphDataset([water], cutoff=3.0, property_mapping={"U0": "energy"})
    ASEToGraphDataset(1, properties=['energy'])
    """

    def __init__(
        self,
        structures: Sequence[ase.Atoms],
        cutoff: float,
        pre_transform: bool = False,
        property_mapping: Mapping[str, PropertyKey] | None = None,
        others_to_include: Sequence[str] | None = None,
        transform: Transform | str | None = None,
    ):
        self.structures = structures
        self.pre_transform = pre_transform
        graphs = _GraphsOnAccess(
            structures, cutoff, property_mapping, others_to_include, torch.get_default_dtype()
        )
        super().__init__(graphs, transform)

    def setup(self) -> None:
        """Make all graphs, if they are to be made in advance and have not been yet."""
        if self.pre_transform and isinstance(self.graphs, _GraphsOnAccess):
            self.graphs = list(self.graphs)

    def config_types(self) -> list[str | None] | None:
        """The ``info["config_type"]`` of each structure; None if none has any."""
        found = [structure.info.get("config_type") for structure in self.structures]
        types = [None if value is None else str(value) for value in found]
        return None if all(value is None for value in types) else types


class ConcatDataset(GraphDataset):
    """Several data sets, one after the other.

    Parameters
    ----------
    **datasets
        The data sets by name. Each keeps its own transform.

    Examples
    --------
    >>> from ase.build import bulk, molecule
    >>> molecules = GraphDataset([AtomicGraph.from_ase(molecule("H2O"), cutoff=3.0)])
    >>> crystals = GraphDataset([AtomicGraph.from_ase(bulk("Cu"), cutoff=3.0)])
    >>> ConcatDataset(molecules=molecules, crystals=crystals)[1]
    AtomicGraph(atoms=1, edges=12, has_cell=True, cutoff=3.0)
    """

    def __init__(self, **datasets: GraphDataset):
        self.datasets = datasets
        super().__init__(_Concatenation(list(datasets.values())))

    def prepare_data(self) -> None:
        """Prepare each of the data sets."""
        for dataset in self.datasets.values():
            dataset.prepare_data()

    def setup(self) -> None:
        """Set up each of the data sets."""
        for dataset in self.datasets.values():
            dataset.setup()

    def config_types(self) -> list[str | None] | None:
        """Those of each of the data sets, one after the other; None if none has any."""
        parts = [(dataset.config_types(), len(dataset)) for dataset in self.datasets.values()]
        if all(types is None for types, _ in parts):
            return None
        return [t for types, n in parts for t in (types if types is not None else [None] * n)]


@dataclass(frozen=True)
class DatasetCollection:
    """Data to train on, to choose the best model with, and to test it on.

    Attributes
    ----------
    train
        Data set for training.
    valid
        Data set for validation.
    test
        Data set for testing, several of them by name, or none.
    """

    train: GraphDataset
    valid: GraphDataset
    test: GraphDataset | dict[str, GraphDataset] | None = None


@dataclass(frozen=True)
class _GraphsOnAccess(Sequence[AtomicGraph]):
    """Graphs that are made from structures whenever they are accessed."""

    structures: Sequence[ase.Atoms]
    cutoff: float
    property_mapping: Mapping[str, PropertyKey] | None
    others_to_include: Sequence[str] | None
    dtype: torch.dtype

    @overload
    def __getitem__(self, index: int) -> AtomicGraph: ...
    @overload
    def __getitem__(self, index: slice) -> list[AtomicGraph]: ...
    def __getitem__(self, index: int | slice) -> AtomicGraph | list[AtomicGraph]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = _checked_index(index, len(self))
        try:
            return AtomicGraph.from_ase(
                self.structures[index],
                cutoff=self.cutoff,
                property_mapping=self.property_mapping,
                others_to_include=self.others_to_include,
                dtype=self.dtype,
            )
        except Exception as error:
            if isinstance(self.structures, Selection):
                name = self.structures.name_of(index)
            else:
                name = f"structure {index}"
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            raise ValueError(f"{name}: {reason}") from error

    def __len__(self) -> int:
        return len(self.structures)

    def label_names(self) -> set[PropertyKey]:
        """Labels that structures have, or that all of them must have."""
        if self.property_mapping is not None:
            return set(self.property_mapping.values())
        found: set[PropertyKey] = set()
        for index in range(min(len(self), _STRUCTURES_TO_LOOK_AT)):
            found.update(stored_values(self.structures[index]))
        return found.intersection(DEFAULT_LABELS)


@dataclass(frozen=True)
class _Concatenation(Sequence[AtomicGraph]):
    """The graphs of several data sets, transformed by each."""

    datasets: Sequence[GraphDataset]

    @overload
    def __getitem__(self, index: int) -> AtomicGraph: ...
    @overload
    def __getitem__(self, index: slice) -> list[AtomicGraph]: ...
    def __getitem__(self, index: int | slice) -> AtomicGraph | list[AtomicGraph]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = _checked_index(index, len(self))
        ends = list(accumulate(map(len, self.datasets)))
        which = bisect_right(ends, index)
        return self.datasets[which][index - ends[which]]

    def __len__(self) -> int:
        return sum(map(len, self.datasets))

    def label_names(self) -> set[PropertyKey]:
        """Labels that any of the data sets has."""
        return {key for dataset in self.datasets for key in dataset.properties}


def _label_names(graphs: Sequence[AtomicGraph]) -> set[PropertyKey]:
    if isinstance(graphs, _GraphsOnAccess | _Concatenation):
        return graphs.label_names()
    return {key for graph in graphs for key in graph.properties}


def _checked_index(index: int, length: int) -> int:
    """The index, counted from the end if it is negative."""
    index = operator.index(index)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range for a data set of {length} graphs")
    return index % length
