"""From a study's records to what a report shows: means, paired differences, verdicts, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from ..evaluation import higher_is_better, mean_interval
from .effects import interactions, main_effects
from .findings import Analysis, ArmResult, AxisResult, Curve, Effect, Interval
from .notes import notes, set_up
from .plan import Arm, StudyPlan
from .records import Record, ReportRows, TrialResult
from .resampling import Resamples
from .statistics import Contrast, contrast, holm, over_tasks
from .verdicts import Verdict, verdict

MEAN = "mean of tasks"
ALL_ARMS, FINALISTS = "all arms", "finalists"


@dataclass(frozen=True)
class _OfTask:
    """A task's report trials.

    Attributes:
        task: Its name.
        metric: The main one.
        results: By arm and seed.
        values: The metric, by arm and seed.
        resampled: The same in each resample of the rows, `[B]`.
        units: What was resampled: rows or groups.
    """

    task: str
    metric: str
    results: dict[str, dict[int, TrialResult]]
    values: dict[str, dict[int, float]]
    resampled: dict[str, dict[int, np.ndarray]]
    units: int

    @classmethod
    def of(cls, task: str, records: Sequence[Record], rows: ReportRows) -> _OfTask:
        metric = rows.metrics[0]
        resamples = Resamples(
            metric,
            rows.problem_type,  # type: ignore[arg-type]
            rows.labels,
            groups=rows.groups,
            candidates=rows.candidates,
        )
        results: dict[str, dict[int, TrialResult]] = {}
        values: dict[str, dict[int, float]] = {}
        resampled: dict[str, dict[int, np.ndarray]] = {}
        for each in records:
            result, key = each.result, each.key
            if key.task != task or result is None or result.report is None or result.scores is None:
                continue
            results.setdefault(key.arm, {})[key.seed] = result
            values.setdefault(key.arm, {})[key.seed] = result.report[metric]
            resampled.setdefault(key.arm, {})[key.seed] = resamples.values(result.scores)
        return cls(task, metric, results, values, resampled, resamples.units)

    def contrast(self, weights: Mapping[str, float]) -> Contrast | None:
        """A contrast of arms; None if one has no result, or they share no seed."""
        seeds = [set(self.values.get(arm, {})) for arm in weights]
        if not set.intersection(*seeds):
            return None
        return contrast(weights, self.values, self.resampled, units=self.units)


def analyse(
    plan: StudyPlan,
    records: Sequence[Record],
    rows: Mapping[str, ReportRows],
    *,
    importance: Mapping[str, Mapping[str, float]] | None = None,
    commands: Sequence[str] = (),
    interesting: float = 0.01,
) -> Analysis:
    """What the finished trials say.

    Args:
        plan: The plan.
        records: Of all trials.
        rows: What the report rows of each task are.
        importance: Of a search, for each task.
        commands: How the study is run.
        interesting: The smallest difference of interest, in units of the metric.
    """
    tasks = [_OfTask.of(task, records, rows[task]) for task in plan.tasks if task in rows]
    arms = _arms(plan, records)
    words = _Words(interesting)
    axes = [
        AxisResult(axis, levels[0][1], _rows(tasks, levels, words)) for axis, levels in _tables(plan, arms)
    ]
    effects: dict[str, list[Effect]] = {"main": [], "interactions": []}
    if plan.design == "grid" and all(arm.name in of.values for of in tasks for arm in arms):
        grid = {arm.name: arm.levels for arm in arms}
        baseline = arms[0].name
        named = {f"{each.axis} {each.level}": each.weights for each in main_effects(grid, baseline)}
        effects["main"] = _effects(tasks, named, words)
        named = {
            " x ".join(f"{axis} {level}" for axis, level in zip(each.axes, each.levels, strict=True)): (
                each.weights
            )
            for each in interactions(grid, baseline)
        }
        effects["interactions"] = _effects(tasks, named, words)
    reported = [each for each in records if each.result and each.key.stage == "report"]
    return Analysis(
        question=plan.question or "Which way to make and train an encoder is best?",
        answer=_answer(plan, axes, effects["main"], len(tasks)),
        metrics={of.task: of.metric for of in tasks},
        set_up=set_up(plan, rows, reported),
        held_fixed=dict(plan.base),
        axes=axes,
        main_effects=effects["main"],
        interactions=effects["interactions"],
        importance={task: shares for task, shares in (importance or {}).items() if shares},
        curves=[_curve(each, rows) for each in reported],
        trials=_trials(sorted(records, key=_in_order)),
        notes=notes(plan, records, rows),
        commands=list(dict.fromkeys([*commands, *_commands(plan, arms, reported)])),
        lower_is_better=_lower_is_better(tasks),
        environment=_environment(reported),
    )


@dataclass(frozen=True)
class _Words:
    """How contrasts are put into words."""

    interesting: float

    def __call__(
        self, contrasts: Sequence[Contrast | None], metrics: Sequence[str]
    ) -> list[tuple[float, Verdict] | None]:
        """Adjusted p values and verdicts of what is looked at together, each with the metric it is of."""
        known = [each for each in contrasts if each is not None]
        adjusted = iter(holm([each.p_value for each in known]))
        found: list[tuple[float, Verdict] | None] = []
        for each, metric in zip(contrasts, metrics, strict=True):
            if each is None:
                found.append(None)
                continue
            p_value = next(adjusted)
            said = verdict(
                each,
                p_value,
                smallest_of_interest=self.interesting,
                higher_is_better=higher_is_better(metric),
                comparisons=len(known),
            )
            found.append((p_value, said))
        return found


def _arms(plan: StudyPlan, records: Sequence[Record]) -> list[Arm]:
    """The plan's arms, and a search's finalists."""
    arms = {arm.name: arm for arm in plan.arms()}
    for each in records:
        if each.key.stage == "report" and each.key.arm not in arms:
            arms[each.key.arm] = Arm(each.key.arm, each.levels, each.options)
    return list(arms.values())


def _tables(plan: StudyPlan, arms: Sequence[Arm]) -> list[tuple[str, list[tuple[str, str]]]]:
    """For each table its title, and arms with what it calls them, the baseline first."""
    if plan.design != "one_factor":
        title = FINALISTS if plan.design == "search" else ALL_ARMS
        return [(title, [(arm.name, arm.name) for arm in arms])]
    baseline = arms[0]
    return [
        (
            axis.name,
            [(baseline.name, baseline.levels[axis.name])]
            + [
                (arm.name, arm.levels[axis.name])
                for arm in arms
                if arm.levels[axis.name] != baseline.levels[axis.name]
            ],
        )
        for axis in plan.axes_read()
    ]


def _rows(tasks: Sequence[_OfTask], levels: Sequence[tuple[str, str]], words: _Words) -> list[ArmResult]:
    """An axis's levels on each task, then on the mean of tasks."""
    baseline = levels[0][0]
    others = [arm for arm, _ in levels[1:]]
    weights = {arm: {arm: 1.0, baseline: -1.0} for arm in others}
    by_task = {of.task: [of.contrast(weights[arm]) for arm in others] for of in tasks}
    said = iter(words(*_with_metrics(tasks, by_task)))
    rows = []
    for of in tasks:
        for arm, level in levels:
            result = _result(of, arm, level)
            if arm != baseline:
                found = by_task[of.task][others.index(arm)]
                result_said = next(said)
                result = _compared(result, found, result_said)
            if result.values:
                rows.append(result)
    if _have_a_mean(tasks):
        means = [_mean_of([by_task[of.task][number] for of in tasks]) for number in range(len(others))]
        told_of = words(means, [tasks[0].metric] * len(means))
        for (arm, level), found, told in zip(levels, [None, *means], [None, *told_of], strict=True):
            result = _compared(_mean_result(tasks, arm, level), found, told)
            if result.values:
                rows.append(result)
    return rows


def _with_metrics(
    tasks: Sequence[_OfTask], by_task: Mapping[str, Sequence[Contrast | None]]
) -> tuple[list[Contrast | None], list[str]]:
    """The contrasts of all tasks behind one another, and the metric of each."""
    contrasts = [each for of in tasks for each in by_task[of.task]]
    return contrasts, [of.metric for of in tasks for _ in by_task[of.task]]


def _have_a_mean(tasks: Sequence[_OfTask]) -> bool:
    """Whether a mean over tasks says anything: several, of metrics that point the same way."""
    return len(tasks) > 1 and len({higher_is_better(of.metric) for of in tasks}) == 1


def _mean_of(contrasts: Sequence[Contrast | None]) -> Contrast | None:
    known = [each for each in contrasts if each is not None]
    return over_tasks(known) if len(known) == len(contrasts) else None


def _result(of: _OfTask, arm: str, level: str) -> ArmResult:
    by_seed = of.values.get(arm, {})
    values = [by_seed[seed] for seed in sorted(by_seed)]
    return _arm_result(of.task, arm, level, values, list(of.results.get(arm, {}).values()))


def _mean_result(tasks: Sequence[_OfTask], arm: str, level: str) -> ArmResult:
    """An arm's mean over tasks, seed by seed; without values if a task has none of it."""
    seeds = set.intersection(*(set(of.values.get(arm, {})) for of in tasks))
    values = [fmean(of.values[arm][seed] for of in tasks) for seed in sorted(seeds)]
    results = [each for of in tasks for each in of.results.get(arm, {}).values()]
    return _arm_result(MEAN, arm, level, values, results)


def _arm_result(
    task: str, arm: str, level: str, values: list[float], results: Sequence[TrialResult]
) -> ArmResult:
    rates = {each.learning_rate for each in results}
    mean, half = mean_interval(values) if values else (float("nan"), None)
    return ArmResult(
        arm=arm,
        level=level,
        task=task,
        learning_rate=rates.pop() if len(rates) == 1 else None,
        values=values,
        mean=mean,
        half_width=half,
        minutes=_mean_fact(results, "minutes"),
        tokens_per_second=_mean_fact(results, "tokens_per_second"),
        peak_mib=max((each.peak_mib for each in results if each.peak_of_trial), default=0.0),
    )


def _mean_fact(results: Sequence[TrialResult], name: str) -> float:
    return fmean(getattr(each, name) for each in results) if results else 0.0


def _compared(result: ArmResult, found: Contrast | None, said: tuple[float, Verdict] | None) -> ArmResult:
    if found is None or said is None:
        return result
    return replace(
        result,
        difference=Interval(found.estimate, *found.interval),
        p_value=said[0],
        effect_size=found.effect_size,
        verdict=said[1].text,
    )


def _effects(
    tasks: Sequence[_OfTask], named: Mapping[str, Mapping[str, float]], words: _Words
) -> list[Effect]:
    """Contrasts by name on each task and on the mean of tasks."""
    found = {of.task: [of.contrast(weights) for weights in named.values()] for of in tasks}
    said = iter(words(*_with_metrics(tasks, found)))
    pairs = [
        (name, task, each, next(said))
        for task, contrasts in found.items()
        for name, each in zip(named, contrasts, strict=True)
    ]
    if _have_a_mean(tasks):
        means = [_mean_of([found[of.task][number] for of in tasks]) for number in range(len(named))]
        told_of = words(means, [tasks[0].metric] * len(means))
        pairs += [(name, MEAN, each, told) for name, each, told in zip(named, means, told_of, strict=True)]
    return [
        Effect(name, task, Interval(each.estimate, *each.interval), told[0], told[1].text)
        for name, task, each, told in pairs
        if each is not None and told is not None
    ]


def _answer(plan: StudyPlan, axes: Sequence[AxisResult], main: Sequence[Effect], tasks: int) -> list[str]:
    """A sentence for each comparison: on the mean of tasks, on each task where there is no mean."""
    compared: list[tuple[str, ArmResult | Effect]] = [
        (f'{axis.axis}: "{row.level}" against "{axis.baseline}"', row) for axis in axes for row in axis.rows
    ]
    if plan.design == "grid":
        compared = [(f"{each.name}, averaged over the other axes", each) for each in main]
    known = [(name, found) for name, found in compared if found.difference is not None]
    with_mean = {name for name, found in known if found.task == MEAN}
    sentences = []
    for name, found in known:
        if name in with_mean and found.task != MEAN:
            continue
        where = "" if tasks == 1 else f" on {found.task}"
        if found.task == MEAN:
            where = f" on the mean of {tasks} tasks"
        assert found.difference is not None
        low, high = 100 * found.difference.low, 100 * found.difference.high
        sentences.append(
            f"{name}: {100 * found.difference.estimate:+.1f} points{where} ({low:+.1f} to {high:+.1f}, "
            f"p {found.p_value:.3f} after Holm): {found.verdict}."
        )
    return sentences or ["No arm can be compared with the baseline yet."]


def _commands(plan: StudyPlan, arms: Sequence[Arm], reported: Sequence[Record]) -> list[str]:
    """How to train each arm: of its trials that of the first task and seed."""
    found = []
    for arm in arms:
        of_arm = [each for each in reported if each.key.arm == arm.name and each.key.task in plan.tasks]
        of_arm.sort(key=lambda each: (plan.tasks.index(each.key.task), each.key.seed))
        found += [each.result.command for each in of_arm[:1] if each.result]
    return found


def _lower_is_better(tasks: Sequence[_OfTask]) -> frozenset[str]:
    """Tasks, and the mean of tasks, whose metric wants to be small."""
    lower = {of.task for of in tasks if not higher_is_better(of.metric)}
    return frozenset({*lower, MEAN} if lower and len(lower) == len(tasks) else lower)


def _curve(record: Record, rows: Mapping[str, ReportRows]) -> Curve:
    assert record.result is not None
    name = f"eval_{rows[record.key.task].metrics[0]}"
    history = record.result.history
    return Curve(
        record.key.task,
        record.key.arm,
        record.key.seed,
        [(entry["step"], entry["loss"]) for entry in history if "loss" in entry],
        [(entry["step"], entry[name]) for entry in history if name in entry][:-1],
    )


def _environment(reported: Sequence[Record]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for each in reported:
        for name, value in (each.result.environment if each.result else {}).items():
            found.setdefault(name, []).append(value)
    return {
        name: ", ".join(dict.fromkeys(values)) for name, values in found.items() if set(values) != {"None"}
    }


def _in_order(record: Record) -> tuple[int, str, str, int]:
    stages = ("tuning", "search", "report")
    return stages.index(record.key.stage), record.key.task, record.key.arm, record.key.seed


def _trials(records: Sequence[Record]) -> list[Mapping[str, Any]]:
    """A row for each trial for people: columns that say nothing are left out."""
    rows = []
    for each in records:
        row = {_title(name): value for name, value in each.to_row().items() if name != "worker"}
        rows.append(row)
    columns = dict.fromkeys(name for row in rows for name in row)
    said = [name for name in columns if any(row.get(name) not in (None, "") for row in rows)]
    if len({row.get("machine") for row in rows} - {""}) < 2:
        said = [name for name in said if name != "machine"]
    return [{name: row.get(name) for name in said} for row in rows]


def _title(column: str) -> str:
    """What a column of `Record.to_row` is called."""
    kind, dot, name = column.partition(".")
    if not dot:
        return column
    return f"{name} (selection)" if kind == "selection" else name
