"""Transforms: functions from graph to graph, applied each time an item is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor

from graph_pes.atomic_graph import PROPERTIES, AtomicGraph, is_batch, number_of_atoms, replace
from graph_pes.atomic_graph.graph import DERIVED_KEYS, EDGE_VECTORS
from graph_pes.spelling import nearest

#: What a transform is. It may draw random numbers from torch's generator, which the loader
#: seeds anew for each item and epoch.
Transform: TypeAlias = Callable[[AtomicGraph], AtomicGraph]


@dataclass(frozen=True)
class WithOthers:
    """A transform that adds entries to ``graph.other`` after another one.

    Attributes
    ----------
    transform
        What is done before.
    others
        The entries, which replace those of the same name.
    """

    transform: Transform
    others: Mapping[str, Tensor]

    def __call__(self, graph: AtomicGraph) -> AtomicGraph:
        """The graph with the entries."""
        graph = self.transform(graph)
        return graph._replace(other={**graph.other, **self.others})


def identity(graph: AtomicGraph) -> AtomicGraph:
    """The graph as it is."""
    return graph


def random_rotation(graph: AtomicGraph) -> AtomicGraph:
    r"""Rotate a structure with its cell and all its labels, uniformly at random.

    Vectors become :math:`Q\mathbf{v}` and tensors of rank two :math:`Q T Q^T`; scalars and
    cell offsets stay as they are. The rank of each label follows from its shape in
    `PROPERTIES <graph_pes.atomic_graph.PROPERTIES>`.

    Parameters
    ----------
    graph
        A single structure.

    Raises
    ------
    ValueError
        For a batch, or if it is not known how one of the values rotates.

    Examples
    --------
    >>> from ase.build import molecule
    >>> graph = AtomicGraph.from_ase(molecule("H2O"), cutoff=2.0)
    >>> rotated = random_rotation(graph)
    >>> torch.allclose(torch.pdist(rotated.R), torch.pdist(graph.R), atol=1e-5)
    True
    """
    return rotate(graph, random_rotation_matrix())


def random_rotation_matrix() -> Tensor:
    """A proper rotation drawn uniformly (Haar measure) from torch's generator.

    A normally distributed quaternion has a uniformly distributed direction, and unit
    quaternions cover the rotations evenly (Shoemake, https://doi.org/10.1016/B978-0-08-050755-2.50036-1).

    Returns
    -------
    Tensor
        Shape (3, 3), float64.
    """
    # Nine numbers: plain Python is many times faster here than operations on tensors.
    quaternion = torch.randn(4, dtype=torch.float64).tolist()
    w, x, y, z = (component / math.hypot(*quaternion) for component in quaternion)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=torch.float64)


def rotate(graph: AtomicGraph, rotation: Tensor) -> AtomicGraph:
    """Apply a rotation matrix, shape (3, 3), to everything in a single structure.

    Raises
    ------
    ValueError
        For a batch, or if it is not known how one of the values rotates.
    """
    if is_batch(graph):
        raise ValueError("rotate: expected a single structure, got a batch of them")
    return replace(
        graph,
        R=_rotated(graph.R, 1, rotation),
        cell=_rotated(graph.cell, 1, rotation),  # its rows are vectors
        properties={
            key: _rotated(value, _label_rank(key, value, graph), rotation)
            for key, value in graph.properties.items()
        },
        other={
            key: _rotated(value, _other_rank(key, value, graph), rotation)
            for key, value in graph.other.items()
        },
    )


def _rotated(value: Tensor, rank: int, rotation: Tensor) -> Tensor:
    Q = rotation.to(value)
    if rank == 0:
        return value
    if rank == 1:
        return value @ Q.T
    return Q @ value @ Q.T


def _label_rank(key: str, value: Tensor, graph: AtomicGraph) -> int:
    """Number of Cartesian indices of a label."""
    if key not in PROPERTIES:
        raise ValueError(
            f"random rotation: {key!r} is not a known property, so it is not known how it "
            f"rotates; declare it: graph_pes.atomic_graph.PROPERTIES[{key!r}] = Property(...)"
        )
    shape = PROPERTIES[key].shape
    if shape is None:
        shape = tuple(value.shape[1:] if PROPERTIES[key].per == "atom" else value.shape)
    if shape not in ((), (3,), (3, 3)):
        raise ValueError(
            f"random rotation: it is not known how {key!r} rotates: expected each value to be a "
            f"scalar, a vector (3,) or a Cartesian tensor (3, 3), got the shape {shape}"
        )
    return len(shape)


def _other_rank(key: str, value: Tensor, graph: AtomicGraph) -> int:
    """Number of Cartesian indices of an entry of ``graph.other``."""
    if key == EDGE_VECTORS:
        return 1
    if key in DERIVED_KEYS or not value.is_floating_point():
        return 0
    if key in PROPERTIES:
        return _label_rank(key, value, graph)
    if value.shape[-1:] == (3,) and value.shape != (number_of_atoms(graph),):
        raise ValueError(
            f"random rotation: {key!r} in graph.other, of shape {tuple(value.shape)}, might be a "
            "vector; declare it: "
            f"graph_pes.atomic_graph.PROPERTIES[{key!r}] = Property('atom' or 'structure', ...)"
        )
    return 0


#: Transforms by the name they have in configuration files.
TRANSFORMS: Final[dict[str, Transform]] = {
    "identity": identity,
    "random_rotation": random_rotation,
}


def parse_transform(transform: Transform | str | None) -> Transform:
    """The transform of a name; None means `identity`, and functions are passed through.

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> parse_transform("identity") is parse_transform(None) is identity
    True
    >>> parse_transform("random_rotatoin")
    Traceback (most recent call last):
    ValueError: unknown transform 'random_rotatoin': did you mean 'random_rotation'? ...
    """
    if transform is None:
        return identity
    if callable(transform):
        return transform
    if transform in TRANSFORMS:
        return TRANSFORMS[transform]
    hint = nearest(str(transform), TRANSFORMS)
    raise ValueError(
        f"unknown transform {transform!r}{hint} Expected one of {sorted(TRANSFORMS)}, "
        "or a function from graph to graph"
    )
