"""The figures of a report, drawn with matplotlib on sheets of `sheet.py`."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..findings import ArmResult, Curve, Interval
from ..plan import BASELINE
from . import wording
from .labels import Box, place, spread
from .sheet import SMALL, Figure, Sheet, Style, settings, sheet_of, short, text_width
from .svg import light

WIDTH = 340  # of a panel: that of a phone
FOREST_WIDTH = 350
MOST_CURVE_POINTS = 150
MOST_LABELS = 8  # lines or dots that can still be labelled where they are
WIDEST_LABEL = 104
WIDEST_MARGIN = 170
HUES = 5
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.3)))


@dataclass(frozen=True)
class ForestRow:
    """A line of a forest plot.

    Attributes:
        group: What it stands under: a task.
        label: What is compared with the baseline.
        difference: How far it is from it.
        p_value: Below 0.05 the mark is filled.
    """

    group: str
    label: str
    difference: Interval
    p_value: float | None = None


def forest(name: str, label: str, rows: Sequence[ForestRow], what: str) -> Figure | None:
    """Differences with their intervals, one below the other, and a line at 0.

    Args:
        name: Of the figure.
        label: What it shows.
        rows: Its lines.
        what: What the differences are, for the axis.

    Returns:
        None if there are no rows.
    """
    if not rows:
        return None
    with settings():
        wrapped = [textwrap.wrap(row.label, 24) or [""] for row in rows]
        widest = max(text_width(line) for lines in wrapped for line in lines)
        heads_wide = max(1.12 * text_width(short(row.group)) for row in rows)
        left = min(max(14 + widest, 6 + heads_wide), WIDEST_MARGIN)
        places, heads, down = [], [], 0.0
        for number, row in enumerate(rows):
            if not number or row.group != rows[number - 1].group:
                down += 8 if number else 0
                heads.append((down + 9, row.group))
                down += 20
            tall = 20 + 13 * (len(wrapped[number]) - 1)
            places.append(down + tall / 2)
            down += tall
        sheet = sheet_of(FOREST_WIDTH, down + 44, left=left, right=42, top=2, bottom=42)
        axes = sheet.axes
        axes.set_ylim(down, 0)
        axes.set_yticks([])
        axes.grid(axis="x")
        axes.axvline(0, color=light("ink"), linewidth=1)
        for y, group in heads:
            sheet.text(0, y + 2, short(group), fontweight="bold")
        for row, lines, y in zip(rows, wrapped, places, strict=True):
            _interval(sheet, row, y)
            sheet.text(8, y + 2, "\n".join(lines), linespacing=1.15)
            sheet.text(
                FOREST_WIDTH - 2,
                y + 2,
                wording.difference(row.difference.estimate),
                ha="right",
                fontsize=SMALL,
            )
        axes.margins(x=0.06)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(what)
        return sheet.figure(name, label)


def _interval(sheet: Sheet, row: ForestRow, y: float) -> None:
    """A line from end to end and a mark, filled if there is a difference; a diamond for the mean of tasks."""
    value, colour = row.difference, light("accent")
    ends = [value.low, value.high] if wording.bounded(value) else [value.estimate] * 2
    certain = row.p_value is not None and row.p_value < wording.SIGNIFICANT
    said = f"{row.group}, {row.label}: {wording.interval(value)}"
    if row.p_value is not None:
        said += f", p {wording.p_value(row.p_value)}"
    sheet.axes.plot([100 * end for end in ends], [y, y], color=colour, linewidth=1.6)
    sheet.axes.plot(
        [100 * value.estimate],
        [y],
        marker="D" if row.group.startswith("mean of") else "o",
        markersize=6 if row.group.startswith("mean of") else 7,
        markeredgewidth=1.6,
        color=colour,
        markerfacecolor=colour if certain else light("paper"),
        gid=sheet.tip(said),
    )


def importance(name: str, task: str, shares: Mapping[str, float], order: Sequence[str]) -> Figure:
    """The share of each axis as a bar, in a given order."""
    with settings():
        labels = [short(axis, 24) for axis in order]
        left = min(8 + max(text_width(words) for words in labels), WIDEST_MARGIN)
        sheet = sheet_of(WIDTH, 26 + 22 * len(order), left=left, right=40, top=24, bottom=2)
        axes = sheet.axes
        values = [shares.get(axis, 0.0) for axis in order]
        axes.barh(range(len(order)), values, height=0.62, color=light("accent"))
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlim(0, max([*values, 1e-9]))
        axes.set_axis_off()
        sheet.text(0, 10, short(task), fontweight="bold")
        for number, (words, value) in enumerate(zip(labels, values, strict=True)):
            y = 24 + 22 * (number + 0.5)
            sheet.text(0, y, words)
            right = left + (WIDTH - left - 40) * value / max([*values, 1e-9])
            sheet.text(right + 4, y, wording.share(value), fontsize=SMALL, color=light("muted"))
        said = ", ".join(f"{axis} {wording.share(value)}" for axis, value in zip(order, values, strict=True))
        return sheet.figure(name, f"Importance of the axes, {task}: {said}")


def _styles(arms: Sequence[str]) -> dict[str, Style]:
    """A colour and a dash for each arm; the baseline is in ink."""
    others = [arm for arm in arms if arm != BASELINE]
    styles = {
        arm: Style(f"c{number % HUES + 1}", DASHES[number // HUES % len(DASHES)])
        for number, arm in enumerate(others)
    }
    return {arm: styles.get(arm, Style("ink", "-")) for arm in arms}


def learning_curves(curves: Sequence[Curve], metrics: Mapping[str, str]) -> list[list[Figure]]:
    """For each task its losses and, where there are any, its metrics on the selection rows.

    Seeds are thin lines, their mean is a thick one. Lines are labelled at their ends; if there are too many
    or their names are too long, there is a key to all first.

    Returns:
        Groups of figures: the key, losses, metrics.
    """
    arms = list(dict.fromkeys(curve.arm for curve in curves))
    if not any(curve.loss or curve.metric for curve in curves):
        return []
    with settings():
        styles = _styles(arms)
        direct = len(arms) <= MOST_LABELS and max(map(text_width, arms)) <= WIDEST_LABEL
        groups = [] if direct or len(arms) == 1 else [[_key(styles)]]
        tasks = dict.fromkeys(curve.task for curve in curves)
        for kind in ("loss", "metric"):
            groups.append([])
            for number, task in enumerate(tasks):
                courses: dict[str, list[list[tuple[int, float]]]] = {}
                for curve in curves:
                    points = _thinned(curve.loss) if kind == "loss" else _in_points(curve.metric)
                    if curve.task == task and points:
                        courses.setdefault(curve.arm, []).append(points)
                if courses:
                    what = (
                        "training loss"
                        if kind == "loss"
                        else f"{metrics.get(task, 'metric')}, selection rows"
                    )
                    name = f"curves-{kind}-{number + 1}"
                    groups[-1].append(
                        _curve_panel(name, (task, what), courses, styles, direct and len(arms) > 1)
                    )
        return [group for group in groups if group]


def _in_points(course: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, 100 * value) for step, value in course]


def _thinned(course: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most 150 points: neighbours are averaged."""
    size = -(-len(course) // MOST_CURVE_POINTS) or 1
    blocks = [course[begin : begin + size] for begin in range(0, len(course), size)]
    return [(block[-1][0], sum(value for _, value in block) / len(block)) for block in blocks]


def _mean_course(courses: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """The mean over seeds at the steps that all of them have."""
    by_step = [dict(course) for course in courses]
    shared = sorted(set.intersection(*(set(steps) for steps in by_step)))
    return [(step, sum(steps[step] for steps in by_step) / len(by_step)) for step in shared]


def _curve_panel(
    name: str,
    titles: tuple[str, str],
    courses: Mapping[str, list[list[tuple[int, float]]]],
    styles: Mapping[str, Style],
    direct: bool,
) -> Figure:
    task, what = titles
    right = 26 + max(text_width(arm, SMALL) for arm in courses) if direct else 12.0
    sheet = sheet_of(WIDTH, 224, left=38, right=right, top=40, bottom=38)
    axes = sheet.axes
    ends = {}
    for arm, seeds in courses.items():
        style, mean = styles[arm], _mean_course(seeds)
        colour = light(style.colour)
        if len(seeds) > 1:
            for seed in seeds:
                axes.plot(*zip(*seed, strict=True), color=colour, linewidth=0.7, alpha=0.45)
        mean = mean or seeds[0]
        marker = "o" if len(mean) == 1 else None
        axes.plot(
            *zip(*mean, strict=True), color=colour, linewidth=1.8, linestyle=style.dashes, marker=marker
        )
        ends[arm] = mean[-1][1]
    axes.grid(axis="y")
    axes.margins(x=0, y=0.06)
    axes.locator_params(axis="both", nbins=5)
    axes.set_xlabel("step")
    sheet.text(0, 10, short(task), fontweight="bold")
    sheet.text(0, 26, what, color=light("muted"), fontsize=SMALL)
    if direct:
        low, high = axes.get_ylim()
        tall = sheet.height - 40 - 38
        wanted = [40 + tall * (high - end) / (high - low) for end in ends.values()]
        for arm, y in zip(ends, spread(wanted, gap=12, low=36, high=sheet.height - 30), strict=True):
            sheet.sample(WIDTH - right + 6, y, styles[arm], long=12)
            sheet.text(WIDTH - right + 22, y, arm, fontsize=SMALL)
    said = ", ".join(f"{arm} ends at {end:.4g}" for arm, end in ends.items())
    return sheet.figure(name, f"{task}, {what} by step: {said}")


def _key(styles: Mapping[str, Style]) -> Figure:
    """Which line is which arm."""
    sheet = sheet_of(WIDTH, 20 * len(styles) + 24, left=0, right=0, top=24, bottom=0)
    sheet.axes.set_axis_off()
    sheet.text(0, 10, "Arms", fontweight="bold")
    for number, (arm, style) in enumerate(styles.items()):
        y = 24 + 20 * number + 10
        sheet.sample(1, y, style, long=26)
        sheet.text(34, y, short(arm))
    return sheet.figure("curves-key", f"Lines of the arms: {', '.join(styles)}")


def front(results: Sequence[ArmResult], *, higher: bool = True) -> list[ArmResult]:
    """The results that no other one beats in minutes and metric at once, the quickest first.

    Args:
        results: All of them.
        higher: Whether more of the metric is better.
    """
    sign = 1 if higher else -1
    found: list[ArmResult] = []
    for result in sorted(results, key=lambda each: (each.minutes, -sign * each.mean)):
        if not found or sign * result.mean > sign * found[-1].mean:
            found.append(result)
    return found


def pareto(name: str, task: str, what: str, results: Sequence[ArmResult], *, higher: bool = True) -> Figure:
    """Minutes of a trial against the mean metric; the front is marked and joined by a line."""
    with settings():
        sheet = sheet_of(WIDTH, 248, left=38, right=14, top=40, bottom=38)
        axes = sheet.axes
        best = front(results, higher=higher)
        for result in results:
            if result.half_width:
                ends = [100 * (result.mean - result.half_width), 100 * (result.mean + result.half_width)]
                axes.plot([result.minutes] * 2, ends, color=light("line"), linewidth=1.4, zorder=1)
        axes.plot(
            [result.minutes for result in best],
            [100 * result.mean for result in best],
            color=light("accent"),
            linewidth=1,
            linestyle=(0, (4, 2)),
            drawstyle="steps-post",
            zorder=2,
        )
        for result in results:
            said = f"{result.arm}: {wording.mean(result)} points, {wording.minutes(result.minutes)} minutes"
            axes.plot(
                [result.minutes],
                [100 * result.mean],
                marker="s" if result.arm == BASELINE else "o",
                markersize=7,
                markeredgewidth=1.5,
                color=light("accent" if result in best else "muted"),
                markerfacecolor=light("accent" if result in best else "paper"),
                gid=sheet.tip(said),
                zorder=3,
            )
        axes.grid(axis="y")
        axes.margins(x=0.12, y=0.12)
        axes.locator_params(axis="both", nbins=5)
        axes.set_xlabel("minutes of a trial")
        sheet.text(0, 10, short(task), fontweight="bold")
        sheet.text(0, 26, what, color=light("muted"), fontsize=SMALL)
        _label_dots(sheet, results, best)
        said = "; ".join(f"{result.arm} {wording.points(result.mean)}" for result in best)
        return sheet.figure(name, f"{task}, cost and quality. On the front, the quickest first: {said}")


def _label_dots(sheet: Sheet, results: Sequence[ArmResult], best: Sequence[ArmResult]) -> None:
    """Names beside the dots: of all, or where there are too many of the baseline and the front."""
    (left, right), (low, high) = sheet.axes.get_xlim(), sheet.axes.get_ylim()
    inside = sheet.axes.get_position()
    wide, tall = inside.width * sheet.width, inside.height * sheet.height
    dots = [
        (
            sheet.left + wide * (result.minutes - left) / (right - left),
            sheet.top + tall * (high - 100 * result.mean) / (high - low),
        )
        for result in results
    ]
    boxes = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in dots]
    steps = [dot for result in best for dot, each in zip(dots, results, strict=True) if each is result]
    for result, (x, y) in zip(results, dots, strict=True):
        reach = tall * 100 * (result.half_width or 0.0) / (high - low)
        boxes.append(Box(x - 1, y - reach, x + 1, y + reach))
    for (x, y), (then_x, then_y) in itertools.pairwise(steps):
        boxes += [Box(x, y - 2, then_x, y + 2), Box(then_x - 2, then_y, then_x + 2, y)]
    frame = Box(sheet.left - 4, sheet.top - 8, sheet.width, sheet.top + tall)
    for result, dot in sorted(zip(results, dots, strict=True), key=lambda pair: pair[0] not in best):
        if len(results) > MOST_LABELS and result not in best and result.arm != BASELINE:
            continue
        lines = textwrap.wrap(result.arm, 22) or [""]
        size = (max(text_width(line, SMALL) for line in lines), 12.0 * len(lines))
        box = place(dot, size, boxes, frame)
        boxes.append(Box(box.left - 4, box.top, box.right + 4, box.bottom))
        sheet.text(
            box.left,
            (box.top + box.bottom) / 2,
            "\n".join(lines),
            fontsize=SMALL,
            linespacing=1.1,
            color=light("ink" if result in best else "muted"),
        )
