"""One process at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder.

    The operating system takes the lock away when the process ends, however it does; the file stays and says
    nothing by itself. Where there are no such locks (Windows, some network drives) nobody is kept out.

    Raises:
        ConfigError: Another process is in there; says which.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"Another process, {file.read() or 'unknown'}, works in this folder",
                where=str(folder),
                fix="wait until it has ended, or end it",
            ) from None
        except OSError:
            pass  # a drive without locks
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
