"""The largest crystal that fits into memory."""

from __future__ import annotations

import math
import sys

from .catalogue import Contender, contenders
from .compare import Case, Entrant, Settings
from .results import Record, Results

#: Sums of the numbers of cells along three edges: the smallest crystal, and what doubles it.
FIRST, STEP = 12, 1.26


def fits(models: list[str], settings: Settings, most: int) -> Results:
    """The largest crystal of each model and each contender, with up to so many atoms."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    results = Results.started_now(settings.device)
    for model in models:
        for contender in contenders(model, "inference", settings.peers):
            if contender.compiled and settings.eager_only:
                continue
            record, reason = largest(model, contender, settings, most)
            gibibytes = record.peak_bytes / 2**30
            print(
                f"{model} {contender.name}: {record.atoms} atoms, {record.milliseconds:.0f} ms, "
                f"{gibibytes:.1f} GiB; {reason}",
                flush=True,
            )
            results.records.append(record)
            results.write(settings.folder / "fits.json")
    return results


def largest(model: str, contender: Contender, settings: Settings, most: int) -> tuple[Record, str]:
    """Its record, and why there is no larger one: doubled, then halved between the two.

    Each try has a process of its own, as one that has run out of memory is of no more use.
    """

    def tried(edges: int) -> Record:
        entrant = Entrant(contender, Case(model, "inference", f"Si:{atoms_of(edges)}"), settings)
        for _ in range(settings.repeats):
            entrant.repeat()
        print(f"{atoms_of(edges)}: {entrant.error or 'fits'}", file=sys.stderr, flush=True)
        return entrant.record()

    fitting, failing, best = FIRST, None, tried(FIRST)
    reason = best.error
    while not best.error and (failing is None or failing - fitting > 1):
        middle = math.ceil(STEP * fitting) if failing is None else (fitting + failing) // 2
        if atoms_of(middle) > most:
            failing, reason = middle, f"no more than {most} atoms were tried"
            continue
        found = tried(middle)
        if found.error:
            failing, reason = middle, found.error
        else:
            fitting, best = middle, found
    return best, reason


def atoms_of(edges: int) -> int:
    """Atoms in conventional cells of diamond, in a box whose edges differ by one at most."""
    return 8 * (edges // 3) * ((edges + 1) // 3) * ((edges + 2) // 3)
