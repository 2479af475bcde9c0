"""Programs for GPUs, as far as they can be made where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

#: One for each kind of operations.
NAMES = [
    "SchNet",
    "PaiNN",
    "TensorNet",
    "MACE",
    "NequIP",
    "ZEmbeddingNequIP",
    "CHGNet",
    "EDDP",
    "ANI",
    "Orb-conservative",
    "Orb-direct-stress",
    "PET-grid",
    "StillingerWeber",
    "D3Dispersion",
    "Coulomb",
    "AdditionModel",
    "UnitConverter",
]


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has a GPU to pretend")
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_models_can_be_traced_for_cuda(tmp_path: Path) -> None:
    """With all derivatives, and nothing left behind on the CPU; no machine code is made."""
    library, here = tmp_path / "pretended_gpu.so", Path(__file__).parent
    at = Path(torch.__file__).parent
    subprocess.run(
        ["g++", "-std=c++20", "-shared", "-fPIC", str(here / "pretended_gpu.cpp")]
        + ["-o", str(library), f"-isystem{at}/include", f"-L{at}/lib", f"-Wl,-rpath,{at}/lib"]
        + ["-ltorch", "-ltorch_cpu", "-lc10"],
        check=True,
    )
    command = [sys.executable, "-m", "tests.deploy.trace_for_cuda", str(library), *NAMES]
    done = subprocess.run(command, cwd=here.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {name: ["cuda:0"] for name in NAMES}
