"""Comparison with frozen predictions of an original implementation, given the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase
import numpy as np
import torch

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.models import GraphPESModel

REFERENCES = Path(__file__).parents[1] / "references"

#: Largest errors allowed, relative to the largest value of each structure.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}

Frozen = dict[str, np.ndarray]


def frozen_structures(frozen: Frozen) -> Iterator[tuple[ase.Atoms, Frozen]]:
    """Structures with what the original predicted of them: the entries ``structure.<n>.<key>``."""
    n = 0
    while f"structure.{n}.Z" in frozen:
        start = f"structure.{n}."
        of_this = {k.removeprefix(start): v for k, v in frozen.items() if k.startswith(start)}
        Z, R, cell, pbc = (of_this.pop(key) for key in ("Z", "R", "cell", "pbc"))
        info = {k: of_this.pop(k).item() for k in ("total_charge", "total_spin") if k in of_this}
        yield ase.Atoms(Z, R, cell=cell, pbc=pbc, info=info), of_this
        n += 1


def relative_errors(model: GraphPESModel, frozen: Frozen) -> dict[str, float]:
    """The largest errors of all structures, in the precision of the model.

    They are relative to the largest value of the same structure, or, where symmetry makes
    values vanish, to the hundredth of that of all structures.
    """
    assert model.dtype is not None
    largest: dict[str, float] = {}
    structures = list(frozen_structures(frozen))
    for key in ("energy", "forces", "stress", "virial"):
        sizes = [abs(expected[key]).max() for _, expected in structures if key in expected]
        for atoms, expected in structures:
            if key not in expected:
                continue
            graph = AtomicGraph.from_ase(atoms, model.cutoff_value, dtype=model.dtype)
            found = model.predict(graph, [key])[key].double().numpy()
            scale = max(abs(expected[key]).max(), max(sizes) / 100)
            error = float(abs(found - expected[key]).max() / scale)
            largest[key] = max(error, largest.get(key, 0.0))
    return largest


def assert_agrees(model: GraphPESModel, frozen: Frozen, keys: set[str]) -> None:
    """Check all structures, which have labels under ``keys``."""
    assert model.dtype is not None
    errors = relative_errors(model, frozen)
    assert set(errors) == keys
    assert max(errors.values()) < TOLERANCES[model.dtype], errors
