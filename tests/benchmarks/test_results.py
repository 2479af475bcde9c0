"""Files, tables and pictures of results."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.catalogue import Contender
from benchmarks.plot import plot
from benchmarks.results import Record, Results, exponent, growth
from benchmarks.tables import markdown, report


def record(package: str, structure: str, atoms: int, ms: float, compiled: bool = False) -> Record:
    seconds = [ms / 1000, ms / 500, ms / 2000]
    return Record("painn", "inference", structure, package, compiled, "cpu", atoms, seconds, 2**20)


@pytest.fixture
def results() -> Results:
    """Ours grows linearly, a peer quadratically; it can't do the oxide."""
    found = Results.started_now("cpu")
    for n in (64, 512, 4096):
        found.records.append(record("ours", f"Si:{n}", n, n / 8))
        found.records.append(record("ours", f"Si:{n}", n, n / 32, compiled=True))
        found.records.append(record("graph-pes", f"Si:{n}", n, n * n / 512))
    found.records.append(record("ours", "oxide:480", 456, 100.0))
    failed = Record(
        "painn", "inference", "oxide:480", "graph-pes", False, "cpu", error="no such op"
    )
    found.records.append(failed)
    return found


@given(st.floats(0.5, 3.0), st.floats(1e-3, 1e3))
def test_the_exponent_of_a_power(power: float, factor: float) -> None:
    sizes = [64, 512, 1728, 8000]
    assert exponent(sizes, [factor * n**power for n in sizes]) == pytest.approx(power)


def test_growth_is_that_of_one_contender(results: Results) -> None:
    assert growth(results.records, Contender("ours")) == [(64, 8.0), (512, 64.0), (4096, 512.0)]
    assert growth(results.records, Contender("schnetpack")) == []


def test_files(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results


def cells_of(text: str) -> dict[str, list[str]]:
    """Cells of all tables by the first in their row."""
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    return {first.strip(): [cell.strip() for cell in others] for first, *others in rows}


def test_report(results: Results) -> None:
    first, _, text = report(results).partition("\n\n")
    assert results.machine["torch"] in first
    assert "## PaiNN 128x3" in text
    times, memory, costs, failures = text.removeprefix("## PaiNN 128x3\n\n").split("\n\n")
    columns = ["ours", "ours, compiled", "graph-pes", "÷ ours", "÷ ours, compiled"]
    assert cells_of(times)["task"] == columns
    assert cells_of(times)["inference, Si 512"] == ["64.0", "16.0", "512", "8.00", "32.00"]
    assert cells_of(times)["inference, oxide 480 (456 atoms)"] == ["100", "–", "–", "–", "–"]
    assert cells_of(memory)["inference, Si 64"] == ["1", "1", "1"]
    assert cells_of(costs)["graph-pes"] == ["125.0", "1000.0", "8000.0", "2.00"]
    assert cells_of(costs)["ours, compiled"] == ["31.2", "31.2", "31.2", "1.00"]
    assert "- graph-pes, inference, oxide 480: no such op" in failures


def test_columns_of_tables_are_aligned() -> None:
    lines = markdown(["name", "x"], [["a", "1.25"], ["longer name", "10"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2] == "| a           | 1.25 |"


def test_picture(results: Results, tmp_path: Path) -> None:
    plot(results, tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
