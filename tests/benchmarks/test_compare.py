"""Measurements, with models that take no time."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fits
from benchmarks.__main__ import main
from benchmarks.catalogue import OURS, Contender, catalogue, contenders
from benchmarks.compare import STRUCTURES, Case, Settings, compare
from benchmarks.environments import interpreters
from benchmarks.results import Record, Results
from benchmarks.worker.structures import structures_of
from graph_pes.models import ALL_PES_MODELS


def test_all_tasks(small_models: dict[str, Any], settings: Settings) -> None:
    cases = [Case("lj", task, "Si:8") for task in ("inference", "md", "training")]
    results = compare(cases, settings)
    assert [r.error for r in results.records] == ["", "", ""]
    for record in results.records:
        assert record.atoms == 8
        assert len(record.seconds) == 2
        assert 1e-5 < min(record.seconds) < 5
        assert 0 <= record.peak_bytes < 2**30
    assert Results.read(settings.folder / "results.json") == results


def test_what_fails_is_told_and_the_rest_goes_on(
    small_models: dict[str, Any], settings: Settings
) -> None:
    results = compare(
        [Case("none", "inference", "Si:8"), Case("lj", "md", "molecules:2")], settings
    )
    errors = [r.error for r in results.records]
    assert "NoModel" in errors[0]
    assert "one structure" in errors[1]
    assert "NoModel" in settings.log.read_text()


def test_memory_can_run_out(
    small_models: dict[str, Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.workers.available_memory", lambda: 400 * 2**20)
    (record,) = compare([Case("lj", "inference", "Si:64000")], settings).records
    assert record.error == "out of memory"


def test_the_largest_that_fits(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    tried = []

    class Limited:
        """Fits as long as there are no more than 3000 atoms."""

        def __init__(self, contender: Contender, case: Case, settings: Settings):
            self.atoms = int(case.structure.removeprefix("Si:"))
            self.error = "out of memory" if self.atoms > 3000 else ""
            tried.append(self.atoms)

        def repeat(self) -> None:
            pass

        def record(self) -> Record:
            kind = ("lj", "inference", f"Si:{self.atoms}", OURS, False, "cpu")
            return Record(*kind, atoms=self.atoms, error=self.error)

    monkeypatch.setattr(fits, "Entrant", Limited)
    best, reason = fits.largest("lj", Contender(OURS), settings, most=10**6)
    sizes = [fits.atoms_of(n) for n in range(12, 60)]
    assert best.atoms == max(n for n in sizes if n <= 3000)
    assert reason == "out of memory"
    assert len(tried) == len(set(tried)) < 12
    best, reason = fits.largest("lj", Contender(OURS), settings, most=1000)
    assert best.atoms == max(n for n in sizes if n <= 1000)
    assert "1000" in reason


@pytest.mark.parametrize("model", list(catalogue()["models"]))
def test_entries(model: str) -> None:
    entry = catalogue()["models"][model]
    assert entry["ours"] == entry["graph-pes"]
    name = entry["ours"]["class"].rpartition(".")[2]
    assert name in {cls.__name__ for cls in ALL_PES_MODELS}
    for package in set(entry) - {"title"}:
        adapter = catalogue()["packages"][package].get("adapter", package).replace("-", "_")
        assert importlib.util.find_spec(f"benchmarks.worker.packages.{adapter}") is not None


def test_who_takes_part() -> None:
    found = contenders("nequip-1", "md", ["nequip", "schnetpack"])
    assert [c.name for c in found] == ["ours", "ours, compiled", "nequip", "nequip, compiled"]
    assert len(contenders("nequip-1", "training", ["nequip"])) == 3


def test_every_structure_can_be_made() -> None:
    for name in {name for names in STRUCTURES.values() for name in names}:
        assert structures_of(name)


def test_interpreters(tmp_path: Path) -> None:
    assert interpreters([f"nequip={sys.executable}", "cuequivariance"]) == {
        OURS: sys.executable,
        "nequip": sys.executable,
        "cuequivariance": sys.executable,
    }
    with pytest.raises(ValueError, match="expected a peer among graph-pes, "):
        interpreters(["allegro"])
    with pytest.raises(ValueError, match="no interpreter"):
        interpreters([f"nequip={tmp_path}/python"])


def test_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record("schnet", "md", "Si:64", OURS, False, "cpu", seconds=[0.5])
    results = Results.started_now("cpu")
    for name, structure in (("a", "Si:64"), ("b", "Si:512")):
        one = replace(results, records=[replace(record, structure=structure)])
        one.write(tmp_path / f"{name}.json")
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    monkeypatch.setattr(
        "sys.argv", ["benchmarks", "report", *files, "--out", str(tmp_path / "out")]
    )
    main()
    printed = capsys.readouterr().out
    assert "| md, Si 64  |  500 |" in printed
    assert "| md, Si 512 |  500 |" in printed
    assert (tmp_path / "out" / "report.md").read_text() == printed
    assert (tmp_path / "out" / "results.png").is_file()
