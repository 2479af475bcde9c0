"""Tables of errors."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from graph_pes.analysis import (
    Comparison,
    ErrorRow,
    compare,
    error_rows,
    format_error_table,
    write_error_table,
)


def select(rows: list[ErrorRow], **fields: str) -> ErrorRow:
    (row,) = (r for r in rows if all(getattr(r, k) == v for k, v in fields.items()))
    return row


def test_errors_over_everything_per_element_and_per_group(labelled):
    groups = ["molecule", "crystal", "molecule", None]
    rows = error_rows("test", compare(labelled.model, labelled.graphs, groups=groups))
    forces = np.concatenate(labelled.force_errors)
    oxygen, silicon = forces[[0]], forces[[3, 10, 11]]
    molecules = np.concatenate([labelled.force_errors[n] for n in (0, 2)])
    for fields, errors in (
        ({"property": "forces", "kind": "all", "group": "all"}, forces),
        ({"property": "forces", "kind": "element", "group": "O"}, oxygen),
        ({"property": "forces", "kind": "element", "group": "Si"}, silicon),
        ({"property": "forces", "kind": "config_type", "group": "molecule"}, molecules),
        ({"property": "energy_per_atom", "kind": "all"}, labelled.energy_errors),
        ({"property": "energy_per_atom", "group": "crystal"}, labelled.energy_errors[[1]]),
        ({"property": "stress", "group": "crystal"}, labelled.stress_errors[1]),
    ):
        row = select(rows, **fields)
        assert row.dataset == "test"
        assert row.count == errors.size
        assert row.mae == pytest.approx(np.abs(errors).mean(), rel=1e-9)
        assert row.rmse == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-9)
        assert row.max == pytest.approx(np.abs(errors).max(), rel=1e-9)
    kinds = [(r.kind, r.group) for r in rows if r.property == "forces"]
    elements = [("element", x) for x in ("H", "C", "O", "Si")]
    types = [("config_type", x) for x in ("crystal", "molecule")]
    assert kinds == [("all", "all"), *elements, *types]
    assert not [r for r in rows if r.kind == "element" and r.property != "forces"]


def test_a_diverged_model_is_seen_in_the_table():
    predicted = np.array([[1.0], [np.nan]])
    (row,) = error_rows("x", [Comparison("energy", "eV", np.zeros((2, 1)), predicted)])
    assert np.isnan([row.mae, row.rmse, row.max]).all()


ROWS = [
    ErrorRow("train", "all", "all", "energy_per_atom", "eV/atom", 1000, 0.0011, 0.2, 1.25),
    ErrorRow("test, 300 K", "config_type", 'a "b", c', "dipole", "e Å", 3, 1 / 3, 0.5, 12.0),
]


def test_files_hold_every_digit(tmp_path):
    write_error_table(tmp_path / "new" / "errors.csv", ROWS)
    with open(tmp_path / "new" / "errors.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == "dataset kind group property unit count mae rmse max".split()
    types = {"count": int, "mae": float, "rmse": float, "max": float}
    again = [ErrorRow(**{k: types.get(k, str)(v) for k, v in row.items()}) for row in read]
    assert again == ROWS


def test_files_are_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / "errors.csv"
    write_error_table(path, ROWS)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_error_table(path, [*ROWS, None])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["errors.csv"]


def test_text_is_aligned_and_in_meV_where_it_helps():
    lines = format_error_table(ROWS).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == [
        "train",
        "all",
        "energy_per_atom",
        "meV/atom",
        "1,000",
        "1.10",
        "200",
        "1250",
    ]
    assert cells[3] == ["test, 300 K", 'a "b", c', "dipole", "e Å", "3", "0.333", "0.500", "12.0"]
    assert format_error_table([]).count("\n") == 1
