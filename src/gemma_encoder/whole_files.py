"""Files written whole or not at all."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Write beside the place, then move there: a kill or a full disk leaves what stood there before.

    Args:
        path: Where to; packed if it ends in `.gz`. Its folder is made if need be. A device or pipe, such as
            /dev/null, is written to and not replaced.

    Raises:
        OSError: It can't be written.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as special:
            yield special
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as raw:
            if path.suffix.lower() == ".gz":
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:  # no name, no time in it
                    yield cast(IO[bytes], packed)
            else:
                yield raw
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
