"""What a study found, in plain numbers and words: all that a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % interval.

    Attributes:
        estimate: In the metric's unit (accuracy 0.01 is a point).
        low: Lower end.
        high: Upper end.
    """

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class ArmResult:
    """An arm on a task, or on the mean of all tasks.

    Attributes:
        arm: Its name.
        level: Its level on the table's axis.
        task: The task, or `mean of tasks`.
        learning_rate: Of the backbone in the report's trials; None where tasks differ.
        values: The metric of each seed.
        mean: Over seeds.
        half_width: Half of the 95 % t interval over seeds; None with one seed.
        difference: From the baseline, paired by seeds and rows; None for the baseline itself.
        p_value: Two-sided, after Holm's correction within the table.
        effect_size: The difference in standard deviations over seeds; None where there is no spread.
        verdict: What follows, in words.
        minutes: Mean of a trial.
        tokens_per_second: Mean in training.
        peak_mib: The most memory of a trial on its GPU; 0 where only that of a whole process is known.
    """

    arm: str
    level: str
    task: str
    learning_rate: float | None
    values: list[float]
    mean: float
    half_width: float | None
    difference: Interval | None = None
    p_value: float | None = None
    effect_size: float | None = None
    verdict: str = ""
    minutes: float = 0.0
    tokens_per_second: float = 0.0
    peak_mib: float = 0.0


@dataclass(frozen=True)
class AxisResult:
    """An axis: its levels on each task and on the mean of tasks (the last rows, if there are several tasks).

    Attributes:
        axis: Its name.
        baseline: Name of the baseline's level.
        rows: Levels by task; the baseline's row first in each task.
    """

    axis: str
    baseline: str
    rows: list[ArmResult]


@dataclass(frozen=True)
class Effect:
    """In a full grid, the effect of a level, or how much two levels change each other's effect.

    Attributes:
        name: `attention causal`, or `attention causal x pooling last_k`.
        task: The task, or `mean of tasks`.
        difference: With its interval.
        p_value: After Holm's correction.
        verdict: What follows, in words.
    """

    name: str
    task: str
    difference: Interval
    p_value: float
    verdict: str


@dataclass(frozen=True)
class Curve:
    """The course of one trial.

    Attributes:
        task: What was learnt.
        arm: Its arm.
        seed: Its seed.
        loss: Pairs of step and training loss.
        metric: Pairs of step and main metric on the selection rows; empty if it was not judged on the way.
    """

    task: str
    arm: str
    seed: int
    loss: list[tuple[int, float]]
    metric: list[tuple[int, float]]


@dataclass(frozen=True)
class Analysis:
    """All of a report.

    Attributes:
        question: What was asked.
        answer: Sentences that say what was found, one for each axis, made of the verdicts.
        metrics: The main metric of each task.
        set_up: Facts by name: model, rows, selection rows, seeds, how learning rates were chosen.
        held_fixed: Options that all arms share.
        axes: A table for each axis (in a search: the baseline and the finalists in one).
        main_effects: Of a full grid.
        interactions: Of a full grid.
        importance: Of a search: share of each axis in what the metric varies by, for each task.
        curves: One for each trial of the report.
        trials: A row for each trial, of every stage and state, with the same keys in each.
        notes: What a reader must know: parts of splits, failed trials, missing seeds.
        commands: The command of the study, and one to train each arm.
        lower_is_better: Tasks (also `mean of tasks`) whose metric wants to be small, as an error does.
        environment: Versions and hardware.
    """

    question: str
    answer: list[str]
    metrics: Mapping[str, str]
    set_up: Mapping[str, str]
    held_fixed: Mapping[str, Any]
    axes: list[AxisResult]
    main_effects: list[Effect] = field(default_factory=list)
    interactions: list[Effect] = field(default_factory=list)
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    trials: list[Mapping[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    lower_is_better: frozenset[str] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict)
