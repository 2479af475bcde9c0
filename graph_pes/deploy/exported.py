"""Exported models in Python: whatever a driver can do with a model it can do with its file."""

from __future__ import annotations

import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    PROPERTIES,
    AtomicGraph,
    Property,
    PropertyKey,
    is_batch,
    number_of_structures,
)
from graph_pes.atomic_graph.ghosts import ghost_exchange
from graph_pes.models.base import GraphPropertyModel, finished
from graph_pes.models.derivatives import (
    checked_volumes,
    energies_of_members,
    stress_from_virial,
    total_energy,
    virial_from_stress,
)
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.periodic_table import MAX_Z

from .engine import EngineInputs, ExportError, WholeStructure, engine_inputs, predictions_from
from .outputs import ASSUMED

#: Number of the present form of exported files.
FORMAT = 7

#: Name of the metadata in the archive of a portable file.
METADATA_FILE = "graph_pes.json"


@dataclass(frozen=True)
class Metadata:
    """What an engine has to know of an exported model.

    Attributes
    ----------
    cutoff
        In Å.
    dtype
        Of the vectors and gradients.
    device
        That the program runs on: ``cpu`` or ``cuda``.
    elements
        Chemical symbols of the elements that the model knows; none if it did not say.
    fitted
        Whether it was fitted to just these.
    made_for
        Chemical symbols of the elements that the model has a place for, all others being refused;
        none if there is one for any.
    assumed
        Which of ``total_charge`` and ``total_spin`` the model looks at: the program takes them for
        0 and 1.
    outputs
        Names of what a call returns: see `EngineModel`.
    kinds
        What each output belongs to: ``"atom"``, ``"edge"``, or the structure of those atoms that
        count, ``"sum"`` if that of parts of a structure add up, else ``"structure"``.
    widths
        Numbers in each value.
    units
        Of each output, where it is known.
    whole_structure
        Whether the program has to know all of a structure, and one structure at a time.
    layers
        How many steps from neighbour to neighbour the energies of atoms reach.
    exchanges_ghosts
        Whether the model runs on a part of a structure, and asks the engine for what it has to
        know of ghost atoms; otherwise the engine has to let it compute them as well, up to
        ``layers`` steps away.
    exchange_widths
        Numbers per atom in each exchange of ghosts, in order.
    radial_tables
        Size and errors of the tables that stand for networks of the distance, or ``"none"``.
    energy_unit, length_unit
        eV and Å.
    products
        Precision of matrix products: ``"full"``, that of the rest, or ``"bfloat16"``.
    graph_pes, torch
        Versions that made the file.
    format
        Number of the form of the file.
    """

    cutoff: float
    dtype: str
    device: str
    elements: list[str]
    fitted: bool
    made_for: list[str]
    assumed: list[str]
    outputs: list[str]
    kinds: list[str]
    widths: list[int]
    units: list[str]
    whole_structure: bool
    layers: int
    exchanges_ghosts: bool
    exchange_widths: list[int]
    radial_tables: str
    products: str
    graph_pes: str
    torch: str
    energy_unit: str = "eV"
    length_unit: str = "Angstrom"
    format: int = FORMAT

    def as_strings(self) -> dict[str, str]:
        """Each value as JSON, for containers that hold strings only."""
        return {key: json.dumps(value) for key, value in asdict(self).items()}

    @classmethod
    def from_strings(cls, strings: dict[str, str]) -> Metadata:
        """The opposite of `as_strings`."""
        return cls(**{f.name: json.loads(strings[f.name]) for f in fields(cls)})


class ExportedModel(GraphPropertyModel):
    """A model in a file made by ``graph-pes-export``.

    It predicts what the model predicted, at the speed of compiled code, but can't be trained or
    changed: its predictions are always detached.

    Parameters
    ----------
    path
        A ``.pt2`` file, compiled for this kind of machine or portable.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ExportError
        If it holds no exported model, or one of a newer format.
    """

    def __init__(self, path: str | os.PathLike[str]):
        program, metadata = read_exported(os.fspath(path))
        super().__init__(metadata.cutoff, _declared(metadata))
        self._program, self.metadata = program, metadata
        self._has_been_pre_fit.fill_(metadata.fitted)
        self.made_for = (
            AtomicOneHot(metadata.made_for).to(self.device) if metadata.made_for else None
        )

    @property
    def predictable_properties(self) -> set[PropertyKey]:
        """Of models of direct forces, nothing that is a derivative of the energy."""
        known, own = super().predictable_properties, set(self.implemented_properties)
        if "gradients" in self.metadata.outputs:
            return known
        if own & {"stress", "virial"}:
            own |= {"stress", "virial"}
        return known - ({"forces", "stress", "virial", "forces_uncertainty"} - own)

    @property
    def elements_seen(self) -> list[str]:
        """Symbols of the elements that the model knows."""
        return self.metadata.elements

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the geometry that the program takes."""
        return getattr(torch, self.metadata.dtype)

    @property
    def device(self) -> torch.device:
        """Where the program runs."""
        return torch.device(self.metadata.device)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """What the model itself predicts of a batch, detached: local energies (N,), if any."""
        inputs = engine_inputs(graph, self.dtype)
        results = self.evaluate(inputs, graph, self.implemented_properties)
        return {name: results[name] for name in self.implemented_properties}

    @torch.no_grad()
    def predict(
        self, graph: AtomicGraph, properties: Sequence[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        """Predict properties of one structure or of a batch: see `GraphPESModel.predict`."""
        batch = self._prepared(graph, properties)
        predictions = self.evaluate(engine_inputs(batch, self.dtype), batch, properties)
        return finished(predictions, properties, was_batch=is_batch(graph), detach=True)

    @torch.no_grad()
    def evaluate(
        self, inputs: EngineInputs, batch: AtomicGraph, properties: Sequence[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        """Predictions, those asked for among them, for neighbours that are known already.

        Parameters
        ----------
        inputs
            The neighbours of the atoms of a batch.
        batch
            The structures; its edges are not used.

        Raises
        ------
        ValueError
            If a neighbour is none of the atoms, an atomic number none of an element, or an element
            none that the model was made for: compiled code does not look. If a structure has a
            charge or spin that the model depends on, which the program does not take.
        """
        self._check_assumptions(batch)
        check_range("neighbours", inputs.neighbours, len(inputs.Z) - 1)
        check_range("atomic numbers", inputs.Z, MAX_Z)
        if self.made_for is not None:
            self.made_for.check(inputs.Z)
        results = self._outputs(inputs, batch)
        if "local_energies" not in results:
            return results
        energies = results["local_energies"]
        results |= energies_of_members(results, batch)
        if "gradients" in results:
            gradients = results.pop("gradients")
            return results | predictions_from(inputs, energies, gradients, batch, properties)
        if "stress" in properties:
            checked_volumes(batch)
        if "virial" in properties and "virial" not in results:
            results["virial"] = virial_from_stress(results["stress"], batch)
        if "stress" in properties and "stress" not in results:
            results["stress"] = stress_from_virial(results["virial"], batch)
        return results | {"energy": total_energy(energies, batch)}

    def _check_assumptions(self, batch: AtomicGraph) -> None:
        for key in self.metadata.assumed:
            found = batch.other.get(key)
            if found is not None and bool((found != ASSUMED[key]).any()):
                raise ValueError(
                    f"expected a {key} of {ASSUMED[key]:g}, which exported and compiled models "
                    f"assume, got {found.reshape(-1).tolist()}: use the model itself"
                )

    def _run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the program returns; to record nothing saves a tenth of SchNet on 64 atoms."""
        with torch._C._AutoDispatchBelowAutograd():
            return self._program(*inputs)

    def _outputs(self, inputs: EngineInputs, batch: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """What a program that knows of one structure, and of no edges, says of a batch."""
        names, kinds = self.metadata.outputs, self.metadata.kinds
        whole, of_structures = self.metadata.whole_structure, {"sum", "structure"} & set(kinds)
        each: list[tuple[Tensor, ...]] = []
        if whole:
            each = [self._run(*part, *of) for part, of in whole_structures(inputs, batch)]
        elif of_structures:
            each = [self._run(*part) for part in masked_structures(inputs, batch)]
        of_all = () if whole else self._run(*inputs)
        results = {}
        for n, (name, kind) in enumerate(zip(names, kinds, strict=True)):
            if kind in of_structures:
                results[name] = torch.stack([values[n] for values in each])
            else:
                results[name] = torch.cat([values[n] for values in each]) if whole else of_all[n]
            if kind == "edge" and name != "gradients":
                within = inputs.vectors.norm(dim=-1) <= self.metadata.cutoff
                results[name] = results[name][within]
        return results


def masked_structures(inputs: EngineInputs, batch: AtomicGraph) -> Iterator[EngineInputs]:
    """The same atoms once for each structure, of which only its own count."""
    assert batch.batch is not None
    for n in range(number_of_structures(batch)):
        yield inputs._replace(mask=(batch.batch == n).double())


def whole_structures(
    inputs: EngineInputs, batch: AtomicGraph
) -> Iterator[tuple[EngineInputs, WholeStructure]]:
    """One structure of a batch after the other."""
    assert batch.ptr is not None
    pbc = (batch.cell != 0).any(-1) if batch.pbc is None else batch.pbc
    ends = batch.ptr.tolist()
    for n, (begin, end) in enumerate(itertools.pairwise(ends)):
        vectors, neighbours, Z, mask = (x[begin:end].clone() for x in inputs)
        structure = WholeStructure(batch.R[begin:end].double(), batch.cell[n].double(), pbc[n])
        yield EngineInputs(vectors, neighbours - begin, Z, mask), structure


def check_range(name: str, x: Tensor, largest: int) -> None:
    """Make sure that integers are from 0 to the largest that is allowed.

    Raises
    ------
    ValueError
        With the range that was found.
    """
    if x.numel() == 0:
        return
    low, high = (int(limit) for limit in x.aminmax())
    if low < 0 or high > largest:
        raise ValueError(f"expected {name} from 0 to {largest}, got {low} to {high}")


def _declared(metadata: Metadata) -> list[PropertyKey]:
    """Properties that a program predicts itself; those of users are declared as in their code."""
    names = []
    for name, kind, unit in zip(metadata.outputs, metadata.kinds, metadata.units, strict=True):
        if name != "gradients":
            per = "structure" if kind == "sum" else kind
            PROPERTIES.setdefault(name, Property(cast(Any, per), None, unit))
            names.append(name)
    return names


def read_exported(path: str) -> tuple[Callable[..., tuple[Tensor, ...]], Metadata]:
    """The program in a file, and what there is to know of it."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no exported model {path}")
    if not zipfile.is_zipfile(path):
        raise ExportError(f"{path} is no exported model, or is damaged: expected a zip archive")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if archive.testzip() is not None:
            raise ExportError(f"{path} is damaged: the checksum of {archive.testzip()} is wrong")
    ghost_exchange()  # programs look the operator up
    compiled = any("aotinductor" in name for name in names)
    try:
        program, strings = (_compiled if compiled else _portable)(path)
    except (RuntimeError, KeyError) as error:
        raise ExportError(f"{path} holds no model of graph-pes: {error}") from error
    if "format" not in strings:
        raise ExportError(f"{path} was not made by graph-pes-export")
    if int(strings["format"]) > FORMAT:
        raise ExportError(
            f"{path} has format {strings['format']}, but this version of graph-pes reads formats "
            f"up to {FORMAT}: upgrade graph-pes"
        )
    if int(strings["format"]) < FORMAT:
        raise ExportError(f"{path} was made by an older version of graph-pes: export it again")
    return program, Metadata.from_strings(strings)


def _compiled(path: str) -> tuple[Callable[..., Any], dict[str, str]]:
    package = torch._inductor.aoti_load_package(path)
    return package, package.loader.get_metadata()


def _portable(path: str) -> tuple[Callable[..., Any], dict[str, str]]:
    extra = {METADATA_FILE: ""}
    program = torch.export.load(path, extra_files=extra)
    return program.module(), json.loads(extra[METADATA_FILE] or "{}")
