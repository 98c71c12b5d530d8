"""From trials' records to a benchmark's results: means, intervals, comparisons, averages."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from ..errors import DataError
from ..evaluation import mean_interval
from ..evaluation.comparison import Comparison
from .judged import Judged, LeftOut, common_splits, judged_tasks, left_out
from .paired import against, against_majority, majority_metrics
from .plan import Arm, Plan, Trial
from .runner import finished
from .suites import counted_tasks, suite_average

Interval = tuple[float, float | None]
"""Mean over seeds and half the width of its 95 % Student t interval; None for a single seed."""

TRAIN_NOTE = "train: "
"""What notes on training rows begin with; others begin with the name of a split."""


@dataclass(frozen=True)
class TaskResult:
    """One arm on one task, over its seeds.

    Attributes:
        task: The task, or the diagnostic.
        arm: Which model.
        model: Its decoder or encoder.
        seeds: The seeds that have ended.
        metrics: Each metric of each split, by `split: metric` (the split left out where there is one only).
            A split that a seed lacks is left out of everything.
        score: The task's one number, see `suites.task_score`.
        majority: The same for a predictor that knows no text.
        train_rows: Rows trained on; each choice of a question is one.
        trained_on_all: Whether they are the whole official split.
        rows: Rows judged, all splits together.
        notes: What makes the rows other than the official splits: `train: ...`, or the split's name.
        minutes: Mean time of the trials that ran in one go; None if none did.
        tokens_per_second: Mean training speed.
        against: The main model's score less this one's, on the same rows; None for the main model itself.
        against_majority: Of the main model: what it has more than the majority on the same rows, by
            `paired.majority_metrics`; None where these are none.
        not_compared: Why a comparison that should be there is not.
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
    against_majority: Comparison | None = None
    not_compared: str = ""


@dataclass(frozen=True)
class Average:
    """A suite's average of one arm.

    Attributes:
        score: Over the seeds; None where there is no average.
        tasks: The tasks it is the mean of.
        seeds: The seeds that have a score of every task.
        partial: Those of the tasks that were trained or judged on other than the official rows.
        why_none: What keeps it from being; empty if it is there.
    """

    score: Interval | None
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    partial: tuple[str, ...]
    why_none: str = ""


@dataclass(frozen=True)
class Results:
    """A benchmark's results so far.

    Attributes:
        plan: What was asked for.
        tasks: In the suite's order, arm by arm.
        averages: The suite's average of each arm.
        missing: Trials that have not ended.
        wnli: Whether WNLI counts for the averages.
        left_out: Splits that could not be scored.
    """

    plan: Plan
    tasks: list[TaskResult]
    averages: dict[Arm, Average]
    missing: list[Trial]
    wnli: bool = False
    left_out: tuple[LeftOut, ...] = ()


def collect(root: Path, *, wnli: bool = False, resamples: int = 1999) -> Results:
    """Read a benchmark's folder.

    Args:
        root: The folder.
        wnli: Whether WNLI counts for GLUE's average.
        resamples: Random swaps of each paired comparison.

    Raises:
        ConfigError: The folder holds no benchmark, or one without WNLI that it is asked for of.
    """
    plan = Plan.read(root)
    counted = counted_tasks(plan.of_suite, wnli=wnli)
    records = {trial: finished(root, trial) for trial in plan.trials()}
    ended = {trial: record for trial, record in records.items() if record is not None}
    by_setting: dict[tuple[str, Arm], list[Judged]] = defaultdict(list)
    for trial, record in ended.items():
        for judged in judged_tasks(root, trial, record):
            by_setting[(judged.task, trial.arm)].append(judged)
    tasks = [
        _over_seeds(by_setting[(task, arm)], by_setting.get((task, "main"), []), arm, resamples)
        for task in plan.of_suite.tasks
        for arm in plan.arms
        if (task, arm) in by_setting
    ]
    partial = {(result.task, result.arm) for result in tasks if result.notes}
    averages = {}
    for arm in plan.arms:
        of_arm = {task: by_setting.get((task, arm), []) for task in counted}
        averages[arm] = _average(plan, of_arm, [task for task in counted if (task, arm) in partial], wnli)
    missing = [trial for trial, record in records.items() if record is None]
    return Results(plan, tasks, averages, missing, wnli, tuple(left_out(ended)))


def _over_seeds(seeds: Sequence[Judged], main: Sequence[Judged], arm: Arm, resamples: int) -> TaskResult:
    first, splits = seeds[0], common_splits(seeds)
    metrics: dict[str, Interval] = {}
    for split in splits:
        for name in first.splits[split]["metrics"]:
            values = [judged.splits[split]["metrics"][name] for judged in seeds]
            metrics[f"{split}: {name}" if len(splits) > 1 else name] = mean_interval(values)
    minutes = [judged.record["minutes"] for judged in seeds if not judged.record["resumed"]]
    speeds = [judged.record["run"].get("tokens_per_second") for judged in seeds]
    compared: Comparison | None = None
    above_majority, why_not = None, ""
    if arm == "main" and majority_metrics(first.task):
        above_majority, why_not = _try(lambda: against_majority(seeds, resamples))
    elif arm != "main" and main:
        compared, why_not = _try(lambda: against(main, seeds, resamples))
    return TaskResult(
        task=first.task,
        arm=arm,
        model=first.record["model"],
        seeds=tuple(judged.trial.seed for judged in seeds),
        metrics=metrics,
        score=mean_interval([judged.score(splits) for judged in seeds]),
        majority=first.score(splits, "baseline"),
        train_rows=first.record["train_rows"],
        trained_on_all=not first.record["train_note"],
        rows=sum(first.splits[split]["rows"] for split in splits),
        notes=_notes(seeds, splits),
        minutes=mean(minutes) if minutes else None,
        tokens_per_second=mean(speeds) if all(speeds) else None,
        against=compared,
        against_majority=above_majority,
        not_compared=why_not,
    )


def _try(comparison: Callable[[], Comparison]) -> tuple[Comparison | None, str]:
    """A comparison, or why there is none: tables must not be lost for one file."""
    try:
        return comparison(), ""
    except DataError as error:
        return None, error.what


def _notes(seeds: Sequence[Judged], splits: Sequence[str]) -> tuple[str, ...]:
    """What is unusual about the rows, each thing once, and of which split it is."""
    notes = [TRAIN_NOTE + judged.record["train_note"] for judged in seeds if judged.record["train_note"]]
    for split in splits:
        own = [judged.splits[split]["note"] for judged in seeds]
        notes += [f"{split}: {note}" for note in own if note]
    for split in dict.fromkeys(name for judged in seeds for name in judged.missing):
        without = [str(judged.trial.seed) for judged in seeds if split in judged.missing]
        some = "" if len(without) == len(seeds) else f" (seed {', '.join(without)} has none)"
        notes.append(f"{split}: left out{some}")
    return tuple(dict.fromkeys(re.sub(r" with seed \d+", "", note) for note in notes))


def _average(
    plan: Plan, judged: Mapping[str, Sequence[Judged]], partial: Sequence[str], wnli: bool
) -> Average:
    """The mean of the counted tasks, seed by seed over the seeds that have all of each: a task without one of
    its splits has another score."""
    scores: dict[int, dict[str, float]] = defaultdict(dict)
    lacking = []
    for task, seeds in judged.items():
        whole = [each for each in seeds if not each.missing]
        for each in whole:
            scores[each.trial.seed][task] = each.score(each.splits)
        if not whole:
            lacking.append(f"{task} ({', '.join(seeds[0].missing)})" if seeds else task)
    averages = {seed: suite_average(plan.of_suite, each, wnli=wnli) for seed, each in scores.items()}
    known = {seed: average for seed, average in averages.items() if average is not None}
    why_none = ""
    if not known:
        why_none = f"{', '.join(lacking)} missing" if lacking else "no seed has a score of every task"
    return Average(
        mean_interval(list(known.values())) if known else None,
        tuple(judged),
        tuple(sorted(known)),
        tuple(partial),
        why_none,
    )
