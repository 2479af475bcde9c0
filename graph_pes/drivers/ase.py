"""Models as calculators of ASE."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)
from torch import Tensor

from graph_pes.atomic_graph import PROPERTIES, AtomicGraph, PropertyKey, number_of_atoms
from graph_pes.deploy import ExportedModel, compiled
from graph_pes.memory import keep_freed_memory
from graph_pes.models.base import GraphPESModel
from graph_pes.models.committee import Committee
from graph_pes.models.derivatives import has_volume
from graph_pes.tensors import full_3x3_to_voigt_6

from .kept_matrix import KeptMatrix
from .predict import check_elements, evaluation_mode, predict_all, uncertainties_of
from .reuse import ReusableNeighbourList

#: Names of ASE for properties that the models call by another one.
ASE_NAMES: dict[str, PropertyKey] = {"free_energy": "energy", "energies": "local_energies"}

#: What there is of every model; stress, too, unless an exported one predicts forces directly.
PROPERTIES_OF_ASE = ("energy", "free_energy", "energies", "forces")

#: What models take from ``atoms.info``; ASE itself does not notice when these change.
INFO_KEYS = ("total_charge", "total_spin")


class GraphPESCalculator(Calculator):
    """An ASE calculator of any `GraphPESModel`.

    Gives ``energy``, ``free_energy`` (the same), ``energies`` (of the atoms), ``forces`` and
    ``stress``, and of committees ``energy_uncertainty`` and ``forces_uncertainty`` (of the atoms).
    The energy alone costs no derivative; whenever a derivative is asked for,
    energy, forces and, in fully periodic structures, stress are computed together, so that
    asking for one after the other evaluates the model once or twice, not three times.

    Geometry is kept in double precision up to the edge vectors, which the model takes in its
    own. The model itself is used, not a copy of it: it is moved to ``device`` if one is given,
    later changes of its weights show in the results, and it is evaluated in evaluation mode
    but left in the mode it was in.

    Neighbour lists are built to the cutoff plus a skin, and used again for as long as they
    are certain to be complete, also when the cell changes: see `reference_length_covered`.

    Parameters
    ----------
    model
        The model, or the path of one that was exported, ``model.pt2``.
    device
        Where to evaluate it; by default where it is.
    skin
        In Å. About 1 is good for molecular dynamics and relaxation; 0 always builds a new
        neighbour list, which is best for unrelated structures.
    cache_threebody
        Also reuse the triplets of atoms that models with a three-body cutoff need.
    compile
        Use a compiled copy of the model as it is now, several times faster, from a cache on
        disk: see `graph_pes.deploy.cache.compiled`. The first time on a machine takes minutes.
    **kwargs
        Passed to ASE's ``Calculator``.

    Raises
    ------
    TypeError
        If ``model`` is neither a `GraphPESModel` nor an exported one.
    ValueError
        If the skin is negative.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from graph_pes.models import LennardJones
    >>> atoms = bulk("Ar", cubic=True)
    >>> atoms.calc = GraphPESCalculator(LennardJones(cutoff=8.0, epsilon=0.0104, sigma=3.40))
    >>> atoms.get_forces().shape, atoms.get_stress().shape
    ((4, 3), (6,))
    """

    implemented_properties = [*PROPERTIES_OF_ASE, "stress"]  # noqa: RUF012

    def __init__(
        self,
        model: GraphPESModel | ExportedModel | str | os.PathLike[str],
        device: torch.device | str | None = None,
        skin: float = 1.0,
        cache_threebody: bool = True,
        compile: bool = False,
        **kwargs: Any,
    ):
        if isinstance(model, str | os.PathLike):
            model = ExportedModel(model)
        if not isinstance(model, GraphPESModel | ExportedModel):
            raise TypeError(
                "GraphPESCalculator: expected a GraphPESModel, which predicts energies, got "
                f"{type(model).__name__}"
            )
        if not skin >= 0:
            raise ValueError(f"GraphPESCalculator: expected a skin of at least 0 Å, got {skin}")
        super().__init__(**kwargs)
        keep_freed_memory()
        model = model if device is None else model.to(device)
        self.model = compiled(model) if compile and isinstance(model, GraphPESModel) else model
        self._has_stress = "stress" in self.model.predictable_properties
        self.implemented_properties = [
            *PROPERTIES_OF_ASE,
            *(["stress"] if self._has_stress else []),
            *uncertainties_of(self.model),
        ]
        self.skin = float(skin)
        self.cache_threebody = cache_threebody
        self._neighbours: ReusableNeighbourList | None = None
        self._matrix: KeptMatrix | None = None
        self.reset_cache_stats()

    # --- ASE's interface ---

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, charge and spin in ``info`` included."""
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is not None and any(
            self.atoms.info.get(key) != atoms.info.get(key) for key in INFO_KEYS
        ):
            changes.append("info")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Calculate properties (by default energy and forces) into ``self.results``.

        Raises
        ------
        ValueError
            If there are no atoms, or the model was not fitted to one of the elements.
        ase.calculators.calculator.PropertyNotImplementedError
            If stress is asked for, and the cell has no volume, or the model no stress.
        """
        super().calculate(atoms, properties, system_changes)
        self.results = {}
        assert self.atoms is not None
        graph = _without_edges(self.atoms)
        asked = {"energy", "forces"} if properties is None else set(properties)
        uncertainties = uncertainties_of(self.model)
        keys: list[PropertyKey] = ["energy", "local_energies", *uncertainties[:1]]
        if asked & {"forces", "stress", "forces_uncertainty"}:
            keys.append("forces")
            # for nothing, unless all members have to be differentiated for it
            if "forces_uncertainty" in asked or isinstance(self.model, Committee | ExportedModel):
                keys += uncertainties[1:]
            volume = bool(has_volume(graph))
            if "stress" in asked:
                self._check_stress(volume, self.atoms)
            if "stress" in asked or (self._has_stress and volume and self.atoms.pbc.all()):
                keys.append("stress")
        predictions = self._predict(graph, keys)
        for key, value in predictions.items():
            # The batch holds a single structure.
            per_structure = PROPERTIES[key].per == "structure"
            self.results[key] = _ase_value(key, value[0] if per_structure else value)
        self.results["free_energy"] = self.results["energy"]
        self.results["energies"] = self.results.pop("local_energies")

    def _predict(
        self, graph: AtomicGraph, keys: Sequence[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        """Predictions for a batch of this one structure."""
        neighbours = self._complete_list(graph)
        if isinstance(self.model, ExportedModel):
            if self._matrix is None or self._matrix.list is not neighbours:
                self._matrix = KeptMatrix(neighbours, self.model.dtype)
            cell = graph.cell.unsqueeze(0).to(neighbours.device)
            of_list = neighbours.batch.other
            other = {key: x for key, x in of_list.items() if key not in INFO_KEYS} | graph.other
            R = graph.R.to(neighbours.device)
            batch = neighbours.batch._replace(R=R, cell=cell, other=other)
            predictions = self.model.evaluate(self._matrix.inputs(graph), batch, keys)
            return {key: predictions[key] for key in keys}
        with evaluation_mode(self.model), torch.no_grad():
            return self.model.predict(neighbours.applied_to(graph), keys)

    def _check_stress(self, volume: bool, structure: Atoms | AtomicGraph, where: str = "") -> None:
        if not self._has_stress:
            raise PropertyNotImplementedError(
                "the model predicts forces directly, and was exported without the derivatives of "
                "its energy that stress is made of: use the model itself"
            )
        if not volume:
            cell = structure.cell.tolist()
            raise PropertyNotImplementedError(
                f"{where}there is no stress without a volume: the lattice vectors are {cell}"
            )

    def _complete_list(self, graph: AtomicGraph) -> ReusableNeighbourList:
        """The neighbours found before if they are still all, else new ones."""
        self._calls += 1
        old = self._neighbours
        if old is not None and old.device == self.model.device and old.is_complete_for(graph):
            return old
        check_elements(self.model, graph.Z)
        start = time.perf_counter()
        three_body = float(self.model.three_body_cutoff) if self.cache_threebody else 0.0
        new = ReusableNeighbourList.build(
            graph, self.model.cutoff_value, self.skin, three_body, self.model.device
        )
        self._neighbours = new
        self._builds += 1
        self._build_time += time.perf_counter() - start
        return new

    # --- statistics ---

    @property
    def cache_hit_rate(self) -> float:
        """Fraction of the calculations that reused a neighbour list; 0 if there were none."""
        return (self._calls - self._builds) / self._calls if self._calls else 0.0

    @property
    def total_nl_timing(self) -> float:
        """Time spent on building neighbour lists, in seconds."""
        return self._build_time

    @property
    def average_nl_timing(self) -> float:
        """Time per neighbour list that was built, in seconds; 0 if there were none."""
        return self._build_time / self._builds if self._builds else 0.0

    def reset_cache_stats(self) -> None:
        """Start counting, and timing, anew."""
        self._calls, self._builds, self._build_time = 0, 0, 0.0

    # --- many structures ---

    def calculate_all(
        self,
        structures: Iterable[Atoms | AtomicGraph],
        properties: Sequence[str] | None = None,
        batch_size: int = 5,
    ) -> list[dict[str, Any]]:
        """Properties of many structures, evaluated in batches.

        Parameters
        ----------
        structures
            Structures or graphs, periodic or not.
        properties
            Names of ASE or of the model. By default energy and forces, and stress if every
            structure has a volume and the model a stress.
        batch_size
            Number of structures to evaluate at once.

        Returns
        -------
        list[dict]
            One per structure, in order: energies as numbers, everything else as arrays;
            stress and virial have six components in ASE's order.

        Raises
        ------
        ValueError
            If a structure has no atoms, or an element that the model was not fitted to.
        ase.calculators.calculator.PropertyNotImplementedError
            If stress is asked for, and a structure has no volume, or the model no stress.
        """
        graphs = [
            _graph(s, self.model.cutoff_value) if isinstance(s, Atoms) else s for s in structures
        ]
        volumes = [bool(has_volume(g)) for g in graphs]
        if properties is None:
            stress = ["stress"] if self._has_stress and all(volumes) else []
            properties = ["energy", "forces", *stress]
        for n, (graph, volume) in enumerate(zip(graphs, volumes, strict=True)):
            if number_of_atoms(graph) == 0:
                raise ValueError(f"structure {n} has no atoms")
            if "stress" in properties:
                self._check_stress(volume, graph, f"structure {n}: ")
            check_elements(self.model, graph.Z)
        keys = list(dict.fromkeys(ASE_NAMES.get(name, name) for name in properties))
        return [
            {
                name: _ase_value(ASE_NAMES.get(name, name), p[ASE_NAMES.get(name, name)])
                for name in properties
            }
            for p in predict_all(self.model, graphs, keys, batch_size)
        ]


def _graph(atoms: Atoms, cutoff: float) -> AtomicGraph:
    """Graph in double precision, without labels."""
    _check_not_empty(atoms)
    return AtomicGraph.from_ase(atoms, cutoff, property_mapping={}, dtype=torch.float64)


def _without_edges(atoms: Atoms) -> AtomicGraph:
    """The same without neighbours, and nothing checked that a neighbour list will check."""
    _check_not_empty(atoms)
    if any(key in atoms.info or key in atoms.arrays for key in INFO_KEYS):
        return _graph(atoms, cutoff=0.0)
    return AtomicGraph.create_with_defaults(
        Z=torch.tensor(atoms.numbers, dtype=torch.long),
        R=torch.tensor(atoms.positions, dtype=torch.float64),
        cell=torch.tensor(atoms.cell.array, dtype=torch.float64),
        pbc=torch.tensor(atoms.pbc),
    )


def _check_not_empty(atoms: Atoms) -> None:
    if len(atoms) == 0:
        raise ValueError("the structure has no atoms: there is nothing to calculate")


def _ase_value(key: PropertyKey, value: Tensor) -> float | np.ndarray:
    """Numbers and arrays, in double precision, as ASE has them."""
    if key in ("stress", "virial"):
        value = full_3x3_to_voigt_6(value)
    return value.item() if value.dim() == 0 else value.double().cpu().numpy()
