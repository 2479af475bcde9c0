"""What was measured, as files, and what follows from it."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from .catalogue import Contender


@dataclass(frozen=True)
class Record:
    """One contender in one task.

    Attributes
    ----------
    model, task, structure, package, compiled
        What was measured.
    device
        ``cpu`` or ``cuda``.
    atoms
        How many there are in all structures together.
    seconds
        Of each repeat, the mean of its runs.
    peak_bytes
        The most memory in use, beyond that at the start.
    compile_s
        How long compilation took, if it was not found in a cache.
    error
        Why there is no result.
    version
        Of the package.
    """

    model: str
    task: str
    structure: str
    package: str
    compiled: bool
    device: str
    atoms: int = 0
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    compile_s: float = 0.0
    error: str = ""
    version: str = ""

    @property
    def contender(self) -> Contender:
        """Who was measured."""
        return Contender(self.package, self.compiled)

    @property
    def case(self) -> tuple[str, str]:
        """Task and structure."""
        return self.task, self.structure

    @property
    def milliseconds(self) -> float:
        """Median of the repeats; NaN if there are none."""
        return 1000 * median(self.seconds) if self.seconds else math.nan


def machine(device: str) -> dict[str, Any]:
    """What measurements depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")
    return {
        "cpu": cpu or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "torch": torch.__version__,
    }


@dataclass(frozen=True)
class Results:
    """All records of a run, and where and when they were made.

    Attributes
    ----------
    machine
        Of the first record: see `machine`.
    date
        When it began.
    records
        In the order in which they were made.
    """

    machine: dict[str, Any]
    date: str
    records: list[Record]

    @classmethod
    def started_now(cls, device: str) -> Results:
        """Without records yet."""
        return cls(machine(device), datetime.now(UTC).isoformat(timespec="seconds"), [])

    def write(self, path: Path) -> None:
        """Write all, in place of what was written before."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Results:
        """The opposite of `write`."""
        values = json.loads(path.read_text())
        return cls(**{**values, "records": [Record(**r) for r in values["records"]]})


def exponent(atoms: Sequence[int], times: Sequence[float]) -> float:
    """The slope of time over the number of atoms in a double logarithmic plot, by least squares."""
    x, y = ([math.log(value) for value in values] for values in (atoms, times))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mean_x) ** 2 for a in x)


def growth(records: Iterable[Record], contender: Contender) -> list[tuple[int, float]]:
    """Numbers of silicon atoms, and milliseconds of an inference, ascending."""
    return sorted(
        (r.atoms, r.milliseconds)
        for r in records
        if r.task == "inference" and r.structure.startswith("Si:") and r.contender == contender
        if r.seconds
    )


def present(records: Iterable[Record]) -> list[Contender]:
    """Who was measured, in the order of appearance."""
    return list(dict.fromkeys(r.contender for r in records))
