"""Prepares one task, and runs it once for every line that it reads: ``python -m worker``.

The first line is the request, a `Request` as JSON; the first answer says that it is ready. What
packages print goes to standard error, so that standard output holds nothing but answers, one
JSON object a line.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TextIO

import torch

from .meter import Meter, is_memory_error, limit_memory
from .packages import Package, package_class
from .structures import ELEMENTS, structures_of
from .tasks import TASKS, Run

#: A repeat takes as many runs as fit into this time, in seconds, and at most so many.
REPEAT_SECONDS, MAX_RUNS = 0.3, 50
#: Runs after the first that do not count, and in how many seconds they may be made.
N_WARM_UP, WARM_UP_SECONDS = 3, 2.0


@dataclass(frozen=True)
class Request:
    """One task, one package.

    Attributes
    ----------
    package, entry
        Name of the package, and what it makes: see ``models.yaml``.
    task, structure
        See `tasks` and `structures`.
    compiled
        Whether to compile first.
    device
        ``cpu`` or ``cuda``.
    memory
        The most bytes to allocate on a CPU.
    cache
        Folder for what is compiled by packages that have no cache of their own.
    """

    package: str
    entry: dict[str, Any]
    task: str
    structure: str
    compiled: bool
    device: str
    memory: int
    cache: str


def serve(request: Request, lines: TextIO, answer: Callable[..., None]) -> None:
    """Prepare, then answer each line with the seconds of a repeat; at the end, the memory."""
    structures = structures_of(request.structure)
    stress = request.task == "inference" and all(atoms.pbc.all() for atoms in structures)
    elements = ELEMENTS[request.structure.partition(":")[0]]
    torch.manual_seed(0)
    package: Package = package_class(request.package)(
        request.entry, elements, request.device, stress
    )
    start = time.perf_counter()
    if request.compiled:
        package.compile(request.task, len(structures) > 1, request.cache)
    meter = Meter(request.device)
    run = TASKS[request.task](package, structures)
    run()  # which compiles, if that did not
    first = time.perf_counter() - start
    usual = warmed_up(meter, run)
    n_runs = max(1, min(MAX_RUNS, int(REPEAT_SECONDS / usual)))
    meter.reset_peak()
    answer(
        atoms=sum(map(len, structures)),
        version=version(request.package),
        compile_s=first - usual if request.compiled else 0.0,
    )
    for _ in lines:
        answer(seconds=meter.seconds(run, n_runs))
    answer(peak_bytes=meter.peak())


def warmed_up(meter: Meter, run: Run) -> float:
    """Seconds that a run takes on the wall, the last of a few."""
    begin = time.perf_counter()
    for _ in range(N_WARM_UP):
        start = time.perf_counter()
        meter.seconds(run, 1)
        end = time.perf_counter()
        if end - begin > WARM_UP_SECONDS:
            break
    return end - start


def main() -> None:
    """Serve one request."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")

    warnings.simplefilter("ignore")
    request = Request(**json.loads(sys.stdin.readline()))
    torch.set_num_threads(1)
    if request.device == "cpu":
        limit_memory(request.memory)
    try:
        serve(request, sys.stdin, answer)
    except Exception as error:  # told to whoever asked
        reason = f"{type(error).__name__}: {error}".strip().split("\n")[0][:300]
        answer(error="out of memory" if is_memory_error(error) else reason)
        raise


if __name__ == "__main__":
    main()
