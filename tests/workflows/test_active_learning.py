"""The loop of active learning in ``examples/active_learning``, a short one."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

LOOP = Path(__file__).parents[2] / "examples" / "active_learning" / "loop.py"


def test_the_loop(tmp_path: Path) -> None:
    main = runpy.run_path(str(LOOP))["main"]
    options = "--rounds 2 --candidates 24 --seeds 1 --steps 25"
    results = main([*options.split(), "--figure", str(tmp_path / "errors.png")])
    assert {key: np.shape(errors) for key, errors in results.items()} == {
        "uncertainty": (1, 2),
        "random": (1, 2),
    }
    # both begin with the same structures
    assert results["uncertainty"][0][0] == results["random"][0][0]
    assert np.isfinite([*results.values()]).all()
    assert (tmp_path / "errors.png").stat().st_size > 1000
