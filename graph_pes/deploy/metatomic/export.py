"""Models as archives that metatomic's engines load."""

from __future__ import annotations

import copy
import importlib.metadata
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graph_pes.atomic_graph import PROPERTIES, PropertyKey
from graph_pes.deploy.engine import MIN_COLUMNS, EngineModel, ExportError, check_exportable
from graph_pes.deploy.export import check_locality
from graph_pes.deploy.outputs import TOLERANCES, relative_error
from graph_pes.deploy.reach import layers_of
from graph_pes.deploy.trace import dtype_of, known_elements
from graph_pes.files import atomic_write
from graph_pes.models.base import GraphPropertyModel
from graph_pes.models.lora import merged
from graph_pes.periodic_table import ATOMIC_NUMBERS

from .program import BatchModel, Scripted, example_batch, scripted

if TYPE_CHECKING:
    from metatomic.torch import AtomisticModel

#: What metatomic calls properties of ours; others have our name in the domain ``graph_pes``.
OUTPUT_NAMES = {
    "local_energies": "energy",
    "forces": "non_conservative_force",
    "stress": "non_conservative_stress",
    "charges": "charge",
    "local_energies_ensemble": "energy_ensemble",
    # of committees, and properties that a model of one's own may declare under these names
    "energy_ensemble": "energy_ensemble",
    "energy_uncertainty": "energy_uncertainty",
    "features": "feature",
    "feature": "feature",
}

#: What metatomic calls what we want to know of a structure, and in which unit.
INPUT_NAMES = {"total_charge": ("charge", "e"), "total_spin": ("spin_multiplicity", "")}

#: Atoms, columns and structures of the inputs on which an archive is compared with its model.
CHECKED_SIZES = ((1, MIN_COLUMNS, 1), (7, 5, 2), (61, 23, 4))

MISSING = "metatomic archives need metatomic: pip install 'graph-pes[metatomic]'"


@dataclass(frozen=True)
class Description:
    """What users of an archive can read in it.

    Attributes
    ----------
    name, description
        Of the model.
    authors
        Names of those who made it.
    references
        Texts or DOIs: of this ``model``, of its ``architecture``, and of its ``implementation``.
    """

    name: str = ""
    description: str = ""
    authors: Sequence[str] = ()
    references: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {"model", "architecture", "implementation"}
        if unknown := set(self.references) - known:
            raise ValueError(
                f"references: expected {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}"
            )


def export_metatomic(
    model: GraphPropertyModel,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    devices: Sequence[str] = ("cuda", "cpu"),
    description: Description | None = None,
    names: Mapping[PropertyKey, str] = OUTPUT_NAMES,
) -> None:
    """Write a model as an archive for the engines of metatomic.

    The archive has an output for each property that the model predicts itself: ``energy``, of
    structures or per atom; ``non_conservative_force`` and ``non_conservative_stress`` where forces
    and stress are predicted directly; ``charge``; ``energy_ensemble`` and ``energy_uncertainty`` of
    committees; ``feature`` where a model of yours declares a property of this name; and others as
    ``graph_pes::name``. Forces and stress are the derivatives of the energy, which engines take.
    The operations are those of the model, and are compared with it on inputs of three sizes
    before the file is put in place.

    Parameters
    ----------
    model
        Any model; it is not changed.
    path
        Ending in ``.pt``.
    dtype
        Precision of the archive, float32 or float64; by default that of the model.
    devices
        What it may run on, the preferred one first.
    description
        Name, authors and references.
    names
        What to call the outputs; by default as the standard of metatomic does.

    Raises
    ------
    ImportError
        If metatomic is not installed.
    ExportError
        If the model calls another package or can't be traced, or the program would not agree with
        it; nothing is written.
    """
    target = Path(path)
    if target.suffix != ".pt":
        raise ExportError(f"expected a file name that ends in .pt, got {target.name!r}")
    if not isinstance(model, GraphPropertyModel):
        raise ExportError(
            f"expected a GraphPESModel or another model of properties, got {type(model).__name__}"
        )
    check_exportable(model)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # TorchScript's, of itself
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="The TorchScript type system")
        made = os.path.join(folder, "model.pt")
        atomistic_model(model, dtype, devices, description or Description(), names).save(made)
        with atomic_write(target) as temporary:
            shutil.copyfile(made, temporary)


def atomistic_model(
    model: GraphPropertyModel,
    dtype: torch.dtype | None,
    devices: Sequence[str],
    description: Description,
    names: Mapping[PropertyKey, str],
) -> AtomisticModel:
    """A model with all that metatomic has to know of it."""
    try:
        from metatomic.torch import AtomisticModel, ModelCapabilities, ModelMetadata

        from .interface import Interface
    except ImportError as error:
        raise ImportError(MISSING) from error
    model = copy.deepcopy(merged(model)).eval().cpu().to(dtype=dtype).requires_grad_(False)
    dtype = dtype or dtype_of(model)
    function = BatchModel(model)
    program = scripted(function, example_batch(model, dtype))
    check_agreement(function, program, dtype)
    outputs = function.outputs
    shapes = [shape_of(model, name, dtype) for name in outputs]
    inputs = dict(INPUT_NAMES[name] for name in program.structure_inputs)
    per_atom = [PROPERTIES[name].per == "atom" for name in outputs]
    called = [names.get(name, f"graph_pes::{name}") for name in outputs]
    columns = MIN_COLUMNS if function.takes_matrix else 0
    interface = Interface(
        program.program, model.cutoff_value, called, per_atom, shapes, inputs, columns
    )
    elements = [ATOMIC_NUMBERS[symbol] for symbol in known_elements(model)]
    capabilities = ModelCapabilities(
        outputs={name: model_output(key) for name, key in zip(called, outputs, strict=True)},
        atomic_types=elements or sorted(ATOMIC_NUMBERS.values()),
        interaction_range=interaction_range(model),
        length_unit="Angstrom",
        supported_devices=list(devices),
        dtype=str(dtype).removeprefix("torch."),
    )
    version = importlib.metadata.version("graph-pes")
    references = {key: list(values) for key, values in description.references.items()}
    references.setdefault("implementation", []).append(f"graph-pes {version}")
    metadata = ModelMetadata(
        name=description.name or type(model).__name__,
        description=description.description,
        authors=list(description.authors),
        references=references,
        extra={"graph_pes": version, "torch": torch.__version__},
    )
    return AtomisticModel(interface.eval(), metadata, capabilities)


def model_output(key: PropertyKey) -> Any:
    """What a property is to metatomic."""
    from metatomic.torch import ModelOutput

    row = PROPERTIES[key]
    return ModelOutput(
        unit=unit_of(row.unit),
        sample_kind="atom" if row.per == "atom" else "system",
        description=f"{key} of {row.per}s" + (f" in {row.unit}" if row.unit else ""),
    )


def unit_of(unit: str) -> str:
    """A unit in the way of metatomic, or nothing where it does not know it."""
    from metatomic.torch import unit_conversion_factor

    written = unit.replace("Å", "Angstrom").replace(" ", "*")
    try:
        unit_conversion_factor(written, written)
    except (RuntimeError, ValueError):
        return ""
    return written


def shape_of(model: GraphPropertyModel, key: PropertyKey, dtype: torch.dtype) -> list[int]:
    """Cartesian components of a value, and at last how many properties there are."""
    shape = PROPERTIES[key].shape
    if shape is not None:
        return [*shape, 1]
    function = BatchModel(model)
    (found,) = (
        value
        for name, value in zip(
            function.outputs, function(*example_batch(model, dtype, atoms=7)), strict=True
        )
        if name == key
    )
    return [math.prod(found.shape[1:])]


def interaction_range(model: GraphPropertyModel) -> float:
    """How far what is predicted for an atom reaches, in Å; infinite if to the whole structure."""
    if EngineModel(model).whole_structure is not None:
        return math.inf
    try:
        check_locality(model)
        return layers_of(model) * model.cutoff_value
    except ExportError:
        return math.inf


def check_agreement(function: BatchModel, program: Scripted, dtype: torch.dtype) -> None:
    """Compare a program, and its derivatives, with a model on inputs of several sizes.

    Raises
    ------
    ExportError
        With the size and the error, if they differ.
    """
    for seed, (atoms, columns, structures) in enumerate(CHECKED_SIZES):
        inputs = example_batch(function.model, dtype, atoms, columns, structures, seed)
        if seed == 1:  # nobody has neighbours
            inputs = inputs._replace(vectors=torch.full_like(inputs.vectors, function.cutoff + 1))
        inputs = inputs._replace(vectors=inputs.vectors.requires_grad_())
        found, expected = program.program(*inputs), function(*inputs)
        for name, a, b in zip(function.outputs, found, expected, strict=True):
            errors = {name: relative_error(a.detach(), b.detach())}
            if b.requires_grad:
                slopes = [
                    torch.autograd.grad(x.sum(), inputs.vectors, retain_graph=True)[0]
                    for x in (a, b)
                ]
                errors[f"the gradient of {name}"] = relative_error(*slopes)
            for what, error in errors.items():
                if not error <= TOLERANCES[dtype]:
                    raise ExportError(
                        f"the archive does not agree with the model: for {atoms} atoms with "
                        f"{columns} neighbours {what} differs by {error:.1e} of its largest value "
                        f"(at most {TOLERANCES[dtype]:.0e} is allowed). Nothing was written."
                    )
