"""Models as files of compiled code, checked against the model they were made from."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from graph_pes.files import atomic_write
from graph_pes.models.base import GraphPESModel, GraphPropertyModel
from graph_pes.models.lora import merged

from .engine import MIN_COLUMNS, EngineModel, ExportError
from .exported import METADATA_FILE, Metadata, read_exported
from .matrix_products import BFLOAT16_TOLERANCE, Products, check_products
from .outputs import (
    TOLERANCES,
    assumptions_of,
    kinds_of,
    relative_error,
    separate_groups,
    unit_of,
    widths_of,
)
from .radial_tables import TableReport, looks_filters_up, with_radial_tables
from .reach import exchanges_ghosts, layers_of
from .trace import (
    declared_elements,
    dtype_of,
    example_inputs,
    example_structure,
    known_elements,
    traced_program,
)

logger = logging.getLogger("graph_pes")

#: Atoms and columns of the inputs on which a file is compared with its model.
CHECKED_SIZES = ((1, MIN_COLUMNS), (7, 5), (61, 23))

#: Errors of `with_radial_tables`.
DEFAULT_TABLE_TOLERANCES = {torch.float32: 1e-6, torch.float64: 0.0}


def export_model(
    model: GraphPropertyModel,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    mode: Literal["compiled", "portable"] = "compiled",
    table_tolerance: float | None = None,
    products: Products = "full",
) -> Metadata:
    """Write a model, with derivatives of its energy, as a program that needs no Python.

    The file is compared with the model on inputs of three sizes, among them a single atom and
    atoms without neighbours, before it is put in place.

    Parameters
    ----------
    model
        The model; it is not changed.
    path
        Ending in ``.pt2``.
    dtype
        Precision of the network, float32 or float64; by default that of the model.
    device
        Where the program is to run.
    mode
        ``"compiled"`` for machine code, by AOTInductor, that runs on processors like this
        one's; ``"portable"`` for operations that any machine runs with torch.
    table_tolerance
        Networks of the distance alone are replaced by tables with at most this error of energies
        and forces, relative to the largest; 0 for no tables. By default 1e-6 in float32, below
        what rounding does, and 0 in float64.
    products
        Precision of matrix products: ``"full"``, that of the model, or ``"bfloat16"``, which is
        for GPUs and other processors that have instructions for it. The log tells the largest
        errors on the structures on which the file is compared with the model.

    Raises
    ------
    ValueError
        If ``products`` is not possible.
    ExportError
        If the model can't be traced, or the file would not agree with it; nothing is written.
    """
    target = Path(path)
    if target.suffix != ".pt2":
        raise ExportError(f"expected a file name that ends in .pt2, got {target.name!r}")
    if mode not in ("compiled", "portable"):
        raise ExportError(f"mode: expected 'compiled' or 'portable', got {mode!r}")
    if not isinstance(model, GraphPropertyModel):
        raise ExportError(
            f"expected a GraphPESModel or another model of properties, got {type(model).__name__}"
        )
    model = copy.deepcopy(merged(model)).eval().to(device=device, dtype=dtype)
    check_products(products, dtype_of(model))
    check_locality(model)
    if table_tolerance is None:
        table_tolerance = DEFAULT_TABLE_TOLERANCES[dtype_of(model)]
    tabulated, tables = model, None
    if isinstance(model, GraphPESModel):
        tabulated, tables = with_radial_tables(model, table_tolerance)
    program = traced_program(tabulated, products)
    metadata = metadata_of(model, program, tables, products)
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "model.pt2")
        if mode == "portable":
            extra = {METADATA_FILE: json.dumps(metadata.as_strings())}
            torch.export.save(program, made, extra_files=extra)
        else:
            on_cpu = model.device.type == "cpu"
            compile_program(program, made, metadata, on_cpu and looks_filters_up(tabulated))
        tolerance = TOLERANCES[dtype_of(model)] if products == "full" else BFLOAT16_TOLERANCE
        errors = check_agreement(model, made, tolerance, table_tolerance if tables else 0.0)
        if products == "bfloat16":
            logger.info("Products in bfloat16: relative errors %s", _listed(errors))
        with atomic_write(target) as temporary:
            shutil.copyfile(made, temporary)
    return metadata


def metadata_of(
    model: GraphPropertyModel,
    program: torch.export.ExportedProgram,
    tables: TableReport | None,
    products: Products,
) -> Metadata:
    """What there is to know of a model and its traced program."""
    exchanged = [
        node.meta["val"].shape[1]
        for node in program.graph.nodes
        if node.op == "call_function" and "graph_pes.ghost_" in str(node.target)
    ]
    function = EngineModel(model)
    outputs = function.outputs
    return Metadata(
        cutoff=model.cutoff_value,
        dtype=str(dtype_of(model)).removeprefix("torch."),
        device=model.device.type,
        elements=known_elements(model),
        fitted=bool(model._has_been_pre_fit),
        made_for=declared_elements(model),
        assumed=assumptions_of(model),
        outputs=list(outputs),
        kinds=kinds_of(model),
        widths=widths_of(model),
        units=[unit_of(name) for name in outputs],
        whole_structure=function.whole_structure is not None,
        layers=layers_of(model),
        exchanges_ghosts=exchanges_ghosts(model),
        exchange_widths=exchanged,
        radial_tables="none" if tables is None else str(tables),
        products=products,
        graph_pes=importlib.metadata.version("graph-pes"),
        torch=torch.__version__,
    )


#: How loops are made: several threads would add neighbours up with atomic operations, which are
#: slower than one thread (engines run several processes instead), and indices that are known to
#: be right (`ExportedModel.evaluate`, LAMMPS) need no checks in the innermost loop.
LOOPS = {"cpp.threads": 1, "assert_indirect_indexing": False}

#: Where filters are looked up as they multiply features (`graph_pes.nn.tabulated_messages`), on
#: CPUs loops of far more operations than usual are faster than to store what they have in common.
LONG_LOOPS = {
    "realize_reads_threshold": 40,
    "realize_opcount_threshold": 1000,
    "realize_acc_reads_threshold": 60,
}


def compile_program(
    program: torch.export.ExportedProgram, path: str, metadata: Metadata, long_loops: bool = False
) -> None:
    """Compile a program for this machine, into an archive with its metadata."""
    options = {"aot_inductor.metadata": metadata.as_strings(), **LOOPS}
    if long_loops:
        options |= LONG_LOOPS
    with _compiler_to_itself():
        torch._inductor.aoti_compile_and_package(
            program, package_path=path, inductor_configs=options
        )


@contextmanager
def _compiler_to_itself() -> Iterator[None]:
    """Without warnings of the compiler, which are about its own code."""
    log = logging.getLogger("torch._inductor.ir")

    def serious(record: logging.LogRecord) -> bool:
        # operations that it calls in a slower way, such as the inverse of a matrix of three rows
        return "missing a c-shim" not in record.getMessage()

    log.addFilter(serious)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.removeFilter(serious)


def check_locality(model: GraphPropertyModel) -> None:
    """Make sure that an engine can tell all that the predictions of a model depend on.

    What is predicted for an atom must not depend on atoms far from it, unless the model needs
    whole structures, and on positions only through `neighbour_vectors`, which engines differentiate
    with respect to.

    Raises
    ------
    ExportError
        Naming what differs when there is a second, separate group of atoms, or when atoms move.
    """
    function = EngineModel(model)
    if function.whole_structure is not None:
        _check_positions(function)
        return
    one, two, both = separate_groups(model)
    parts, whole = (function(*one), function(*two)), function(*both)
    for name, a, b, found in zip(function.outputs, *parts, whole, strict=True):
        if name in function.of_structures:
            local = bool(found.isfinite().all())
        else:
            local = relative_error(found, torch.cat([a, b])) <= TOLERANCES[dtype_of(model)]
        if not local:
            raise ExportError(
                f"the {name} that {type(model).__name__} predicts depend on the whole structure, "
                "of which an engine may only know a part, or on positions rather than "
                "neighbour_vectors. If it is the structure, say so in the model: "
                "needs_whole_structure = 'why'"
            )


def _check_positions(function: EngineModel) -> None:
    """Make sure that energies do not change with positions or cell where vectors stay the same."""
    if not function.has_energies:
        return
    inputs, _, _ = separate_groups(function.model)
    crystal, molecule, *others = (
        function(*inputs, *example_structure(function, len(inputs.Z), seed))[0] for seed in range(4)
    )
    pairs = zip(others, (crystal, molecule), strict=True)
    tolerance = TOLERANCES[dtype_of(function.model)]
    if not all(relative_error(a, b) <= tolerance for a, b in pairs):
        raise ExportError(
            f"the energies that {type(function.model).__name__} predicts depend on positions or "
            "cells, with respect to which engines do not differentiate, rather than on "
            "neighbour_vectors"
        )


def check_agreement(
    model: GraphPropertyModel, path: str, tolerance: float, table_tolerance: float = 0.0
) -> dict[str, float]:
    """Compare a file with its model on inputs of several sizes.

    Errors may be ``tolerance``, relative to the largest value of the same size, and besides, twice
    what the model itself is off by rounding, if it is not in double precision, and those of tables,
    ``table_tolerance`` relative to the largest value of all sizes.

    Returns
    -------
    dict[str, float]
        The largest error of each output, relative to its largest value.

    Raises
    ------
    ExportError
        With the size and the error, if they differ.
    """
    program, metadata = read_exported(path)
    expected, exact = EngineModel(model), EngineModel(copy.deepcopy(model).double())
    cases = []
    for seed, (atoms, columns) in enumerate(CHECKED_SIZES):
        inputs = example_inputs(model, atoms, columns, seed=seed, device=model.device)
        if seed == 1:  # nobody has neighbours
            inputs = inputs._replace(vectors=torch.full_like(inputs.vectors, metadata.cutoff + 1))
        arguments = (*inputs, *example_structure(expected, atoms, seed))
        precise = (inputs.vectors.double(), *arguments[1:])
        values, exact_values = expected(*arguments), exact(*precise)
        rounding = [relative_error(a, b) for a, b in zip(values, exact_values, strict=True)]
        cases.append((atoms, columns, program(*arguments), values, rounding))
    errors = dict.fromkeys(metadata.outputs, 0.0)
    for n, name in enumerate(metadata.outputs):
        # Tables are exact relative to the largest value of all structures, not of each.
        of_tables = table_tolerance * max(float(case[3][n].abs().max()) for case in cases)
        for atoms, columns, found, values, rounding in cases:
            error = relative_error(found[n], values[n])
            errors[name] = max(errors[name], error)
            allowed = tolerance + 2 * rounding[n]
            allowed += of_tables / max(float(values[n].abs().max()), 1e-3)
            if not error <= allowed:
                raise ExportError(
                    f"the exported program does not agree with the model: for {atoms} atoms with "
                    f"{columns} neighbours {name} differs by {error:.1e} of its largest value "
                    f"(at most {allowed:.0e} is allowed). Nothing was written."
                )
    return errors


def _listed(errors: dict[str, float]) -> str:
    return ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
