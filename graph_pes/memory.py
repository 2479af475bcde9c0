"""How the process manages memory."""

from __future__ import annotations

import ctypes
import functools
import os
import platform

#: How much memory that nobody uses a process keeps at most, in bytes.
KEPT = 1 << 30

#: What glibc's ``mallopt`` calls M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


@functools.cache
def keep_freed_memory() -> None:
    """Keep memory that tensors no longer need for those of the next evaluation, up to 1 GiB.

    Otherwise glibc gives most of it back to the system, which has to clear each page when the next
    evaluation asks for it again: a third or more of the time on a CPU. What drivers and commands
    call; nothing is changed where the C library is another, or where the environment says how
    memory is managed (``MALLOC_TRIM_THRESHOLD_`` and the like, ``GLIBC_TUNABLES``).
    """
    chosen = any(key.startswith("MALLOC_") or key == "GLIBC_TUNABLES" for key in os.environ)
    if platform.libc_ver()[0] != "glibc" or chosen:
        return
    library = ctypes.CDLL(None)
    for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        library.mallopt(parameter, KEPT)
