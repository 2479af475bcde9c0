"""Memory that is freed stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
{before}
def evaluate():  # what is 40 MB large, twice
    x = torch.ones(10_000_000)
    return (x + 1).sum()

for _ in range(10):
    evaluate()
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    evaluate()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start) / 5)
"""

CALCULATOR = """
from graph_pes.models import LennardJones
LennardJones().ase_calculator()
"""


def faults(before: str, **environment: str) -> float:
    """How many pages the system has to make for one evaluation."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_used_again_by_calculators() -> None:
    assert faults("") > 5000  # of 4 kB: without, the system makes them anew
    assert faults(CALCULATOR) < 100
    assert faults(CALCULATOR, MALLOC_TOP_PAD_="131072") > 5000  # the user's choice
