"""ASE atoms to graphs and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graph_pes.periodic_table import check_atomic_numbers
from graph_pes.tensors import voigt_6_to_full_3x3

from .graph import DERIVED_KEYS, DIRECTED, AtomicGraph
from .lists import neighbour_list
from .others import HEAD, head_number
from .properties import DEFAULT_LABELS, PROPERTIES, PropertyKey, expected_shape, label_dtype

if TYPE_CHECKING:
    import ase


def graph_from_ase(
    structure: ase.Atoms,
    cutoff: float,
    property_mapping: Mapping[str, PropertyKey] | None,
    others_to_include: Sequence[str] | None,
    dtype: torch.dtype | None,
) -> AtomicGraph:
    """See `AtomicGraph.from_ase`."""
    dtype = dtype or torch.get_default_dtype()
    values = stored_values(structure)
    if property_mapping is None:
        property_mapping = {key: key for key in DEFAULT_LABELS if key in values}
    if others_to_include is None:
        others_to_include = [key for key in ("total_charge", "total_spin") if key in values]
    missing = [key for key in [*property_mapping, *others_to_include] if key not in values]
    if missing:
        raise ValueError(
            f"Unable to find properties: {missing}. The structure ({structure.symbols}) has "
            f"{sorted(values) or 'no labels'}"
        )
    check_atomic_numbers(structure.numbers.tolist())
    # The list is found in double precision, from the positions as they were given.
    pbc = torch.tensor(structure.pbc, dtype=torch.bool)
    R = torch.tensor(structure.positions, dtype=torch.float64)
    cell = torch.tensor(structure.cell.array, dtype=torch.float64)
    edges, offsets = neighbour_list(R, cell, pbc, cutoff)
    return AtomicGraph(
        Z=torch.tensor(structure.numbers, dtype=torch.long),
        R=R.to(dtype),
        cell=cell.to(dtype),
        neighbour_list=edges,
        # Half precision has no integers beyond 2048.
        neighbour_cell_offsets=offsets.to(torch.promote_types(dtype, torch.float32)),
        properties={
            target: _label(target, source, values[source], len(structure), dtype)
            for source, target in property_mapping.items()
        },
        cutoff=float(cutoff),
        other={key: _other(key, values[key], dtype) for key in others_to_include},
        pbc=pbc,
    )


def graph_to_ase(graph: AtomicGraph) -> ase.Atoms:
    """See `AtomicGraph.to_ase`."""
    import ase

    if graph.batch is not None:
        raise ValueError("to_ase: expected a single structure, got a batch of them")

    def array(x: Tensor) -> np.ndarray:
        return x.detach().cpu().numpy().copy()

    atoms = ase.Atoms(
        numbers=array(graph.Z),
        positions=array(graph.R),
        cell=array(graph.cell),
        pbc=None if graph.pbc is None else array(graph.pbc),
    )
    for key, value in {**graph.other, **graph.properties}.items():
        if key in (*DERIVED_KEYS, DIRECTED):
            continue
        per_atom = PROPERTIES[key].per == "atom" if key in PROPERTIES else False
        if per_atom:
            atoms.arrays[key] = array(value)
        else:
            atoms.info[key] = value.item() if value.dim() == 0 else array(value)
    return atoms


def stored_values(structure: ase.Atoms) -> dict[str, Any]:
    """Labels by name; results of a calculator come before arrays, arrays before info.

    Results that a calculator holds for other positions are left out; those read from a file
    are labels, which belong to the structure whatever was done to it.
    """
    from ase.calculators.calculator import Calculator
    from ase.calculators.singlepoint import SinglePointCalculator

    values = {**structure.info, **structure.arrays}
    calc = structure.calc
    if isinstance(calc, SinglePointCalculator) or (
        isinstance(calc, Calculator) and not calc.check_state(structure)
    ):
        values.update(calc.results)
    return {k: v for k, v in values.items() if v is not None and k not in ("numbers", "positions")}


def _label(key: PropertyKey, source: str, value: Any, n_atoms: int, dtype: torch.dtype) -> Tensor:
    if key not in PROPERTIES:
        raise ValueError(
            f"{source!r} is mapped to an unknown property, {key!r}: expected one of "
            f"{sorted(PROPERTIES)}"
        )
    try:
        tensor = torch.from_numpy(np.array(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the label {source!r} is not a number or an array of numbers: {value!r}"
        ) from error
    shape = expected_shape(key, n_atoms)
    is_matrix = PROPERTIES[key].per == "structure" and shape == (3, 3)
    if is_matrix and tensor.shape == (6,):
        tensor = voigt_6_to_full_3x3(tensor)
    elif is_matrix and tensor.shape == (9,):
        tensor = tensor.reshape(3, 3)
    elif shape is not None and _without_ones(tensor.shape) == _without_ones(shape):
        tensor = tensor.reshape(shape)
    fits = tensor.shape == shape if shape is not None else tensor.shape[:1] == (n_atoms,)
    if not fits:
        raise ValueError(
            f"the label {source!r} ({key}) of a structure of {n_atoms} atoms should have shape "
            f"{shape or (n_atoms, '...')}, but has {tuple(tensor.shape)}"
        )
    if not torch.isfinite(tensor).all():
        raise ValueError(f"the label {source!r} ({key}) holds a value that is NaN or infinite")
    return tensor.to(label_dtype(key, dtype))


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Axes of length one may be missing or superfluous in data."""
    return tuple(n for n in shape if n != 1)


def _other(key: str, value: Any, dtype: torch.dtype) -> Tensor:
    if key == HEAD and isinstance(value, str):
        return torch.tensor(head_number(value))
    array = np.array(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{key!r} should be a number or an array of numbers to be part of a graph, but is "
            f"{value!r}: change it, or leave it out of others_to_include"
        )
    tensor = torch.from_numpy(array)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
