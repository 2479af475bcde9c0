"""Tables of errors: over a data set, per element and per group of structures."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from graph_pes.files import atomic_write
from graph_pes.periodic_table import SYMBOLS

from .comparison import Comparison


@dataclass(frozen=True)
class ErrorRow:
    """Errors of one property over one set of values.

    Attributes
    ----------
    dataset
        Name of the data set.
    kind
        What is grouped by: ``all``, ``element`` or ``config_type``.
    group
        Chemical symbol or ``config_type``; ``all`` for everything.
    property
        Such as ``forces`` or ``energy_per_atom``, see `Comparison`.
    unit
        Of the errors.
    count
        Number of values, each component counted.
    mae
        Mean absolute error of the components.
    rmse
        Root-mean-square error of the components.
    max
        Largest absolute error of the components.
    """

    dataset: str
    kind: str
    group: str
    property: str
    unit: str
    count: int
    mae: float
    rmse: float
    max: float


def error_rows(dataset: str, comparisons: Sequence[Comparison]) -> list[ErrorRow]:
    """Errors of each property: over everything, per element and per group.

    Parameters
    ----------
    dataset
        Name of the data set.
    comparisons
        See `compare`.

    Examples
    --------
    >>> import numpy as np
    >>> values = Comparison("energy", "eV", np.zeros((2, 1)), np.array([[3.0], [-4.0]]))
    >>> (row,) = error_rows("test", [values])
    >>> row.mae, round(row.rmse, 3), row.max
    (3.5, 3.536, 4.0)
    """
    return [
        _row(dataset, kind, group, comparison, members)
        for comparison in comparisons
        for kind, group, members in _groups(comparison)
    ]


def _groups(comparison: Comparison) -> Iterator[tuple[str, str, np.ndarray]]:
    """Kind, name and members (booleans, one per row) of each group with any members."""
    yield "all", "all", np.ones(len(comparison.reference), dtype=bool)
    if comparison.elements is not None:
        for Z in np.unique(comparison.elements):
            yield "element", SYMBOLS[Z], comparison.elements == Z
    if comparison.groups is not None:
        names = np.array(comparison.groups, dtype=object)
        for name in sorted({name for name in comparison.groups if name is not None}):
            yield "config_type", name, names == name


def _row(
    dataset: str, kind: str, group: str, comparison: Comparison, members: np.ndarray
) -> ErrorRow:
    errors = np.abs(comparison.predicted[members] - comparison.reference[members])
    return ErrorRow(
        dataset=dataset,
        kind=kind,
        group=group,
        property=comparison.property,
        unit=comparison.unit,
        count=errors.size,
        mae=float(errors.mean()),
        rmse=float(np.sqrt((errors**2).mean())),
        max=float(errors.max()),
    )


def write_error_table(path: str | os.PathLike[str], rows: Sequence[ErrorRow]) -> None:
    """Write errors to a CSV file, in full precision; completely or not at all."""
    names = [field.name for field in fields(ErrorRow)]
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def format_error_table(rows: Sequence[ErrorRow]) -> str:
    """Errors as a table in Markdown, aligned so that it reads as plain text too.

    Where the unit is in eV, errors are given in meV.

    Examples
    --------
    >>> row = ErrorRow("test", "element", "O", "forces", "eV/Å", 3, 0.02, 0.0317, 0.05)
    >>> print(format_error_table([row]))
    | dataset | group | property | unit  | count |  MAE | RMSE |  max |
    | :------ | :---- | :------- | :---- | ----: | ---: | ---: | ---: |
    | test    | O     | forces   | meV/Å |     3 | 20.0 | 31.7 | 50.0 |
    """
    header = ("dataset", "group", "property", "unit", "count", "MAE", "RMSE", "max")
    n_text = header.index("count")
    cells = [header, *(_cells(row) for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(header))]
    rule = tuple(
        ":" + "-" * (w - 1) if n < n_text else "-" * (w - 1) + ":" for n, w in enumerate(widths)
    )
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(w) if n < n_text else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in (header, rule, *cells[1:])
    )


def _cells(row: ErrorRow) -> tuple[str, ...]:
    unit, factor = display_unit(row.unit)
    numbers = (three_digits(factor * x) for x in (row.mae, row.rmse, row.max))
    return (row.dataset, row.group, row.property, unit, f"{row.count:,}", *numbers)


def display_unit(unit: str) -> tuple[str, float]:
    """The unit that errors are shown in, and the factor to it: meV for eV.

    Examples
    --------
    >>> display_unit("eV/Å")
    ('meV/Å', 1000.0)
    """
    return (f"m{unit}", 1000.0) if unit.startswith("eV") else (unit, 1.0)


def three_digits(x: float) -> str:
    """A number with three significant digits, or all those before the point.

    Examples
    --------
    >>> [three_digits(x) for x in (0.01, 2.0, 99.96, 1234.5)]
    ['0.0100', '2.00', '100', '1234']
    """
    return f"{x:.0f}" if 100 <= abs(x) < 1e6 else f"{x:#.3g}".rstrip(".")
