"""What a training run writes, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

import graph_pes
from tests.runs import config, train


def files_and_times(folder: Path) -> dict[Path, int]:
    # Python's own bytecode caches are no output of a run
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_a_run_writes_to_its_own_folder_only(
    data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, work, root = (tmp_path / name for name in ("home", "work", "results"))
    home.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(home / name))
    watched = [Path(graph_pes.__file__).parent, data_files, work]
    before = [files_and_times(folder) for folder in watched]

    folder = train(config(data_files, root))

    assert [files_and_times(folder) for folder in watched] == before
    assert folder.parent == root
    assert {path.name for path in root.iterdir()} == {folder.name}
    assert not [path for path in files_and_times(home) if "graph" in path.name]
