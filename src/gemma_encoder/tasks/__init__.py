"""Tasks: what the text and the label of a row are, and where the rows come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .base import Split, Task, TaskData
    from .files import DEFAULT_METRICS, FileTask, read_table
    from .formats import ReadReport
    from .registry import TASKS, get_task, load_task
    from .sources import DataSource, load_split
    from .tables import Row, TableFormat, iter_rows

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

_HOMES = {
    "DEFAULT_METRICS": "files",
    "TASKS": "registry",
    "DataSource": "sources",
    "FileTask": "files",
    "ReadReport": "formats",
    "Row": "tables",
    "Split": "base",
    "TableFormat": "tables",
    "Task": "base",
    "TaskData": "base",
    "get_task": "registry",
    "iter_rows": "tables",
    "load_split": "sources",
    "load_task": "registry",
    "read_table": "files",
}

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
