"""Memory that the process keeps until it gives it back, and when Python looks for what can be freed."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let glibc reuse freed memory instead of giving it back to the system at once.

    By default every tensor above 32 MiB (at first above 128 KiB) is mapped anew
    and its pages are faulted in one by one, each time. On CPUs that costs time, see
    docs/results/speed.md. The price: the process keeps the most memory it ever had until
    it ends, or until `give_back_freed_memory`. It is for programs, not for libraries, to
    decide that; the command line does.

    Returns:
        Whether it is so now; False where the C library isn't glibc, and nothing changed.
    """
    mallopt = _of_glibc("mallopt")
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """Give the system what has been freed so far, where the C library is glibc.

    For the end of a stage that needs much more memory than the next one.
    """
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_glibc(function: str) -> Any:
    """A function that only glibc has, not musl; None without it."""
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None


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
