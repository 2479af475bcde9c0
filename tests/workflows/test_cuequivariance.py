"""Training with kernels of cuEquivariance follows the same curve."""

from __future__ import annotations

from pathlib import Path

import pytest

from graph_pes.training.config_files import ConfigError
from tests.runs import column, config, train

NEQUIP = (
    "{+NequIP: {elements: [H, C, O], layers: 2, cutoff: 3.0, "
    "features: {channels: 4, l_max: 1, use_odd_parity: false}}}"
)


def test_losses_are_the_same(data_files: Path, tmp_path: Path) -> None:
    pytest.importorskip("cuequivariance_torch")
    curves = []
    for fused in ("false", "true"):
        settings = config(
            data_files,
            tmp_path / fused,
            f"model/many-body={NEQUIP}",
            "fitting/trainer_kwargs/max_epochs=5",
            f"fitting/cuequivariance={fused}",
        )
        curves.append(column(train(settings), "train/loss/total"))
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_models_without_tensor_products(data_files: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="AdditionModel has no tensor products, as NequIP"):
        train(config(data_files, tmp_path, "fitting/cuequivariance=true"))


def test_compiled_training_has_kernels_of_its_own(data_files: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give compile or cuequivariance, not both"):
        train(config(data_files, tmp_path, "fitting/cuequivariance=true", "fitting/compile=true"))
