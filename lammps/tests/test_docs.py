"""What the page on LAMMPS tells a newcomer to do works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def test_from_training_to_two_processes(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "lammps.md").read_text()
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    environment = {
        **os.environ,
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "AOT_INDUCTOR_DEBUG_COMPILE": "1",  # do not optimise
    }
    blocks = BLOCK.findall(page)
    assert [name for name, _ in blocks] == ["train.yaml", "commands", "in.ethanol", "commands"]
    printed = ""
    for name, text in blocks:
        if name != "commands":
            (tmp_path / name).write_text(text)
            continue
        done = subprocess.run(
            ["bash", "-e"],
            input=text,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        printed = done.stdout
    assert "model.pt on cpu (float32, cutoff 4 Angstrom, 2 layers), 2 processes" in printed
    rows = re.findall(r"^ +\d+ +([\d.]+)(?: +-?[\d.]+){4} *$", printed, re.M)
    temperatures = [float(row) for row in rows]
    assert len(temperatures) == 5
    assert 0 < temperatures[-1] < 3000
