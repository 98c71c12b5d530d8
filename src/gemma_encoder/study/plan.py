"""What a study runs: arms along axes, tasks, seeds, and what all trials share. Nothing here needs torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from ..errors import ConfigError

Design = Literal["one_factor", "grid", "search"]
Stage = Literal["tuning", "search", "report"]
Pruning = Literal["none", "median", "successive_halving"]

BASELINE = "baseline"
FIRST_TUNING_SEED = 1000
"""Learning rates and searches are judged by trials with seeds from here on, which no table reports."""


@dataclass(frozen=True)
class Level:
    """One setting of an axis.

    Attributes:
        name: What tables call it.
        options: Options of `gemma-encoder train` that make it, by dotted name.
    """

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """What is varied.

    Attributes:
        name: What tables call it.
        levels: Its settings; the first is the baseline's.
        low: In a search, the smallest number of a range; then there are no levels.
        high: The largest.
        log: Whether the range is searched by its logarithm.
    """

    name: str
    levels: tuple[Level, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False

    @classmethod
    def read(cls, name: str, given: Any) -> Axis:
        """An axis as it stands in YAML.

        A list has the values of the option that the axis is named after; a mapping has levels by name, each a
        mapping of options; `{low: 1e-5, high: 1e-4, log: true}` is a range for a search.

        Raises:
            ConfigError: It is none of these, has too few levels, or a level twice.
        """
        if isinstance(given, Mapping) and "low" in given:
            return cls._read_range(name, given)
        if isinstance(given, Mapping):
            levels = [Level(str(key), _options(name, key, value)) for key, value in given.items()]
        elif isinstance(given, Sequence) and not isinstance(given, str):
            levels = [Level(_word(value), {name: value}) for value in given]
        else:
            raise ConfigError(
                f"The axis {name} is {given!r}",
                fix=f"list the values of an option ({name}: [a, b]), or name levels, each with its options",
            )
        names = [level.name for level in levels]
        if len(levels) < 2:
            raise ConfigError(
                f"The axis {name} has {len(levels)} level", fix="give at least two, first the baseline's"
            )
        if len(set(names)) < len(names):
            raise ConfigError(f"The axis {name} has a level twice: {', '.join(names)}", fix="leave one out")
        return cls(name, tuple(levels))

    def level(self, chosen: str | float) -> Level:
        """A level by its name, or the one that a number of the range is."""
        for level in self.levels:
            if level.name == chosen:
                return level
        # Two numbers with one name would be one arm.
        name = f"{chosen:.6g}" if isinstance(chosen, float) else str(chosen)
        return Level(name, {self.name: chosen})

    @classmethod
    def _read_range(cls, name: str, given: Mapping[str, Any]) -> Axis:
        unknown = given.keys() - {"low", "high", "log"}
        low, high = given["low"], given.get("high")
        numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (low, high))
        if unknown or not numbers or low >= high or (given.get("log") and low <= 0):
            raise ConfigError(
                f"The range of the axis {name} is {dict(given)}",
                fix="give numbers: {low: 1e-5, high: 1e-4, log: true}, low above 0 with log",
            )
        return cls(name, low=low, high=high, log=bool(given.get("log")))


_NO_LEVEL = Level("", {})


@dataclass(frozen=True)
class Arm:
    """One way to make and train an encoder.

    Attributes:
        name: What tables call it.
        levels: Name of its level on each axis.
        options: What it changes of the options that all arms share.
    """

    name: str
    levels: Mapping[str, str]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class TrialKey:
    """Which trial; there is one with each key.

    Attributes:
        task: What is learnt.
        arm: Which arm.
        stage: `tuning` tries a learning rate and `search` a setting, judged by selection rows; `report`
            trials are those of the tables.
        seed: Of the run.
        learning_rate: The one tried in `tuning`; None otherwise.
    """

    task: str
    arm: str
    stage: Stage
    seed: int
    learning_rate: float | None = None

    def __str__(self) -> str:
        tried = "" if self.learning_rate is None else f", learning rate {self.learning_rate:g}"
        return f"{self.task}, {self.arm}{tried}, seed {self.seed}"


@dataclass(frozen=True)
class StudyPlan:
    """Everything that decides a study's results.

    Attributes:
        tasks: Names of tasks; `file` if the base options name a file.
        base: Options of `gemma-encoder train` that all arms share.
        axes: What is varied, in the form that `Axis.read` takes.
        design: `one_factor` changes one axis at a time from the baseline, `grid` takes every combination of
            levels, `search` lets Optuna choose.
        question: What is asked, for the report.
        seeds: How many seeds a report has, from 0.
        learning_rates: Those that every arm tries before it is reported with its best; none: all arms have
            that of the base options.
        tuning_seeds: Trials of each of them.
        selection_rows: Rows split off the training rows to choose learning rates and settings by.
        report_rows: Judge by at most this many development rows; all if None.
        trials: Number of settings a search tries for each task.
        finalists: The best settings of a search that are trained with all seeds.
        pruning: Whether a search ends bad trials early, by their evaluations.
    """

    tasks: tuple[str, ...]
    base: Mapping[str, Any]
    axes: Mapping[str, Any]
    design: Design = "one_factor"
    question: str = ""
    seeds: int = 3
    learning_rates: tuple[float, ...] = ()
    tuning_seeds: int = 1
    selection_rows: int = 500
    report_rows: int | None = None
    trials: int = 20
    finalists: int = 3
    pruning: Pruning = "none"

    def __post_init__(self) -> None:
        if self.design not in get_args(Design):
            raise ConfigError(f"design is {self.design!r}", fix=f"use {', '.join(get_args(Design))}")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"tasks is {list(self.tasks)}", fix="name at least one task, and each once")
        if not self.axes:
            raise ConfigError("There is no axis: nothing is compared", fix="give axes: {attention: [a, b]}")
        for name in ("seeds", "tuning_seeds", "selection_rows", "trials", "finalists", "report_rows"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ConfigError(f"{name} is {number}", fix="give a number of at least 1")
        for axis in self.axes_read():
            if not axis.levels and self.design != "search":
                raise ConfigError(
                    f"The axis {axis.name} is a range", fix="list its levels, or use design: search"
                )
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ConfigError(
                f"learning_rates is {list(self.learning_rates)}", fix="name each learning rate once"
            )
        if "learning_rate" in self.axes and self.learning_rates:
            raise ConfigError(
                "learning_rate is an axis and tuned for every arm too", fix="leave one of the two out"
            )
        if self.design == "search" and self.learning_rates:
            raise ConfigError(
                "A search chooses the learning rate itself",
                fix="leave learning_rates out and make learning_rate an axis",
            )

    def axes_read(self) -> list[Axis]:
        """The axes."""
        return [Axis.read(name, given) for name, given in self.axes.items()]

    def arms(self) -> list[Arm]:
        """The arms of a fixed design, the baseline first; of a search the baseline only."""
        axes = [axis for axis in self.axes_read() if axis.levels]
        first = {axis.name: axis.levels[0] for axis in axes}
        if self.design == "grid":
            return [
                _arm(dict(zip(first, chosen, strict=True)), first)
                for chosen in itertools.product(*(axis.levels for axis in axes))
            ]
        arms = [_arm(first, first)]
        if self.design == "one_factor":
            arms += [_arm({**first, axis.name: level}, first) for axis in axes for level in axis.levels[1:]]
        return arms

    def arm_of(self, chosen: Mapping[str, str | float]) -> Arm:
        """The arm with these levels, or numbers of ranges, by axis."""
        axes = self.axes_read()
        first = {axis.name: axis.levels[0] if axis.levels else _NO_LEVEL for axis in axes}
        return _arm({axis.name: axis.level(chosen[axis.name]) for axis in axes}, first)

    def arms_to_check(self) -> list[Arm]:
        """Arms that have every option of the plan; of a range its ends."""
        if self.design != "search":
            return self.arms()
        settings: dict[str, list[Any]] = {
            axis.name: [level.name for level in axis.levels] or [axis.low, axis.high]
            for axis in self.axes_read()
        }
        first = {name: chosen[0] for name, chosen in settings.items()}
        arms = [self.arm_of({**first, name: each}) for name, chosen in settings.items() for each in chosen]
        return list({arm.name: arm for arm in [*self.arms(), *arms]}.values())

    def trial_keys(self) -> list[TrialKey]:
        """All trials that are known before the first one runs, in the order they are to run in.

        Learning rates come first; reports go seed by seed, so that a part of them is a smaller study.
        """
        arms = [arm.name for arm in self.arms()]
        tuning = [
            TrialKey(task, arm, "tuning", FIRST_TUNING_SEED + number, rate)
            for number in range(self.tuning_seeds)
            for task in self.tasks
            for arm in arms
            for rate in self.learning_rates
        ]
        return tuning + self.report_keys(arms, self.tasks)

    def report_keys(self, arms: Sequence[str], tasks: Sequence[str]) -> list[TrialKey]:
        """The trials that tables are made of."""
        return [
            TrialKey(task, arm, "report", seed)
            for seed in range(self.seeds)
            for task in tasks
            for arm in arms
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "tasks": list(self.tasks), "learning_rates": list(self.learning_rates)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StudyPlan:
        """Undo `to_dict`; fields that an older plan lacks have their defaults."""
        known = {each.name for each in fields(cls)}
        given = {name: value for name, value in data.items() if name in known}
        for name in ("tasks", "learning_rates"):
            given[name] = tuple(given.get(name, ()))
        return cls(**given)

    def check_continues(self, earlier: StudyPlan) -> None:
        """Refuse to go on with a study whose trials would mix with others.

        More seeds and tasks may be asked for, not fewer; another length of a search, another wording of the
        question; and in a design of one factor at a time more axes and levels, as long as the baseline stays.

        Raises:
            ConfigError: Names what differs, before and now.
        """
        free = {"seeds", "tasks", "question", "trials", "finalists"}
        before, now = earlier.to_dict(), self.to_dict()
        differing = {name for name in now if before[name] != now[name]} - free
        if "axes" in differing and self._only_adds_arms(earlier):
            differing.remove("axes")
        if self.seeds < earlier.seeds:
            differing.add("seeds")
        if not set(earlier.tasks) <= set(self.tasks):
            differing.add("tasks")
        if differing:
            changes = "; ".join(f"{name} was {before[name]} and is {now[name]}" for name in sorted(differing))
            raise ConfigError(
                f"The study was begun with other options: {changes}",
                fix="give those it was begun with, or another --output (or --name)",
            )

    def _only_adds_arms(self, earlier: StudyPlan) -> bool:
        """Whether all arms of the earlier plan are arms of this one, the baseline the same."""
        if "search" in (self.design, earlier.design):
            return False
        ours = {arm.name: arm.options for arm in self.arms()}
        return all(ours.get(arm.name) == arm.options for arm in earlier.arms())


def _arm(chosen: Mapping[str, Level], first: Mapping[str, Level]) -> Arm:
    """What the baseline's levels set gives way to what the others set."""
    differing = {axis: level for axis, level in chosen.items() if level is not first[axis]}
    options = {
        name: value
        for axis in chosen
        if axis not in differing
        for name, value in chosen[axis].options.items()
    }
    set_by: dict[str, str] = {}
    for axis, level in differing.items():
        for name in level.options:
            if name in set_by:
                raise ConfigError(
                    f"The axes {set_by[name]} and {axis} both set {name}", fix="put them into one axis"
                )
            set_by[name] = axis
        options |= level.options
    name = " + ".join(f"{axis} {level.name}" for axis, level in differing.items())
    levels = {axis: level.name for axis, level in chosen.items()}
    return Arm(name or BASELINE, levels, options)


def _options(axis: str, level: Any, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"The level {level} of the axis {axis} is {given!r}", fix="give options: {pooling.kind: mean}"
        )
    return flat(given)


def flat(given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by dotted name: `{"pooling": {"k": 2}}` is `{"pooling.k": 2}`."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _word(value: Any) -> str:
    """A value in words: YAML's true is `true`."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)
