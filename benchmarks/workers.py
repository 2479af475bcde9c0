"""Processes that measure, one for each package: see `benchmarks.worker`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import graph_pes

from .environments import cache_of_benchmarks

FOLDER = Path(__file__).parent


class WorkerError(RuntimeError):
    """A package could not do what it was asked for."""


def available_memory() -> int:
    """Bytes that one more process may take: four fifths of what is free now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (free,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return 1024 * free * 4 // 5


class Worker:
    """A process that prepares one task, and runs it on request.

    Parameters
    ----------
    python
        Interpreter of the environment of the package.
    request
        The fields of `benchmarks.worker.__main__.Request` but those known here.
    log
        File to which what the package prints is added.

    Attributes
    ----------
    facts
        What the worker told when it was ready.

    Raises
    ------
    WorkerError
        Saying why the task can't be done.
    """

    def __init__(self, python: str, request: dict[str, Any], log: Path):
        # The graph_pes that is imported here is ours; that of others is in their environments.
        ours = str(Path(graph_pes.__file__).parents[1]) if python == sys.executable else ""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ours}
        self._log = log.open("a")
        self._log.write(f"\n--- {python} {json.dumps(request)}\n")
        self._log.flush()
        self._process = subprocess.Popen(
            [python, "-m", "worker"],
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        known = {"memory": available_memory(), "cache": str(cache_of_benchmarks() / "compiled")}
        self.facts = self._ask(json.dumps({**request, **known}))

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended, and may have said why
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise WorkerError(f"it ended with status {self._process.returncode}")
        answer = json.loads(line)
        if "error" in answer:
            self.stop()
            raise WorkerError(answer["error"])
        return answer

    def time(self) -> float:
        """Seconds of one run, the mean over a repeat."""
        return self._ask("go")["seconds"]

    def finish(self) -> int:
        """End, and tell the most bytes that were in use."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        peak = self._answer()["peak_bytes"]
        self.stop()
        return peak

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
