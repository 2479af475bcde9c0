"""The plugin is built once, and mistakes on the way are named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import graph_pes_lammps
from graph_pes.cli.lammps import main
from graph_pes.deploy.cache import cache_folder
from graph_pes_lammps.building import BuildError, build, mpi_headers, package_folder
from graph_pes_lammps.doctor import findings

LAMMPS_FOLDER = Path(__file__).parents[1]


def test_built_once() -> None:
    folder = build()
    before = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    assert build() == folder == Path(graph_pes_lammps.plugin_folder())
    assert [path.stat().st_mtime_ns for path in sorted(folder.iterdir())] == before


def test_all_sources_are_listed() -> None:
    listed = {path.name for path in graph_pes_lammps.sources()}
    assert listed == {path.name for path in (LAMMPS_FOLDER / "src").iterdir()}


def test_other_versions_have_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    present = graph_pes_lammps.plugin_folder()
    monkeypatch.setattr(graph_pes_lammps, "version_of", lambda name: "1.2.3")
    assert graph_pes_lammps.plugin_folder() != present


def test_one_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    assert graph_pes_lammps.cache_folder() == cache_folder()
    monkeypatch.delenv("GRAPH_PES_CACHE")
    assert graph_pes_lammps.cache_folder() == cache_folder()


def test_lammps_does_not_start_torch() -> None:
    """What it imports whenever it starts."""
    script = "import sys, graph_pes_lammps; assert not {'torch', 'graph_pes'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_doctor_finds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    printed = capsys.readouterr().out
    assert "FAIL" not in printed
    assert "LAMMPS knows pair_style graph_pes" in printed


def test_doctor_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit):
        main(["doctor"])
    wrong = [line for line in capsys.readouterr().out.split("\n") if line.startswith("FAIL")]
    assert len(wrong) == 2
    assert "there is no C++ compiler no-such-compiler" in wrong[0]
    assert "not built: run 'graph-pes-lammps build'" in wrong[1]
    assert not [f for f in findings() if f.name == "trial"]


def test_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit):
        main(["build"])
    assert "On Debian and Ubuntu: apt install g++" in "".join(capsys.readouterr())
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(BuildError, match="the compiler failed"):
        build()
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".so"]


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match="nothing is not installed"):
        package_folder("nothing")
    monkeypatch.setenv("MPI_HOME", str(tmp_path))
    with pytest.raises(BuildError, match=r"mpi\.h was not found"):
        mpi_headers()


@pytest.mark.skipif(shutil.which("cmake") is None, reason="there is no cmake")
def test_cmake(tmp_path: Path) -> None:
    """A LAMMPS of one's own: configured, and built as far as it takes seconds."""
    headers = package_folder("lammps") / "include" / "lammps"
    options = {
        "LAMMPS_HEADERS": headers,
        "GRAPH_PES_PYTHON": sys.executable,
        "CMAKE_CXX_COMPILER": "g++",
        "MPI_CXX_COMPILER": shutil.which("mpicxx", path=os.path.dirname(sys.executable)),
    }
    settings = [f"-D{name}={value}" for name, value in options.items()]
    for command in (
        ["cmake", "-S", LAMMPS_FOLDER, "-B", tmp_path, *settings],
        ["cmake", "--build", tmp_path, "--target", "graph_pesplugin"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "graph_pesplugin.so").is_file()
    wrong = ["cmake", "-S", LAMMPS_FOLDER, "-B", tmp_path / "wrong"]
    done = subprocess.run(wrong, capture_output=True, text=True)
    assert "There is no lammps.h in LAMMPS_HEADERS=''" in done.stderr
