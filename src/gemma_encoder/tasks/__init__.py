"""Tasks: what the text and the label of a row are, and where the rows come from."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from .base import Split, Task, TaskData
from .files import DEFAULT_METRICS, FileTask, read_table
from .formats import ReadReport
from .glue import GLUE
from .sources import DataSource, load_data, load_split
from .superglue import SUPERGLUE
from .tables import Row, TableFormat, iter_rows

TASKS: dict[str, Task] = {**GLUE, **SUPERGLUE}

__all__ = [
    "DEFAULT_METRICS",
    "TASKS",
    "DataSource",
    "FileTask",
    "ReadReport",
    "Row",
    "Split",
    "TableFormat",
    "Task",
    "TaskData",
    "get_task",
    "iter_rows",
    "load_split",
    "load_task",
    "read_table",
]


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
