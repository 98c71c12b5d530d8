"""GLUE and SuperGLUE as suites: which tasks, and how their scores become one number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..tasks import get_task
from ..tasks.glue import GLUE
from ..tasks.superglue import SUPERGLUE


@dataclass(frozen=True)
class Suite:
    """Tasks that are reported together.

    Attributes:
        name: What it is called on the command line.
        title: What it is called in tables.
        tasks: In the order of tables.
        outside: Tasks that are reported and don't count for the average: the diagnostics, and WNLI, whose
            development set contradicts its training set, unless it is asked for.
        warm_start: Tasks that may start from a model of MNLI.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    outside: tuple[str, ...]
    warm_start: tuple[str, ...]


SUITES = {
    "glue": Suite("glue", "GLUE", tuple(GLUE), ("wnli", "ax"), ("rte", "mrpc", "stsb")),
    "superglue": Suite("superglue", "SuperGLUE", tuple(SUPERGLUE), ("axb", "axg"), ("superglue_rte", "cb")),
}


def get_suite(name: str) -> Suite:
    """The suite of that name.

    Raises:
        ConfigError: There is none; lists those there are.
    """
    if name not in SUITES:
        raise ConfigError(f"there is no suite {name!r}", fix=f"use one of {', '.join(SUITES)}")
    return SUITES[name]


def task_score(task: str, splits: Mapping[str, Mapping[str, float]]) -> float:
    """A task's one number, as the suites' own averages have it: the mean over its splits (MNLI's matched and
    mismatched) of the mean over its metrics.

    Args:
        task: Name of the task.
        splits: Metrics by split.

    Returns:
        From 0 to 1 (correlations from -1).
    """
    names = get_task(task).metrics
    return float(np.mean([np.mean([metrics[name] for name in names]) for metrics in splits.values()]))


def counted_tasks(suite: Suite, *, wnli: bool = False) -> list[str]:
    """The tasks that a suite's average is of.

    Raises:
        ConfigError: WNLI is asked for in a suite that has none.
    """
    if wnli and "wnli" not in suite.tasks:
        raise ConfigError(f"WNLI is no task of {suite.title}", fix="leave --wnli out")
    outside = set(suite.outside) - ({"wnli"} if wnli else set())
    return [task for task in suite.tasks if task not in outside]


def suite_average(suite: Suite, scores: Mapping[str, float], *, wnli: bool = False) -> float | None:
    """Mean over the suite's tasks; None while one of them has no score: a mean over other tasks is another
    quantity.

    Args:
        suite: Which tasks count.
        scores: `task_score` by task.
        wnli: Whether GLUE's WNLI counts, as on its leaderboard.
    """
    counted = counted_tasks(suite, wnli=wnli)
    if not set(counted) <= scores.keys():
        return None
    return float(np.mean([scores[task] for task in counted]))
