"""What a report says, section by section."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..findings import Analysis, ArmResult, AxisResult, Effect
from ..plan import flat
from . import figures, wording
from .blocks import Block, Cell, Column, Commands, Content, Facts, Figures, Group, Section, Table
from .figures import ForestRow

MOST_SHOWN = 12  # options; longer lists are folded


def content(analysis: Analysis) -> Content:
    """Put an analysis into sections; one that would be empty is left out.

    Raises:
        ConfigError: There are figures to draw and matplotlib is not installed.
    """
    sections = [
        Section("Set-up", "set-up", [Facts(analysis.set_up)] if analysis.set_up else []),
        *(_axis(analysis, number) for number in range(len(analysis.axes))),
        Section(
            "Main effects",
            "main-effects",
            _effects(
                analysis.main_effects,
                "main-effects",
                "effect, points",
                "Each level against the baseline's, averaged over all combinations of the other axes.",
            ),
        ),
        Section(
            "Interactions",
            "interactions",
            _effects(
                analysis.interactions,
                "interactions",
                "interaction, points",
                "How much two levels together differ from the sum of what each does alone.",
            ),
        ),
        Section("Importance of the axes", "importance", _importance(analysis)),
        Section("Learning curves", "learning-curves", _curves(analysis)),
        Section("Cost beside quality", "cost", _cost(analysis)),
        Section("Trials", "trials", _trials(analysis)),
        Section("Held fixed", "held-fixed", _held_fixed(analysis)),
        Section(
            "Versions and hardware",
            "environment",
            [Facts(analysis.environment)] if analysis.environment else [],
        ),
        Section("To repeat it", "commands", [Commands(analysis.commands)] if analysis.commands else []),
    ]
    axes = " and ".join(axis.axis for axis in analysis.axes)
    return Content(
        analysis.question or (f"What difference does {axes} make?" if axes else "A study"),
        analysis.answer,
        analysis.notes,
        [section for section in sections if section.blocks],
    )


def _axis(analysis: Analysis, number: int) -> Section:
    axis = analysis.axes[number]
    name = f"axis-{number + 1}-{_slug(axis.axis)}"
    rows = [
        ForestRow(_headed(row.task, analysis), row.level, row.difference, row.p_value)
        for row in axis.rows
        if row.difference is not None
    ]
    drawn = figures.forest(
        f"forest-{number + 1}",
        f"Differences of the levels of {axis.axis} from {axis.baseline}, with intervals",
        rows,
        "difference from the baseline, points",
    )
    table = _axis_table(analysis, axis)
    shown = [] if drawn is None else [Figures(_forest_caption(analysis, axis), [drawn], panels=False)]
    return Section(f"Axis: {axis.axis}", name, [*shown, table])


def _forest_caption(analysis: Analysis, axis: AxisResult) -> str:
    tasks = list(dict.fromkeys(row.task for row in axis.rows if row.difference is not None))
    lower = [task for task in tasks if task in analysis.lower_is_better]
    better = f"to the {'left' if len(lower) == len(tasks) else 'right'} of the line is better"
    if lower and len(lower) < len(tasks):
        better += f", on {', '.join(lower)} to the left"
    return (
        f"Difference from {axis.baseline} with its 95 % interval; {better}. "
        "Filled marks: p below 0.05 after Holm's correction."
    )


def _headed(task: str, analysis: Analysis) -> str:
    """A task with its metric."""
    metric = analysis.metrics.get(task)
    return f"{task}, {metric}" if metric else task


Take = Callable[[ArmResult], Cell]
# Every column of an axis' table; those in which nothing stands are left out.
_AXIS_COLUMNS: tuple[tuple[Column, Take], ...] = (
    (Column("points"), lambda row: Cell(wording.mean(row), row.mean)),
    (
        Column("difference [95 %]"),
        lambda row: Cell(wording.interval(row.difference), strong=_certain(row.p_value)),
    ),
    (Column("p (Holm)"), lambda row: Cell(wording.p_value(row.p_value))),
    (Column("effect size"), lambda row: Cell(wording.effect_size(row.effect_size))),
    (Column("verdict", numbers=False), lambda row: Cell(row.verdict or wording.NOTHING)),
    (Column("seeds"), lambda row: Cell(str(len(row.values)) if row.values else wording.NOTHING)),
    (Column("learning rate"), lambda row: Cell(wording.rate(row.learning_rate))),
    (Column("minutes"), lambda row: Cell(wording.minutes(row.minutes))),
    (Column("tokens/s"), lambda row: Cell(wording.per_second(row.tokens_per_second))),
    (Column("peak memory"), lambda row: Cell(wording.memory(row.peak_mib))),
)


def _certain(p: float | None) -> bool:
    return p is not None and p < wording.SIGNIFICANT


def _axis_table(analysis: Analysis, axis: AxisResult) -> Table:
    columns = [
        (column, take)
        for column, take in _AXIS_COLUMNS
        if any(take(row).text != wording.NOTHING for row in axis.rows)
    ]
    groups = [
        Group(
            _headed(task, analysis),
            [
                [Cell(_level(row, axis)), *(take(row) for _, take in columns)]
                for row in axis.rows
                if row.task == task
            ],
        )
        for task in dict.fromkeys(row.task for row in axis.rows)
    ]
    one_seed = all(len(row.values) < 2 for row in axis.rows)
    caption = f"Points are the metric times 100, {'of one seed' if one_seed else 'mean over seeds'}"
    if any(row.half_width is not None for row in axis.rows):
        caption += " ± half of the 95 % t interval"
    caption += "."
    if any(row.difference is not None for row in axis.rows):
        caption += (
            f" Differences are from {axis.baseline}, paired by seeds and rows. Each interval is for its "
            "difference alone, p is adjusted for all of the tasks' (or all of the mean's) in the table: a "
            "difference may be not told apart though its interval leaves out 0."
        )
    if any(row.effect_size is not None for row in axis.rows):
        caption += " Effect sizes are differences in standard deviations over seeds."
    heads = [Column("level", numbers=False), *(column for column, _ in columns)]
    return Table(caption, heads, groups, "task")


def _level(row: ArmResult, axis: AxisResult) -> str:
    return f"{row.level} (baseline)" if row.level == axis.baseline != "baseline" else row.level


def _effects(effects: Sequence[Effect], name: str, what: str, caption: str) -> list[Block]:
    if not effects:
        return []
    rows = [ForestRow(each.task, each.name, each.difference, each.p_value) for each in effects]
    drawn = figures.forest(name, f"{name.replace('-', ' ').capitalize()} with intervals", rows, what)
    heads = [
        Column("effect", numbers=False),
        Column("difference [95 %]"),
        Column("p (Holm)"),
        Column("verdict", numbers=False),
    ]
    groups = [
        Group(
            task,
            [
                [
                    Cell(each.name),
                    Cell(wording.interval(each.difference), strong=_certain(each.p_value)),
                    Cell(wording.p_value(each.p_value)),
                    Cell(each.verdict),
                ]
                for each in effects
                if each.task == task
            ],
        )
        for task in dict.fromkeys(each.task for each in effects)
    ]
    shown = Figures(
        f"{caption} With 95 % intervals; filled marks: p below 0.05 after Holm's correction.",
        [drawn] if drawn else [],
        panels=False,
    )
    return [shown, Table("The same in numbers, in points.", heads, groups, "task")]


def _importance(analysis: Analysis) -> list[Block]:
    by_task = {task: shares for task, shares in analysis.importance.items() if shares}
    if not by_task:
        return []
    axes = dict.fromkeys(axis for shares in by_task.values() for axis in shares)
    total = {axis: sum(shares.get(axis, 0.0) for shares in by_task.values()) for axis in axes}
    order = sorted(axes, key=lambda axis: -total[axis])
    drawn = [
        figures.importance(f"importance-{number}", task, shares, order)
        for number, (task, shares) in enumerate(by_task.items(), 1)
    ]
    caption = "Share of each axis in what the metric varies by, over the trials of the search."
    rows = [
        [Cell(axis), *(Cell(wording.share(shares.get(axis, 0.0))) for shares in by_task.values())]
        for axis in order
    ]
    heads = [Column("axis", numbers=False), *(Column(task) for task in by_task)]
    return [Figures(caption, drawn), Table("The same in numbers.", heads, [Group("", rows)])]


def _curves(analysis: Analysis) -> list[Block]:
    groups = figures.learning_curves(analysis.curves, analysis.metrics)
    return [Figures(_curve_caption(analysis) if group is groups[-1] else "", group) for group in groups]


def _curve_caption(analysis: Analysis) -> str:
    several = len({curve.seed for curve in analysis.curves}) > 1
    caption = "Thin lines are seeds, thick ones their mean." if several else "One line for each trial."
    if any(len(curve.loss) > figures.MOST_CURVE_POINTS for curve in analysis.curves):
        caption += " Losses of neighbouring steps are averaged."
    return caption


def _cost(analysis: Analysis) -> list[Block]:
    by_task: dict[str, dict[str, ArmResult]] = {}
    for axis in analysis.axes:
        for row in axis.rows:
            if row.minutes > 0:
                by_task.setdefault(row.task, {}).setdefault(row.arm, row)
    drawn = [
        figures.pareto(
            f"cost-{number}",
            task,
            f"{analysis.metrics.get(task, 'main metrics')}, points",
            list(results.values()),
            higher=task not in analysis.lower_is_better,
        )
        for number, (task, results) in enumerate(by_task.items(), 1)
        if len(results) > 1
    ]
    caption = (
        "Filled marks are on the front: no other arm is both quicker and better. The square is the baseline; "
        "vertical lines are 95 % intervals over seeds."
    )
    if any(len(results) > figures.MOST_LABELS for results in by_task.values()):
        caption += " Named are the baseline and the front; point at a mark for its name."
    return [Figures(caption, drawn)] if drawn else []


def _trials(analysis: Analysis) -> list[Block]:
    if not analysis.trials:
        return []
    names = list(dict.fromkeys(name for trial in analysis.trials for name in trial))
    columns = [
        Column(name.replace("_", " "), numbers=all(_number(trial.get(name)) for trial in analysis.trials))
        for name in names
    ]
    rows = [
        [_trial_cell(name, trial.get(name), analysis.metrics) for name in names] for trial in analysis.trials
    ]
    caption = f"All {len(rows)} trials, of every stage and state. Metrics are in points."
    return [Table(caption, columns, [Group("", rows)], sortable=True)]


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _trial_cell(name: str, value: Any, metrics: Mapping[str, str]) -> Cell:
    order = float(value) if _number(value) and value is not None else None
    failed = name == "state" and str(value).startswith("failed")
    return Cell(wording.trial_value(name, value, metrics), order, strong=failed)


def _held_fixed(analysis: Analysis) -> list[Block]:
    fixed = {name: wording.option(value) for name, value in flat(analysis.held_fixed).items()}
    if not fixed:
        return []
    return [Facts(fixed, f"{len(fixed)} options that all arms share" if len(fixed) > MOST_SHOWN else "")]


def _slug(name: str) -> str:
    """For an address within the page."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
