"""The built-in tasks by name."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from .base import Task, TaskData
from .glue import GLUE
from .sources import DataSource, load_data
from .superglue import SUPERGLUE

TASKS: dict[str, Task] = {**GLUE, **SUPERGLUE}


def get_task(name: str) -> Task:
    """The built-in task of that name.

    Raises:
        ConfigError: There is none; lists those there are.
    """
    if name not in TASKS:
        fix = f"use one of {', '.join(TASKS)}, or name your own files"
        raise ConfigError(f"there is no task {name!r}", fix=fix)
    return TASKS[name]


def load_task(
    name: str,
    data_dir: str | Path | None = None,
    max_train_rows: int | None = None,
    seed: int = 0,
    source: DataSource = "auto",
) -> TaskData:
    """The rows of a built-in task, from `data_dir`, the bundled sets or the hub. See `sources.load_data`."""
    return load_data(get_task(name), data_dir, max_train_rows=max_train_rows, seed=seed, source=source)
