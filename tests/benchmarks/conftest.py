"""Models small enough for tests, in place of those of ``models.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import catalogue
from benchmarks.compare import Settings
from benchmarks.environments import interpreters


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two repeats of what is not compiled, without peers."""
    return Settings(
        interpreters([]), "cpu", repeats=2, seconds=1.0, eager_only=True, folder=tmp_path
    )


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A pair potential, and a model that can't be made."""
    content = {
        "packages": {"ours": {"adapter": "graph-pes", "compiled": ["inference"]}},
        "models": {
            "lj": {
                "title": "Lennard-Jones",
                "ours": {"class": "graph_pes.models.LennardJones", "cutoff": 5.0},
            },
            "none": {"title": "none", "ours": {"class": "graph_pes.models.NoModel"}},
        },
    }
    monkeypatch.setattr(catalogue, "catalogue", lambda: content)
    return content
