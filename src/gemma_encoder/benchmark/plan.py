"""What a benchmark runs: one trial for each task, arm and seed, and the settings that all of them share."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import ConfigError
from ..json_files import write_json
from ..tasks import DataSource, get_task
from .suites import Suite, get_suite

Arm = Literal["main", "stock", "encoder"]
PLAN_FILE, RESULT_FILE = "plan.json", "trial.json"
"""The files of a benchmark and of each of its trials."""

WARM_START_TASK = "mnli"


@dataclass(frozen=True)
class Trial:
    """One training run of a benchmark.

    Attributes:
        task: What is learnt.
        arm: `main` = the model under test, `stock` = its decoder as transformers' own classifier, `encoder` =
            an established encoder.
        seed: Seed of the run.
    """

    task: str
    arm: Arm
    seed: int

    @property
    def folder(self) -> Path:
        """Where it is, below the benchmark's folder."""
        return Path("trials", self.task, self.arm, f"seed-{self.seed}")

    def __str__(self) -> str:
        return f"{self.task}, {self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Everything that decides a benchmark's results.

    Attributes:
        suite: `glue` or `superglue`.
        model: The decoder under test.
        arms: Which models run; always `main`.
        tasks: Tasks of the suite, in its order; diagnostics come with the task whose model answers them.
        seeds: How many seeds, from 0.
        encoder_model: The established encoder, if it runs.
        encoder: Options of `EncoderConfig` for `main`, but labels and template.
        recipes: Hyper-parameters and numbers of rows by task, as `training.recipes.Recipe` has them.
        training: Options of `EncoderTrainingArguments` that all trials share.
        data_dir: Folder with the suites' files.
        data_source: Where to look without one.
        submission: Whether `main` answers the test sets too.
        warm_start: Whether the suite's `warm_start` tasks start from the same arm and seed's model of MNLI;
            the stock classifier never does.
    """

    suite: str
    model: str
    arms: tuple[Arm, ...]
    tasks: tuple[str, ...]
    seeds: int
    encoder_model: str | None = None
    encoder: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    data_dir: str | None = None
    data_source: DataSource = "auto"
    submission: bool = False
    warm_start: bool = False

    def __post_init__(self) -> None:
        suite = self.of_suite
        for arm in self.arms:
            if arm not in get_args(Arm):
                raise ConfigError(f"there is no arm {arm!r}", fix=f"use {', '.join(get_args(Arm))}")
        for task in self.tasks:
            if task not in suite.tasks:
                raise ConfigError(
                    f"{task!r} is no task of {suite.title}", fix=f"use some of {', '.join(suite.tasks)}"
                )
        if self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds}", fix="give a number of at least 1")
        if "encoder" in self.arms and not self.encoder_model:
            raise ConfigError("The arm encoder has no model", fix="name it with --encoder_model")

    @property
    def of_suite(self) -> Suite:
        """The suite."""
        return get_suite(self.suite)

    def trials(self) -> list[Trial]:
        """All trials: seed by seed, so that a part of them is a benchmark with fewer seeds; a trial that
        another one starts from comes first."""
        trained = [task for task in self.tasks if get_task(task).trained_on is None]
        for task in self.tasks:  # a diagnostic needs the model of its task, asked for or not
            parent = get_task(task).trained_on
            if parent and parent not in trained:
                trained.append(parent)
        wanted = self._of(trained)
        parents = {self.parent(trial) for trial in wanted} - {None}
        if not parents:
            return wanted
        in_order = self._of([WARM_START_TASK, *(task for task in trained if task != WARM_START_TASK)])
        return [trial for trial in in_order if trial.task in trained or trial in parents]

    def _of(self, tasks: Sequence[str]) -> list[Trial]:
        return [Trial(task, arm, seed) for seed in range(self.seeds) for task in tasks for arm in self.arms]

    def starts_warm(self, trial: Trial) -> bool:
        """Whether a trial starts from a model of MNLI; the stock one stays what people would try first."""
        return self.warm_start and trial.task in self.of_suite.warm_start and trial.arm != "stock"

    def parent(self, trial: Trial) -> Trial | None:
        """The trial that must have ended before this one."""
        return Trial(WARM_START_TASK, trial.arm, trial.seed) if self.starts_warm(trial) else None

    def diagnostics(self, task: str) -> tuple[str, ...]:
        """The diagnostics that the model of a task answers too."""
        return tuple(name for name in self.tasks if get_task(name).trained_on == task)

    def write(self, folder: Path) -> None:
        """Write `plan.json`."""
        write_json(folder / PLAN_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Undo `write`.

        Raises:
            ConfigError: There is no plan, or it can't be read.
        """
        path = folder / PLAN_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**data, "arms": tuple(data["arms"]), "tasks": tuple(data["tasks"])})
        except FileNotFoundError:
            raise ConfigError(
                f"{folder} holds no benchmark: {PLAN_FILE} is missing", fix="name a benchmark's folder"
            ) from None
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise ConfigError(f"{path} can't be read: {error}", fix="restore it, or start again") from error

    def check_continues(self, earlier: Plan, begun: Collection[str]) -> None:
        """Refuse to go on in a folder where this plan's trials would mix with others.

        More tasks, arms and seeds may be asked for; everything else must be as it was, but for recipes of
        tasks that nothing was trained on yet.

        Args:
            earlier: The folder's plan.
            begun: Tasks that have trials there.

        Raises:
            ConfigError: Names what differs.
        """
        for each in fields(self):
            if each.name in ("arms", "tasks", "seeds", "recipes"):
                continue
            before, now = getattr(earlier, each.name), getattr(self, each.name)
            if before != now and (before or now):
                raise ConfigError(
                    f"The benchmark was begun with other options: {each.name} was {before!r} and is {now!r}",
                    fix="give the options it was begun with, or another --output",
                )
        for task in earlier.recipes.keys() & self.recipes.keys() & set(begun):
            if dict(earlier.recipes[task]) != dict(self.recipes[task]):
                raise ConfigError(
                    f"The benchmark was begun with another recipe for {task}: {earlier.recipes[task]} "
                    f"and now {self.recipes[task]}",
                    fix="give the options it was begun with, or another --output",
                )
