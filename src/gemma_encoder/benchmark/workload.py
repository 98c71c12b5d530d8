"""What a plan's trials read and how much they compute, told before the first one begins."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError
from ..tasks import get_task, load_split
from ..tasks.base import GROUP
from ..tasks.sources import bundled_folder, find_file, official_names
from .plan import Plan

LARGE_FILE = 20_000_000
"""Bytes. To count the rows of a larger part takes too long for a dry run."""


def check_data(plan: Plan, tasks: Iterable[str]) -> None:
    """Look for the files of these tasks' training and validation rows, where they aren't the hub's.

    Raises:
        DataError: Names what is missing.
    """
    if plan.data_dir is None and plan.data_source != "bundled":
        return
    folder = _folder(plan)
    if folder is None or not folder.is_dir():
        raise DataError(
            "The data folder is not there", where=str(folder or "bundled sets"), fix="check --data_dir"
        )
    missing = [
        f"{name}/{split}"
        for name in tasks
        for split in (get_task(name).train_split, get_task(name).validation_split)
        if find_file(folder, get_task(name), split) is None
    ]
    if missing:
        raise DataError(
            f"There is no file for {', '.join(missing)}",
            where=str(folder),
            fix="put it there, or name the tasks that are there with --tasks",
        )


def train_rows(plan: Plan, name: str) -> tuple[int, bool]:
    """How many rows (in ranking lists) a trial of a task trains on.

    Returns:
        The number, and whether it is known; if not, it is at most that.

    Raises:
        DataError: A part's file can't be read.
    """
    task, folder = get_task(name), _folder(plan)
    official = task.official_rows[task.train_split]
    wanted = plan.recipes[name]["max_train_rows"] or official
    path = find_file(folder, task, task.train_split) if folder else None
    if path is None or re.split("[.-]", path.name)[0] in official_names(task, task.train_split):
        return min(official, wanted), True  # that an official file is whole is seen when it is read
    if path.stat().st_size > LARGE_FILE:
        return min(official, wanted), False
    rows = load_split(task, task.train_split, plan.data_dir, source=plan.data_source).rows
    there = len(set(rows[GROUP])) if task.problem_type == "ranking" else len(rows)
    return min(there, wanted), True


def train_tokens(plan: Plan, name: str, rows: int) -> float:
    """Tokens (Gemma 3's, without padding) that a trial of a task trains on; 0 if its recipe doesn't know."""
    recipe = plan.recipes[name]
    return rows * (recipe.get("tokens") or 0) * float(recipe["num_train_epochs"])


def _folder(plan: Plan) -> Path | None:
    """Where the files are; None if the hub is asked at once."""
    if plan.data_dir is not None:
        return Path(plan.data_dir)
    return None if plan.data_source == "hub" else bundled_folder()
