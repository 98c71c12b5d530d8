"""JSON files written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .whole_files import whole_file


def write_json(path: str | Path, data: Any) -> Path:
    """Write JSON as `whole_file` does.

    Args:
        path: Where to. Its folder is made if need be.
        data: What to write; what JSON doesn't know is written as its string.

    Raises:
        OSError: It can't be written.
    """
    with whole_file(path) as file:
        file.write((json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n").encode())
    return Path(path)
