"""Clock and memory of this process, under Linux, or of its GPU."""

from __future__ import annotations

import ctypes
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch


def limit_memory(n_bytes: int) -> None:
    """Let allocations beyond so many bytes fail, rather than the machine run out of memory."""
    resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, n_bytes))


def is_memory_error(error: BaseException) -> bool:
    """Whether memory was all that was missing."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    text = str(error).lower()
    known = ("out of memory", "can't allocate memory", "bad_alloc")
    return isinstance(error, kinds) or any(x in text for x in known)


class Meter:
    """Times runs and takes their peak of memory.

    On a CPU time is that of the CPU, which other programs disturb less than they do a clock on the
    wall, and memory is what is resident; on a GPU time is on the wall until the GPU has finished,
    and memory is what tensors hold.
    """

    def __init__(self, device: str):
        self.on_gpu = device.startswith("cuda")
        self.memory_at_start = self._memory()

    def seconds(self, run: Callable[[], object], n_runs: int) -> float:
        """Mean time of some runs."""
        start = self._now()
        for _ in range(n_runs):
            run()
        return (self._now() - start) / n_runs

    def _now(self) -> float:
        if not self.on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def _memory(self) -> int:
        """What is in use, after what is not was given back; the peak starts again from there."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")

    def reset_peak(self) -> None:
        """Forget how much was in use before now."""
        self._memory()

    def peak(self) -> int:
        """The most bytes in use since the last reset, beyond those at the start."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated() - self.memory_at_start
        return _status("VmHWM") - self.memory_at_start


def _status(key: str) -> int:
    """A number of bytes from what Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])
