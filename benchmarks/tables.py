"""Results as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .catalogue import OURS, Contender, title_of
from .results import Record, Results, exponent, growth, present


def report(results: Results) -> str:
    """All tables of all models."""
    machine = results.machine
    where = machine["gpu"] or f"{machine['cpu']}, one of {machine['cores']} cores"
    clock = "wall clock" if machine["gpu"] else "CPU time"
    versions = sorted({f"{r.package} {r.version}" for r in results.records if r.version})
    parts = [
        f"{where}, torch {machine['torch']}, {results.date}, load {machine['load']:.1f} at the "
        f"start; {', '.join(versions)}. Medians of {clock} in milliseconds; ratios are those of a "
        "peer to ours."
    ]
    for model in dict.fromkeys(r.model for r in results.records):
        records = [r for r in results.records if r.model == model]
        parts += [f"## {title_of(model)}", times(records), memory(records), growth_table(records)]
        parts += [compilations(records)]
    return "\n\n".join(part for part in parts if part)


def times(records: Sequence[Record]) -> str:
    """Milliseconds of every contender, and ratios of each peer to each of ours."""
    who = present(records)
    ours = [c for c in who if c.package == OURS]
    header = ["task"]
    for contender in who:
        header.append(contender.name)
        if contender.package != OURS:
            header += [f"÷ {our.name}" for our in ours]
    rows = []
    for case, found in _by_case(records).items():
        row = [_name(case, found)]
        for contender in who:
            record = found.get(contender)
            row.append(_milliseconds(record))
            if contender.package != OURS:
                row += [_ratio(record, found.get(our)) for our in ours]
        rows.append(row)
    return markdown(header, rows)


def memory(records: Sequence[Record]) -> str:
    """Peaks of memory."""
    who = present(records)
    rows = []
    for case, found in _by_case(records).items():
        cells = [found.get(contender) for contender in who]
        mebibytes = [f"{r.peak_bytes / 2**20:.0f}" if r and r.seconds else "–" for r in cells]
        rows.append([_name(case, found), *mebibytes])
    return markdown(["peak of memory, MiB", *(c.name for c in who)], rows)


def growth_table(records: Sequence[Record]) -> str:
    """How the cost of an inference grows with the number of silicon atoms."""
    found = {contender: growth(records, contender) for contender in present(records)}
    sizes = sorted({n for points in found.values() for n, _ in points})
    if len(sizes) < 2:
        return ""
    header = ["inference, µs/atom", *map(str, sizes), "exponent"]
    rows = []
    for contender, points in found.items():
        costs = {n: f"{1000 * ms / n:.1f}" for n, ms in points}
        slope = f"{exponent(*zip(*points, strict=True)):.2f}" if len(points) > 1 else "–"
        if points:
            rows.append([contender.name, *(costs.get(n, "–") for n in sizes), slope])
    return markdown(header, rows)


def compilations(records: Sequence[Record]) -> str:
    """How long compiling took, and what could not be measured."""
    slow = [r for r in records if r.compile_s > 1]
    lines = [f"- {r.contender.name}, {_case(r.case)}: {r.compile_s:.0f} s" for r in slow]
    errors = [r for r in records if r.error]
    lines += [f"- {r.contender.name}, {_case(r.case)}: {r.error}" for r in errors]
    return "\n".join(["Compilation, not counted above, and failures:", *lines]) if lines else ""


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [f":{'-' * (widths[0] + 1)}", *(f"{'-' * (width + 1)}:" for width in widths[1:])]
    lines = []
    for row in (header, *rows):
        first, *others = zip(row, widths, strict=True)
        cells = [f"{first[0]:{first[1]}}", *(f"{text:>{width}}" for text, width in others)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def _by_case(records: Iterable[Record]) -> dict[tuple[str, str], dict[Contender, Record]]:
    found: dict[tuple[str, str], dict[Contender, Record]] = {}
    for record in records:
        found.setdefault(record.case, {})[record.contender] = record
    return found


def _case(case: tuple[str, str]) -> str:
    task, structure = case
    return f"{task}, {structure.replace(':', ' ')}"


def _name(case: tuple[str, str], found: dict[Contender, Record]) -> str:
    """A case, with the number of atoms where this is another one."""
    atoms = max(record.atoms for record in found.values())
    named = case[1].endswith(f":{atoms}") or not atoms
    return _case(case) + ("" if named else f" ({atoms} atoms)")


def _milliseconds(record: Record | None) -> str:
    if record is None or not record.seconds:
        return "memory" if record and record.error == "out of memory" else "–"
    value = record.milliseconds
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _ratio(record: Record | None, our: Record | None) -> str:
    if not (record and record.seconds and our and our.seconds):
        return "–"
    return f"{record.milliseconds / our.milliseconds:.2f}"
