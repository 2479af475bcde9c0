"""Ours and other packages on the same structures, in turn."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .catalogue import OURS, Contender, contenders, request_of
from .results import Record, Results
from .workers import Worker, WorkerError

#: Structures of each task: see `benchmarks.worker.structures`.
STRUCTURES = {
    "inference": ("Si:64", "Si:512", "Si:1728", "Si:4096", "Si:8000", "molecules:10", "oxide:480"),
    "md": ("Si:64", "Si:512", "Si:1728", "molecules:1", "oxide:480"),
    "training": ("Si:64", "Si:512", "Si:1728", "molecules:10", "oxide:480"),
}
#: However long they take.
MIN_REPEATS = 3
#: Who takes longer than this, in seconds, did not find what it compiles in a cache.
COMPILATION_SECONDS = 15.0


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes
    ----------
    interpreters
        Of each package that takes part.
    device
        ``cpu`` or ``cuda``.
    repeats
        How many, at most.
    seconds
        No further repeat of a contender, after three of them, once they took so long.
    eager_only
        Whether to leave compiled forms out.
    folder
        Where results and the log of workers are written.
    """

    interpreters: dict[str, str]
    device: str
    repeats: int
    seconds: float
    eager_only: bool
    folder: Path

    @property
    def log(self) -> Path:
        """What packages print."""
        return self.folder / "workers.log"

    @property
    def peers(self) -> list[str]:
        """Packages but ours."""
        return [name for name in self.interpreters if name != OURS]


@dataclass(frozen=True)
class Case:
    """One model, one task and one structure."""

    model: str
    task: str
    structure: str


class Entrant:
    """A contender in one case, in a process of its own.

    Attributes
    ----------
    facts
        What its worker told when it was ready.
    seconds
        Of its repeats.
    error
        Why it can't go on, or nothing.
    compile_s, peak_bytes
        As in `Record`.
    """

    def __init__(self, contender: Contender, case: Case, settings: Settings):
        self.contender, self.case, self.settings = contender, case, settings
        self.seconds: list[float] = []
        self.error = ""
        self.facts = {"atoms": 0, "version": ""}
        self.compile_s, self.peak_bytes = 0.0, 0
        try:
            self._worker = self._started()
            if self._worker.facts["compile_s"] > COMPILATION_SECONDS:
                # again, from the cache: the memory of the compiler is not to be measured
                self.compile_s = self._worker.facts["compile_s"]
                self._worker.stop()
                self._worker = self._started()
            self.facts = self._worker.facts
        except WorkerError as error:
            self.error = str(error)

    def _started(self) -> Worker:
        request = {
            **request_of(self.case.model, self.contender),
            "task": self.case.task,
            "structure": self.case.structure,
            "device": self.settings.device,
        }
        python = self.settings.interpreters[self.contender.package]
        return Worker(python, request, self.settings.log)

    def repeat(self) -> None:
        """Measure once more, unless that was done for long enough."""
        limit = self.settings.seconds
        if self.error or (len(self.seconds) >= MIN_REPEATS and sum(self.seconds) > limit):
            return
        try:
            self.seconds.append(self._worker.time())
        except WorkerError as error:
            self.error = str(error)

    def record(self) -> Record:
        """End, and tell all."""
        try:
            self.peak_bytes = 0 if self.error else self._worker.finish()
        except WorkerError as error:
            self.error = str(error)
        return Record(
            model=self.case.model,
            task=self.case.task,
            structure=self.case.structure,
            package=self.contender.package,
            compiled=self.contender.compiled,
            device=self.settings.device,
            atoms=self.facts["atoms"],
            seconds=self.seconds,
            peak_bytes=self.peak_bytes,
            compile_s=self.compile_s,
            error=self.error,
            version=self.facts["version"],
        )


def measured(case: Case, settings: Settings) -> list[Record]:
    """Everybody who has the model, their repeats in turn."""
    chosen = contenders(case.model, case.task, settings.peers)
    entrants = [
        Entrant(contender, case, settings)
        for contender in chosen
        if not (contender.compiled and settings.eager_only)
    ]
    for _ in range(settings.repeats):
        for entrant in entrants:
            entrant.repeat()
    return [entrant.record() for entrant in entrants]


def compare(cases: Iterable[Case], settings: Settings) -> Results:
    """Measure all cases; results are written after each, so that none is lost."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    results = Results.started_now(settings.device)
    for case in cases:
        records = measured(case, settings)
        for record in records:
            print(_line(record), file=sys.stderr, flush=True)
        results.records.extend(records)
        results.write(settings.folder / "results.json")
    return results


def _line(record: Record) -> str:
    """How it goes, while it goes."""
    what = f"{record.model} {record.task} {record.structure} {record.contender.name}"
    return f"{what}: {record.error or f'{record.milliseconds:.2f} ms'}"
