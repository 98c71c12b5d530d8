"""Which workers of this machine live: each holds the lock of a file, which ends with the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def alive(folder: Path, worker: str) -> Iterator[None]:
    """Show the others in this folder that a worker lives, as long as it does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / worker
    with path.open("w") as file:
        _lock(file)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def died_here(folder: Path, worker: str) -> bool:
    """Whether a worker of this folder has ended without a word; False if that can't be told from here."""
    try:
        with (folder / worker).open("r+") as file:
            return _lock(file)
    except OSError:
        return False


def _lock(file: IO[str]) -> bool:
    """Take a file's lock, if nobody has it; False also where there are no such locks (Windows)."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
