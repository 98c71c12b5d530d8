"""Memory that the process keeps once it has it, and when Python looks for what can be freed."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let glibc reuse freed memory instead of giving it back to the system at once.

    By default every tensor above 32 MiB (at first above 128 KiB) is mapped anew
    and its pages are faulted in one by one, each time. On CPUs that costs time, see
    docs/results/speed.md. The price: the process keeps the most memory it ever had until
    it ends. It is for programs, not for libraries, to decide that; the command line does.

    Returns:
        Whether it is so now; False where the C library isn't glibc, and nothing changed.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


@contextmanager
def collector_paused() -> Iterator[None]:
    """Inside, Python's garbage collector doesn't look for objects that refer to each other in a circle.

    It looks through all there are after every so many new ones, and imports and tokenizers make a million
    that stay: see docs/performance.md. What is in no circle is freed as ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
