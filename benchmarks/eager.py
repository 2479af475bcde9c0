"""Speed beside graph-pes 1.0.2 and the original packages, in plain eager mode on one thread.

Usage::

    python benchmarks/eager.py --peer graph-pes-1=PYTHON [--peer nequip=PYTHON ...]
        [--only REGEX] [--repeats 15]

``PYTHON`` is the interpreter of an environment with the named package in it. Each task runs in
one process per package, whose repeats are interleaved; medians are printed, and ratios to ours.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

FOLDER = Path(__file__).parent
GRAPH_PES_1 = "graph-pes-1"
#: The package of the original implementation of each model.
ORIGINALS = {
    "PaiNN 128x3": "schnetpack",
    "SchNet 128x3": "schnetpack",
    "TensorNet 128x2": "torchmd-net",
    "NequIP 64 l=1 x3": "nequip",
    "NequIP 64 l=2 x3": "nequip",
    "MACE 128 L=0": "mace-torch",
    "MACE 128 L=1": "mace-torch",
    "Orb 128x3": "orb-models",
    "Orb direct 128x3": "orb-models",
}
TASKS = [
    {"task": task, "model": model, "size": size}
    for model in ORIGINALS
    for task, sizes in (
        ("evaluation, Si", (64, 512)),
        ("training, Si", (64, 512)),
        ("training, dimers", (10,)),
    )
    for size in sizes
]


class Worker:
    """A process that times one task on request."""

    def __init__(self, python: str, script: str, task: dict[str, object]):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [python, str(FOLDER / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if (answer := self._ask(json.dumps(task))) != "ready":
            raise RuntimeError(f"{python} {script} can't run {task}: {answer or 'see above'}")

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


def workers_for(task: dict[str, object], peers: dict[str, str]) -> dict[str, Worker]:
    """Ours, that of graph-pes 1.0.2 and that of the original package, if there."""
    workers = {"ours": Worker(sys.executable, "worker.py", task)}
    if GRAPH_PES_1 in peers:
        workers[GRAPH_PES_1] = Worker(peers[GRAPH_PES_1], "worker.py", task)
    original = ORIGINALS[str(task["model"])]
    if original in peers:
        workers["original"] = Worker(peers[original], "originals.py", task)
    return workers


def main() -> None:
    """Run all tasks and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--only", default="", help="tasks whose name matches this expression")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    peers = dict(peer.split("=", 1) for peer in arguments.peer)
    if unknown := peers.keys() - {GRAPH_PES_1, *ORIGINALS.values()}:
        parser.error(f"expected peers among {GRAPH_PES_1} and {set(ORIGINALS.values())}: {unknown}")

    print(f"| {'task, ms':33} |     ours | 1.0.2 | ratio | original | ratio |")
    print(f"|{'-' * 35}|---------:|------:|------:|---------:|------:|")
    for task in TASKS:
        name = f"{task['model']} {task['task']} {task['size']}"
        if not re.search(arguments.only, name):
            continue
        workers = workers_for(task, peers)
        times = [{k: w.time() for k, w in workers.items()} for _ in range(arguments.repeats)]
        for worker in workers.values():
            worker.stop()
        medians = {key: median(time[key] for time in times) for key in workers}
        cells = [f"{medians['ours']:8.1f}"]
        for key, width in ((GRAPH_PES_1, 5), ("original", 8)):
            found = key in medians
            cells.append(f"{medians[key]:{width}.0f}" if found else f"{'':{width}}")
            cells.append(f"{medians[key] / medians['ours']:5.2f}" if found else f"{'':5}")
        print(f"| {name:33} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
