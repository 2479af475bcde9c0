from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graph_pes.files import atomic_write


def write(path: Path, then: Callable[[Path], object]) -> None:
    """Write to a file atomically, doing something else before the block ends."""
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        then(temporary)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_text("old")
    return path


def test_new_file_in_a_new_folder(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a" / "b" / "x.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "a" / "b" / "x.txt").exists()
    assert contents(tmp_path / "a" / "b") == {"x.txt": "new"}


def test_replaces(old: Path) -> None:
    with atomic_write(str(old)) as temporary:
        temporary.write_text("new")
        assert old.read_text() == "old"
    assert contents(old.parent) == {"model.pt": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_while_writing(old: Path, error: type[BaseException]) -> None:
    def fail(temporary: Path) -> None:
        raise error

    with pytest.raises(error):
        write(old, fail)
    assert contents(old.parent) == {"model.pt": "old"}


def test_exception_after_the_temporary_file_is_gone(old: Path) -> None:
    def fail(temporary: Path) -> None:
        temporary.unlink()
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        write(old, fail)
    assert contents(old.parent) == {"model.pt": "old"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_disk_full(old: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left on device"):
        write(old, lambda temporary: None)
    assert contents(old.parent) == {"model.pt": "old"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_disk_that_is_really_full(old: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write(old, lambda temporary: Path("/dev/full").write_text("new"))
    assert contents(old.parent) == {"model.pt": "old"}


def test_killed_while_writing(old: Path) -> None:
    """Nothing can remove the temporary file then, but it is hidden, and the old one is whole."""
    script = (
        "import os, signal, sys\n"
        "from graph_pes.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('ne')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(old)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert old.read_text() == "old"
    assert all(path.name.startswith(".model.pt.") for path in old.parent.iterdir() if path != old)


def test_usual_permissions(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    with atomic_write(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {stat.S_IMODE(ordinary.stat().st_mode)}


def _replaced(temporary: Path) -> None:
    """Some writers do not write to the file they are given, but put another in its place."""
    other = temporary.with_name("other")
    other.write_text("new")
    other.rename(temporary)


@pytest.mark.parametrize("how", [lambda path: None, _replaced])
def test_ways_of_writing(tmp_path: Path, how: Callable[[Path], object]) -> None:
    write(tmp_path / "x", how)
    assert contents(tmp_path) == {"x": "new"}
