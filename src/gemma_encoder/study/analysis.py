"""From a study's records to what a report shows: means, paired differences, verdicts, notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from ..evaluation import higher_is_better, mean_interval
from .effects import interactions, main_effects
from .findings import Analysis, ArmResult, AxisResult, Curve, Effect, Interval
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
        set_up=_set_up(plan, rows, reported),
        held_fixed=dict(plan.base),
        axes=axes,
        main_effects=effects["main"],
        interactions=effects["interactions"],
        importance={task: shares for task, shares in (importance or {}).items() if shares},
        curves=[_curve(each, rows) for each in reported],
        trials=_trials(sorted(records, key=_in_order)),
        notes=_notes(plan, records, rows),
        commands=[*commands, *[each.result.command for each in reported[:1] if each.result]],
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
        peak_mib=max((each.peak_mib for each in results), default=0.0),
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
    """A sentence for each comparison, on the mean of tasks if there are several."""
    judged = MEAN if tasks > 1 else None
    where = f" on the mean of {tasks} tasks" if judged else ""
    found = [
        (f"{axis.axis}: {row.level} against {axis.baseline}", row.difference, row.p_value, row.verdict)
        for axis in axes
        for row in axis.rows
        if row.difference and (judged is None or row.task == judged)
    ]
    if plan.design == "grid":
        found = [
            (f"{each.name}, averaged over the other axes", each.difference, each.p_value, each.verdict)
            for each in main
            if judged is None or each.task == judged
        ]
    sentences = []
    for name, difference, p_value, said in found:
        assert difference is not None
        low, high = 100 * difference.low, 100 * difference.high
        sentences.append(
            f"{name}: {100 * difference.estimate:+.1f} points{where} ({low:+.1f} to {high:+.1f}, "
            f"p {p_value:.3f} after Holm): {said}."
        )
    return sentences or ["No arm can be compared with the baseline yet."]


def _set_up(plan: StudyPlan, rows: Mapping[str, ReportRows], reported: Sequence[Record]) -> dict[str, str]:
    facts = {
        "decoder": str(plan.base.get("model", "one for each arm")),
        "tasks": ", ".join(f"{task} ({of.metrics[0]}, {len(of.labels):,} rows)" for task, of in rows.items()),
        "design": {
            "one_factor": "one axis at a time is changed from the baseline",
            "grid": "every combination of the axes' levels",
            "search": f"Optuna tries {plan.trials} settings a task; the best {plan.finalists} are reported",
        }[plan.design],
        "seeds": f"{plan.seeds}, the same for every arm",
        "learning rate": "the same for all arms, that of the base options or of each task's recipe",
        "selection": f"by {plan.selection_rows} rows split off the training rows, or a fifth of them; "
        "the report rows choose nothing",
    }
    if plan.learning_rates:
        tried = ", ".join(f"{rate:g}" for rate in plan.learning_rates)
        facts["learning rate"] = (
            f"the best of {tried} for each arm and task, by {plan.tuning_seeds} trial(s) each with seeds "
            "that are not reported"
        )
    elif "learning_rate" in plan.axes:
        facts["learning rate"] = "an axis"
    trained = {each.result.train_rows for each in reported if each.result}
    if trained:
        facts["training rows"] = " to ".join(f"{number:,}" for number in sorted({min(trained), max(trained)}))
    return facts


def _notes(plan: StudyPlan, records: Sequence[Record], rows: Mapping[str, ReportRows]) -> list[str]:
    notes = [f"{each.key} failed: {each.error}" for each in records if each.state == "failed"]
    missing = sum(each.state in ("waiting", "running") for each in records)
    if missing:
        notes.append(f"{missing} trials have not ended; the results are of those that have.")
    machines = Counter(each.result.machine for each in records if each.result and each.key.stage == "report")
    if len(machines) > 1:
        where = "; ".join(
            f"{number} on {name or 'an unknown one'}" for name, number in machines.most_common()
        )
        notes.append(
            f"Trials of the report ran on different machines ({where}), so minutes, tokens/s and memory "
            "compare unlike things."
        )
    for task, of in rows.items():
        if of.note:
            notes.append(f"{task} is judged by {of.note}: not the official split.")
    if not plan.learning_rates and "learning_rate" not in plan.axes and plan.design != "search":
        notes.append(
            "All arms have the same learning rate, which may suit one better than another. Give "
            "learning_rates to tune it for each."
        )
    lowest, highest = min(plan.learning_rates, default=0), max(plan.learning_rates, default=0)
    at_edge = sorted(
        {
            f"{each.key.task}, {each.key.arm} ({each.result.learning_rate:g})"
            for each in records
            if each.result and each.key.stage == "report" and len(plan.learning_rates) > 2
            if each.result.learning_rate in (lowest, highest)
        }
    )
    if at_edge:
        notes.append(f"The best learning rate tried is at the edge of those tried: {'; '.join(at_edge)}.")
    return notes


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
