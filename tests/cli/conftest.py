from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import config, train
from tests.runs import data_files as data_files


@pytest.fixture(scope="session")
def run(data_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with everything in it; not to be changed."""
    root = tmp_path_factory.mktemp("results")
    return train(
        config(
            data_files,
            root,
            f"data/test={{hot: {data_files}/test.xyz, warm: {data_files}/valid.xyz}}",
        ),
        report=True,
    )
