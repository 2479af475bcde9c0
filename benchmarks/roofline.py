"""How near models come to what the machine can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, to_batch
from graph_pes.deploy import compiled
from graph_pes.deploy.engine import engine_inputs
from graph_pes.models import GraphPESModel

from .catalogue import OURS, Contender, request_of, title_of
from .counting import compiled_counts, eager_counts
from .tables import markdown
from .worker.meter import Meter
from .worker.packages import made_from
from .worker.structures import CUTOFF, ELEMENTS, structures_of

PROPERTIES: list[PropertyKey] = ["energy", "forces", "stress"]
#: Rows of the square matrices, and numbers that are copied: more than caches hold.
SIZES = {"cpu": (1024, 2**25), "cuda": (8192, 2**28)}


@dataclass(frozen=True)
class Evaluation:
    """One form of a model.

    Attributes
    ----------
    name
        Of the model, and its form.
    run
        Evaluates it once.
    flops, bytes
        What that takes.
    """

    name: str
    run: Callable[[], object]
    flops: int
    bytes: int


def roofline(models: list[str], structure: str, device: str, repeats: int) -> str:
    """Tables of operations, bytes and times of models, and what most bytes go to."""
    n, length = SIZES[device]
    a, b = torch.randn(2, n, n, device=device)
    x, y = torch.zeros(2, length, device=device)
    reference = {"matmul": lambda: torch.mm(a, b), "copy": lambda: y.copy_(x)}
    evaluations, notes = [], []
    for model in models:
        found, note = evaluations_of(model, structure, device)
        evaluations += found
        notes.append(note)
    runs = {**reference, **{e.name: e.run for e in evaluations}}
    milliseconds = times(runs, device, repeats)
    flops_per_ms = 2 * n**3 / milliseconds["matmul"]
    bytes_per_ms = 2 * 4 * length / milliseconds["copy"]
    rows = [row(e, milliseconds[e.name], flops_per_ms, bytes_per_ms) for e in evaluations]
    name = f"inference, {structure.replace(':', ' ')}"
    header = [name, "GFLOP", "GB", "FLOP/B", "ms", "of matmul", "of copy", "bound, ms", "reached"]
    machine = (
        f"Product of matrices of {n} rows: {flops_per_ms / 1e6:.1f} GFLOP/s. Copy of "
        f"{4 * length / 2**20:.0f} MiB: {bytes_per_ms / 1e6:.1f} GB/s, reads and writes."
    )
    return "\n\n".join([machine, markdown(header, rows), *notes])


def evaluations_of(model: str, structure: str, device: str) -> tuple[list[Evaluation], str]:
    """A model as it is and compiled, and a line on its largest operations."""
    torch.manual_seed(0)
    elements = ELEMENTS[structure.partition(":")[0]]
    eager: GraphPESModel = made_from(request_of(model, Contender(OURS))["entry"], elements=elements)
    eager = eager.eval().to(device)
    graphs = [AtomicGraph.from_ase(atoms, CUTOFF) for atoms in structures_of(structure)]
    batch = to_batch(graphs).to(device)

    def run() -> object:
        return eager.predict(batch, PROPERTIES)

    counts = eager_counts(run)
    fast = compiled(eager)
    inputs = engine_inputs(batch, torch.float32)
    title = title_of(model)
    evaluations = [
        Evaluation(title, run, sum(counts.flops.values()), sum(counts.bytes.values())),
        Evaluation(
            f"{title}, compiled",
            lambda: fast.predict(batch, PROPERTIES),
            *compiled_counts(eager, inputs),
        ),
    ]
    total = sum(counts.bytes.values())
    largest = ", ".join(f"{k} {n / total:.0%}" for k, n in counts.bytes.most_common(6))
    return evaluations, f"Bytes of {title}, as it is, go to {largest}."


def times(runs: dict[str, Callable[[], object]], device: str, repeats: int) -> dict[str, float]:
    """Medians in milliseconds, measured in turn."""
    meter = Meter(device)
    for run in runs.values():
        run()
    rounds = [{name: meter.seconds(run, 1) for name, run in runs.items()} for _ in range(repeats)]
    return {name: 1000 * median(r[name] for r in rounds) for name in runs}


def row(
    evaluation: Evaluation, milliseconds: float, flops_per_ms: float, bytes_per_ms: float
) -> list[str]:
    """Of the table: the bound is the longer of the times for operations and for bytes."""
    compute, traffic = evaluation.flops / flops_per_ms, evaluation.bytes / bytes_per_ms
    bound = max(compute, traffic)
    return [
        evaluation.name,
        f"{evaluation.flops / 1e9:.2f}",
        f"{evaluation.bytes / 1e9:.2f}",
        f"{evaluation.flops / evaluation.bytes:.2f}",
        f"{milliseconds:.1f}",
        f"{compute / milliseconds:.0%}",
        f"{traffic / milliseconds:.0%}",
        f"{bound:.1f}",
        f"{bound / milliseconds:.0%}",
    ]
