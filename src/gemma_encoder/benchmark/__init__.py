"""Whole suites of tasks in one command: seeds, intervals, baselines on the same rows."""

from .plan import Plan, Trial
from .results import Results, TaskResult, collect
from .runner import run_plan
from .suites import SUITES, Suite, get_suite, suite_average, task_score

__all__ = [
    "SUITES",
    "Plan",
    "Results",
    "Suite",
    "TaskResult",
    "Trial",
    "collect",
    "get_suite",
    "run_plan",
    "suite_average",
    "task_score",
]
