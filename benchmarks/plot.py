"""Results as a picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .catalogue import OURS, Contender, title_of
from .results import Record, Results, exponent, growth, present


def plot(results: Results, path: Path) -> None:
    """For each model, the cost of an atom over their number, and how many times faster ours is."""
    models = list(dict.fromkeys(r.model for r in results.records))
    figure = Figure(figsize=(11, 3 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), 2, squeeze=False)
    for (left, right), model in zip(axes, models, strict=True):
        records = [r for r in results.records if r.model == model]
        draw_growth(left, records)
        draw_ratios(right, records)
        right.set_title(title_of(model), loc="left")
    figure.savefig(path, dpi=120)


def colours(records: list[Record]) -> dict[Contender, str]:
    """Black for ours, another colour for each peer."""
    who = present(records)
    peers = [contender for contender in who if contender.package != OURS]
    return {c: f"C{peers.index(c)}" if c in peers else "black" for c in who}


def draw_growth(axes: Axes, records: list[Record]) -> None:
    """Microseconds an atom, both axes logarithmic."""
    for contender, colour in colours(records).items():
        points = growth(records, contender)
        if not points:
            continue
        atoms, times = zip(*points, strict=True)
        label = contender.name
        if len(points) > 1:
            label += f" (N$^{{{exponent(atoms, times):.2f}}}$)"
        costs = [1000 * ms / count for count, ms in points]
        axes.loglog(atoms, costs, _line(contender), color=colour, label=label)
    axes.set(xlabel="silicon atoms", ylabel="µs per atom, inference")
    axes.grid(which="both", alpha=0.2)
    if axes.lines:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False}
        axes.legend(fontsize=8, ncols=len(axes.lines), **place)
    else:
        axes.set_axis_off()


def draw_ratios(axes: Axes, records: list[Record]) -> None:
    """Bars: times of the peers over that of our fastest form."""
    cases = list(dict.fromkeys(r.case for r in records))
    others = {c: colour for c, colour in colours(records).items() if c.package != OURS}
    found = {(r.case, r.contender): r.milliseconds for r in records}
    best = {
        case: min((r.milliseconds for r in records if r.case == case and _is_ours(r)), default=1)
        for case in cases
    }
    positions, width = np.arange(len(cases)), 0.8 / max(1, len(others))
    for n, (contender, colour) in enumerate(others.items()):
        ratios = [found.get((case, contender), math.nan) / best[case] for case in cases]
        bars = axes.barh(
            positions + n * width,
            ratios,
            width,
            color=colour,
            label=contender.name,
        )
        labels = ["" if math.isnan(ratio) else f"{ratio:.1f}" for ratio in ratios]
        axes.bar_label(bars, labels, fontsize=7, padding=2)
    names = [f"{task}, {structure.replace(':', ' ')}" for task, structure in cases]
    axes.set_yticks(positions + 0.4 - width / 2, names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time over that of our fastest form")
    if others:
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "frameon": False}
        axes.legend(fontsize=8, ncols=len(others), **place)


def _is_ours(record: Record) -> bool:
    return record.package == OURS and bool(record.seconds)


def _line(contender: Contender) -> str:
    return "o-" if contender.compiled else "o--"
