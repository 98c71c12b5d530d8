"""From trials' records to a benchmark's results: means, intervals, comparisons, averages."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from ..evaluation import compute_metrics, mean_interval
from ..evaluation.comparison import Comparison, compare
from ..evaluation.confusion import FROM_CONFUSION, confusion
from ..tasks import get_task
from .plan import Arm, Plan, Trial
from .runner import finished
from .suites import suite_average, task_score

MANY_ROWS = 100_000
"""A comparison over more rows than these (ReCoRD's candidates) is resampled a tenth as often."""

Interval = tuple[float, float | None]
"""Mean over seeds and half the width of its 95 % Student t interval; None for a single seed."""


@dataclass(frozen=True)
class TaskResult:
    """One arm on one task, over its seeds.

    Attributes:
        task: The task, or the diagnostic.
        arm: Which model.
        model: Its decoder or encoder.
        seeds: The seeds that have ended.
        metrics: Each metric of each split, by `split: metric` (the split left out where there is one only).
        score: The task's one number, see `suites.task_score`.
        majority: The same for a predictor that knows no text.
        train_rows: Rows trained on; each choice of a question is one.
        trained_on_all: Whether they are the whole official split.
        rows: Rows judged, all splits together.
        notes: What makes the rows other than the official splits.
        minutes: Mean time of the trials that ran in one go; None if none did.
        tokens_per_second: Mean training speed.
        against: The main model's score less this one's, on the same rows; None for the main model itself.
    """

    task: str
    arm: Arm
    model: str
    seeds: tuple[int, ...]
    metrics: dict[str, Interval]
    score: Interval
    majority: float
    train_rows: int
    trained_on_all: bool
    rows: int
    notes: tuple[str, ...]
    minutes: float | None
    tokens_per_second: float | None
    against: Comparison | None = None


@dataclass(frozen=True)
class Results:
    """A benchmark's results so far.

    Attributes:
        plan: What was asked for.
        tasks: In the suite's order, arm by arm.
        averages: The suite's average of each arm over seeds; None while a task of it is missing.
        missing: Trials that have not ended.
    """

    plan: Plan
    tasks: list[TaskResult]
    averages: dict[Arm, Interval | None]
    missing: list[Trial]


def collect(root: Path, *, wnli: bool = False, resamples: int = 1999) -> Results:
    """Read a benchmark's folder.

    Args:
        root: The folder.
        wnli: Whether WNLI counts for GLUE's average.
        resamples: Random swaps of each paired comparison.

    Raises:
        ConfigError: The folder holds no benchmark.
    """
    plan = Plan.read(root)
    records = {trial: finished(root, trial) for trial in plan.trials()}
    ended = {trial: record for trial, record in records.items() if record is not None}
    by_setting: dict[tuple[str, Arm], list[_Judged]] = defaultdict(list)
    for trial, record in ended.items():
        for judged in _judged_tasks(root, trial, record):
            by_setting[(judged.task, trial.arm)].append(judged)
    tasks = [
        _over_seeds(by_setting[(task, arm)], by_setting.get((task, "main"), []), arm, resamples)
        for task in plan.of_suite.tasks
        for arm in plan.arms
        if (task, arm) in by_setting
    ]
    averages = {arm: _average(plan, arm, by_setting, wnli) for arm in plan.arms}
    return Results(plan, tasks, averages, [trial for trial, record in records.items() if record is None])


@dataclass(frozen=True)
class _Judged:
    """One trial's model on one task, all splits."""

    task: str
    seed: int
    splits: list[dict[str, Any]]
    folder: Path
    record: dict[str, Any]

    def score(self, what: str = "metrics") -> float:
        return task_score(self.task, {split["split"]: split[what] for split in self.splits})


def _judged_tasks(root: Path, trial: Trial, record: dict[str, Any]) -> Iterable[_Judged]:
    splits: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in record["results"]:
        splits[result["task"]].append(result)
    for task, results in splits.items():
        yield _Judged(task, trial.seed, results, root / trial.folder, record)


def _over_seeds(seeds: Sequence[_Judged], main: Sequence[_Judged], arm: Arm, resamples: int) -> TaskResult:
    first = seeds[0]
    several = len(first.splits) > 1
    metrics: dict[str, Interval] = {}
    for number, split in enumerate(first.splits):
        for name in split["metrics"]:
            values = [judged.splits[number]["metrics"][name] for judged in seeds]
            metrics[f"{split['split']}: {name}" if several else name] = mean_interval(values)
    notes = {judged.record["train_note"] for judged in seeds}
    notes |= {split["note"] for judged in seeds for split in judged.splits}
    minutes = [judged.record["minutes"] for judged in seeds if not judged.record["resumed"]]
    speeds = [judged.record["run"].get("tokens_per_second") for judged in seeds]
    return TaskResult(
        task=first.task,
        arm=arm,
        model=first.record["model"],
        seeds=tuple(judged.seed for judged in seeds),
        metrics=metrics,
        score=mean_interval([judged.score() for judged in seeds]),
        majority=first.score("baseline"),
        train_rows=first.record["train_rows"],
        trained_on_all=not first.record["train_note"],
        rows=sum(split["rows"] for split in first.splits),
        notes=tuple(sorted({re.sub(r" with seed \d+", "", note) for note in notes if note})),
        minutes=mean(minutes) if minutes else None,
        tokens_per_second=mean(speeds) if all(speeds) else None,
        against=None if arm == "main" or not main else _against(main, seeds, resamples),
    )


def _against(main: Sequence[_Judged], other: Sequence[_Judged], resamples: int) -> Comparison | None:
    """The main model against another one, by the rows of all splits; None if they weren't judged alike."""
    if [split["split"] for split in main[0].splits] != [split["split"] for split in other[0].splits]:
        return None
    task = get_task(main[0].task)
    files = [split["scores"] for split in main[0].splits]
    loaded = [[_load(judged.folder / file) for file in files] for judged in (*main, *other)]
    labels = [data["labels"] for data in loaded[0]]
    if any(
        not np.array_equal(data["labels"], label)
        for judged in loaded
        for data, label in zip(judged, labels, strict=True)
    ):
        return None
    statistic, groups = _statistic(task.name, loaded[0])
    if len(groups) > MANY_ROWS:
        resamples //= 10
    scores = [np.concatenate([data["scores"] for data in judged]) for judged in loaded]
    return compare(scores[: len(main)], scores[len(main) :], statistic, groups=groups, resamples=resamples)


def _statistic(task: str, splits: Sequence[dict[str, Any]]) -> tuple[Callable[[np.ndarray], float], Any]:
    """The task's one number as a function of the scores of all its splits, one below the other."""
    names = get_task(task).metrics
    classes = get_task(task).problem_type == "single_label_classification"
    fast = [name for name in names if classes and name in FROM_CONFUSION]
    slow = [name for name in names if name not in fast]
    ends = np.cumsum([len(split["labels"]) for split in splits])[:-1]

    def statistic(scores: np.ndarray) -> float:
        values = []
        for part, split in zip(np.split(scores, ends), splits, strict=True):
            of_split = []
            if fast:
                matrix = confusion(split["labels"], part.argmax(axis=1), part.shape[1])
                of_split += [FROM_CONFUSION[name](matrix) for name in fast]
            if slow:
                together = {"groups": split.get("groups"), "candidates": split.get("candidates")}
                of_split += compute_metrics(slow, part, split["labels"], **together).values()
            values.append(mean(of_split))
        return mean(values)

    groups, offset = [], 0
    for split in splits:
        own = split.get("groups", np.arange(len(split["labels"])))
        groups.append(own + offset)
        offset += int(own.max()) + 1
    return statistic, np.concatenate(groups)


def _load(path: Path) -> dict[str, Any]:
    with np.load(path) as data:
        return {name: data[name] for name in data.files}


def _average(
    plan: Plan, arm: Arm, by_setting: dict[tuple[str, Arm], list[_Judged]], wnli: bool
) -> Interval | None:
    """The suite's average, seed by seed over the seeds that every task has."""
    scores: dict[int, dict[str, float]] = defaultdict(dict)
    for task in plan.of_suite.tasks:
        for judged in by_setting.get((task, arm), []):
            scores[judged.seed][task] = judged.score()
    averages = [suite_average(plan.of_suite, of_seed, wnli=wnli) for of_seed in scores.values()]
    known = [average for average in averages if average is not None]
    return mean_interval(known) if known else None
