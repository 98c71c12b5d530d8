"""A benchmark's results as JSON, Markdown and one HTML page with a figure; made from its records alone."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..decoders import describe_decoder
from ..json_files import write_json
from ..tasks import get_task
from .plan import Arm, Plan
from .results import Interval, Results, TaskResult
from .suites import counted_tasks

ARM_TITLES: dict[Arm, str] = {
    "main": "this model",
    "stock": "stock classifier",
    "encoder": "established encoder",
}
NAMES = ("results.json", "results.md", "results.html", "results.svg")


def write_report(results: Results, root: Path) -> list[Path]:
    """Write `results.json`, `results.md`, `results.html` and, where matplotlib is installed, `results.svg`.

    Raises:
        OSError: They can't be written.
    """
    svg = figure(results)
    write_json(root / "results.json", to_dict(results))
    written = [root / "results.json"]
    pages = {"results.md": markdown(results), "results.html": page(results, svg)}
    for name, text in (pages | ({"results.svg": svg} if svg else {})).items():
        (root / name).write_text(text, encoding="utf-8")
        written.append(root / name)
    return written


def to_dict(results: Results) -> dict[str, Any]:
    """Plain data for JSON."""
    return {
        "plan": asdict(results.plan),
        "tasks": [asdict(task) for task in results.tasks],
        "averages": results.averages,
        "missing": [str(trial) for trial in results.missing],
    }


def describe(results: Results) -> list[str]:
    """What was measured and how, a sentence a line."""
    plan = results.plan
    encoder = plan.encoder
    pooling = encoder.get("pooling", {}).get("kind", "mean")
    lines = [
        (
            f"This model: {describe_decoder(plan.model)}; {encoder.get('attention', 'bidirectional')} "
            f"attention, {pooling} pooling."
        ),
        (
            "Scores are in points. `±` is half of the 95 % Student t interval over seeds. The checkpoint is "
            "the one that does best on the split that is reported."
        ),
    ]
    if "stock" in plan.arms:
        lines.append(
            "Stock classifier: the same decoder as transformers' AutoModelForSequenceClassification (causal, "
            "last token, padded), same rows, steps and seeds."
        )
    if "encoder" in plan.arms:
        lines.append(f"Established encoder: {plan.encoder_model}, same trainer, rows, steps and seeds.")
    if len(plan.arms) > 1:
        lines.append(
            "Difference: this model less the other one, on the same rows; p from a paired permutation test "
            "over rows, seeds averaged, two-sided, not corrected for the number of tasks."
        )
    if plan.warm_start:
        names = ", ".join(plan.of_suite.warm_start)
        lines.append(f"Warm start: {names} begin from the same arm and seed's model of MNLI.")
    if not all(result.trained_on_all for result in results.tasks):
        lines.append("Trained on a part of the official rows, see the column train rows.")
    judged = [task for task in plan.tasks if _recipe(plan, task)["max_validation_rows"]]
    if judged:
        lines.append(f"Judged by a part of each split, a first look, no result: {', '.join(judged)}.")
    if not _all_asked_for(plan):
        lines.append(f"No average: only {', '.join(plan.tasks)} were asked for.")
    if results.missing:
        lines.append(f"Not complete: {len(results.missing)} trials have not ended.")
    return lines


COLUMNS = (
    "task",
    "model",
    "score",
    "metrics",
    "majority",
    "difference",
    "p",
    "seeds",
    "train rows",
    "tokens/s",
    "minutes",
    "rows",
)


def table(results: Results) -> list[dict[str, str]]:
    """The results as rows of text; the averages last, if all of the suite was asked for."""
    rows = [_row(result) for result in results.tasks]
    if not _all_asked_for(results.plan):
        return rows
    for arm, average in results.averages.items():
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {
                "task": "average",
                "model": ARM_TITLES[arm],
                "score": "tasks are missing" if average is None else in_points(average),
            }
        )
    return rows


def _recipe(plan: Plan, task: str) -> Mapping[str, Any]:
    """That of the task whose model answers."""
    return plan.recipes[get_task(task).trained_on or task]


def _all_asked_for(plan: Plan) -> bool:
    return set(counted_tasks(plan.of_suite)) <= set(plan.tasks)


def in_points(value: Interval) -> str:
    """`86.1 ± 1.2`, or the mean alone where there is one seed."""
    center, half = value
    return f"{100 * center:.1f}" if half is None else f"{100 * center:.1f} ± {100 * half:.1f}"


def _row(result: TaskResult) -> dict[str, str]:
    against = result.against
    marked = "" if result.trained_on_all else " (part)"
    metrics = ", ".join(f"{name} {in_points(value)}" for name, value in result.metrics.items())
    return {
        "task": result.task,
        "model": ARM_TITLES[result.arm],
        "score": in_points(result.score),
        "metrics": metrics if len(result.metrics) > 1 else next(iter(result.metrics)),
        "majority": f"{100 * result.majority:.1f}",
        "difference": "" if against is None else f"{100 * against.difference:+.1f}",
        "p": "" if against is None else f"{against.p_value:.3f}",
        "seeds": str(len(result.seeds)),
        "train rows": f"{result.train_rows:,}{marked}",
        "tokens/s": "" if result.tokens_per_second is None else f"{result.tokens_per_second:,.0f}",
        "minutes": "" if result.minutes is None else f"{result.minutes:.1f}",
        "rows": "official" if not result.notes else "; ".join(result.notes),
    }


def markdown(results: Results) -> str:
    """The report as Markdown."""
    lines = [f"# {results.plan.of_suite.title}: {results.plan.model}", ""]
    lines += [f"* {line}" for line in describe(results)]
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "| " + " | ".join(["---"] * len(COLUMNS)) + " |"]
    lines += ["| " + " | ".join(row[name] for name in COLUMNS) + " |" for row in table(results)]
    return "\n".join(lines) + "\n"


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
figure { margin: 1rem 0; background: #fff; border-radius: 8px; padding: .5rem; }
svg { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top; }
tr.average { font-weight: 600; background: var(--soft); }
td { white-space: nowrap; } td:last-child { white-space: normal; min-width: 16rem; }
"""


def page(results: Results, svg: str | None) -> str:
    """The report as one HTML page that needs no network."""
    title = html.escape(f"{results.plan.of_suite.title}: {results.plan.model}")
    facts = "\n".join(f"<li>{html.escape(line).replace('`', '')}</li>" for line in describe(results))
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    rows = "\n".join(
        f'<tr class="{"average" if row["task"] == "average" else ""}">'
        + "".join(f"<td>{html.escape(row[name])}</td>" for name in COLUMNS)
        + "</tr>"
        for row in table(results)
    )
    drawn = "" if svg is None else f"<figure>{svg[svg.index('<svg') :]}</figure>"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>\n<ul>\n{facts}\n</ul>\n{drawn}\n"
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n'
        f"</table></div>\n</html>\n"
    )


def figure(results: Results) -> str | None:
    """Tasks by models with their intervals, as SVG; None without matplotlib or results."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    tasks = list(dict.fromkeys(result.task for result in results.tasks))
    if not tasks:
        return None
    arms = [arm for arm in ARM_TITLES if arm in results.plan.arms]
    drawing = Figure(figsize=(9, 1.2 + 0.45 * len(tasks)), layout="constrained")
    axes = drawing.subplots()
    for number, arm in enumerate(arms):
        of_arm = [result for result in results.tasks if result.arm == arm]
        offset = (number - (len(arms) - 1) / 2) * 0.22
        axes.errorbar(
            [100 * result.score[0] for result in of_arm],
            [tasks.index(result.task) + offset for result in of_arm],
            xerr=[100 * (result.score[1] or 0.0) for result in of_arm],
            fmt="osD"[number % 3],
            capsize=3,
            label=ARM_TITLES[arm],
        )
    majority = {result.task: 100 * result.majority for result in results.tasks}
    axes.plot(
        list(majority.values()), [tasks.index(task) for task in majority], "k|", ms=12, label="majority"
    )
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlabel("score, points")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(arms) + 1, frameon=False)
    with io.StringIO() as text:
        drawing.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()
