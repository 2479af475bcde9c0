"""Speed beside graph-pes 1.0.2, in plain eager mode on one thread.

Usage::

    python benchmarks/eager.py --peer PYTHON [--repeats 15]

``PYTHON`` is the interpreter of an environment with graph-pes 1.0.2 in it. Each task runs in one
process per package, whose repeats are interleaved; medians and their ratio are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

WORKER = Path(__file__).with_name("worker.py")
TASKS = [
    {"task": task, "model": model, "size": size}
    for model in ("PaiNN 128x3", "SchNet 128x3")
    for task, sizes in (
        ("evaluation, Si", (64, 512)),
        ("training, Si", (64, 512)),
        ("training, dimers", (10,)),
    )
    for size in sizes
]


class Worker:
    """A process that times one task on request."""

    def __init__(self, python: str, task: dict[str, object]):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [python, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._ask(json.dumps(task)) == "ready"

    def _ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def time(self) -> float:
        """Milliseconds of CPU time of one repeat."""
        return 1000 * float(self._ask("go"))

    def stop(self) -> None:
        """End the process."""
        self.process.communicate()


def main() -> None:
    """Run all tasks and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="interpreter with graph-pes 1.0.2")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    print(f"| {'task':32} | ours, ms | graph-pes 1.0.2, ms | ratio |")
    print(f"|{'-' * 34}|---------:|--------------------:|------:|")
    for task in TASKS:
        workers = [Worker(python, task) for python in (sys.executable, arguments.peer)]
        times = [[w.time() for w in workers] for _ in range(arguments.repeats)]
        for worker in workers:
            worker.stop()
        ours, peer = (median(column) for column in zip(*times, strict=True))
        name = f"{task['model']} {task['task']} {task['size']}"
        print(f"| {name:32} | {ours:8.1f} | {peer:19.1f} | {peer / ours:5.2f} |", flush=True)


if __name__ == "__main__":
    main()
