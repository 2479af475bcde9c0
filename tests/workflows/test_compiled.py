"""Training by compiled code follows the same curve."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import column, config, train

SCHNET = 'model/many-body={"+SchNet": {channels: 4, layers: 1, expansion_features: 4, cutoff: 3.0}}'


def test_losses_are_those_of_eager_training(data_files: Path, tmp_path: Path) -> None:
    overrides = ("fitting/trainer_kwargs/max_epochs=10", "fitting/ema={decay: 0.9}")
    curves = {}
    for compiled in ("false", "true"):
        setting = f"fitting/compile={compiled}"
        folder = train(config(data_files, tmp_path / compiled, SCHNET, *overrides, setting))
        curves[compiled] = column(folder, "train/loss/total")
    assert "Compiled in" in (tmp_path / "true" / "run" / "rank-0.log").read_text()
    assert len(curves["true"]) == 20
    assert curves["true"] == pytest.approx(curves["false"], rel=1e-4)
