"""Functions of structures as archives, which PLUMED reads as collective variables."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, PropertyKey
from graph_pes.deploy.engine import ExportError
from graph_pes.models.base import GraphPropertyModel

from .export import Description, export_metatomic
from .function_model import CollectiveVariables
from .program import BatchModel, example_batch


def export_cv(
    function_or_model: Callable[[AtomicGraph], Tensor] | GraphPropertyModel,
    path: str | os.PathLike[str],
    *,
    cutoff: float | None = None,
    output: PropertyKey | None = None,
    dtype: torch.dtype = torch.float64,
    devices: Sequence[str] = ("cpu", "cuda"),
    description: Description | None = None,
) -> None:
    """Write a function of structures as an archive that PLUMED's action METATOMIC reads.

    Its values are the components of the output ``feature``, and its derivatives those of the
    operations that the function does, without differences or approximations.

    Parameters
    ----------
    function_or_model
        A function of an `AtomicGraph`, written with the functions of `graph_pes.atomic_graph`,
        that gives one value or K values of a structure; it is called with a batch of S
        structures, and returns (S,) or (S, K). It may be a ``torch.nn.Module``. Or a model of
        properties.
    path
        Ending in ``.pt``.
    cutoff
        Up to which distance, in Å, the graph has edges; that of a model is known.
    output
        Which property of a model to take; by default the first. Those of atoms are exported as
        such, and summed where a value of the structure is asked for.
    dtype
        Precision.
    devices
        What it may run on, the preferred one first.
    description
        Name, authors and references.

    Raises
    ------
    ImportError
        If metatomic is not installed.
    ExportError
        If there is no cutoff, if the function can't be traced, or if its result has another
        shape; nothing is written.

    Examples
    --------
    >>> import tempfile
    >>> from graph_pes.atomic_graph import (
    ...     neighbour_distances,
    ...     sum_over_neighbours,
    ...     sum_per_structure,
    ... )
    >>> def bonds(graph: AtomicGraph) -> Tensor:
    ...     near = torch.sigmoid((1.5 - neighbour_distances(graph)) / 0.1)
    ...     return sum_per_structure(sum_over_neighbours(near, graph), graph) / 2
    >>> export_cv(bonds, tempfile.mkdtemp() + "/bonds.pt", cutoff=3.0)
    """
    model = function_or_model
    if not isinstance(model, GraphPropertyModel):
        if cutoff is None:
            raise ExportError("export_cv: a function needs a cutoff in Å")
        if isinstance(model, torch.nn.Module):
            model = copy.deepcopy(model).to(dtype)
        model = CollectiveVariables(model, cutoff)
        _check_shape(model, dtype)
    chosen = model.implemented_properties[0] if output is None else output
    if chosen not in model.implemented_properties:
        raise ExportError(
            f"export_cv: expected an output among {model.implemented_properties}, got {output!r}"
        )
    export_metatomic(
        model,
        path,
        dtype=dtype,
        devices=devices,
        description=description or Description(name="collective variables"),
        names={chosen: "feature"},
    )


def _check_shape(model: CollectiveVariables, dtype: torch.dtype) -> None:
    """Make sure that there are values for each structure of a batch."""
    S = 4
    (values,) = BatchModel(model)(*example_batch(model, dtype, structures=S))
    if values.dim() != 2 or values.shape[0] != S:
        raise ExportError(
            f"export_cv: the function returned the shape {tuple(values.shape)} for a batch of {S} "
            f"structures, expected ({S},) or ({S}, K): sum over atoms with sum_per_structure"
        )
