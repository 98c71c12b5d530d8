"""A benchmark's results as JSON, Markdown and one HTML page with a figure; made from its records alone."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..decoders import describe_decoder
from ..evaluation.comparison import Comparison
from ..json_files import write_json
from ..tasks import get_task
from .paired import majority_metrics
from .plan import Arm, Plan
from .results import TRAIN_NOTE, Average, Interval, Results, TaskResult
from .suites import counted_tasks

ARM_TITLES: dict[Arm, str] = {
    "main": "this model",
    "stock": "stock classifier",
    "encoder": "established encoder",
}
MARK = "*"
MARK_MEANS = "trained or judged on other than the official rows"
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
        "averages": {arm: asdict(average) for arm, average in results.averages.items()},
        "wnli": results.wnli,
        "left_out": [asdict(each) for each in results.left_out],
        "missing": [str(trial) for trial in results.missing],
    }


def describe(results: Results) -> list[str]:
    """What was measured and how, a sentence a line."""
    plan = results.plan
    encoder = plan.encoder
    pooling = encoder.get("pooling", {}).get("kind", "mean")
    attention = encoder.get("attention", "bidirectional")
    if "bidirectional_layers" in encoder:
        attention += f" (layers {encoder['bidirectional_layers']}, the others causal)"
    lines = [
        f"This model: {describe_decoder(plan.model)}; {attention} attention, {pooling} pooling.",
        (
            "Scores are in points. `±` is half of the 95 % Student t interval over seeds. The checkpoint is "
            "the one that does best on the split that is reported."
        ),
    ]
    if "stock" in plan.arms:
        lines.append(
            "Stock classifier: the same decoder as transformers' AutoModelForSequenceClassification (causal, "
            "last token, padded, token embeddings trained too), same rows, steps and seeds."
        )
    if "encoder" in plan.arms:
        lines.append(f"Established encoder: {plan.encoder_model}, same trainer, rows, steps and seeds.")
    lines += [
        (
            "Difference: this model less the other one, on the same rows; p from a paired permutation test "
            "over rows, seeds averaged, two-sided, not corrected for the number of tasks."
        ),
        (
            "Majority: the commonest class, the mean or the commonest place, whatever the text. The "
            "difference from it is one of accuracy where the task has it, else of the score; "
            "MultiRC has none."
        ),
    ]
    if plan.warm_start:
        names = ", ".join(plan.of_suite.warm_start)
        lines.append(
            f"Warm start: {names} begin from the same arm and seed's model of MNLI; the stock classifier "
            "doesn't."
        )
    if any(result.notes for result in results.tasks):
        lines.append(f"`{MARK}` behind a score: {MARK_MEANS}, see the notes.")
    if not all(result.trained_on_all for result in results.tasks):
        lines.append("Trained on a part of the official rows, see the column train rows.")
    judged = [task for task in plan.tasks if _recipe(plan, task)["max_validation_rows"]]
    if judged:
        lines.append(f"Judged by a part of each split, a first look, no result: {', '.join(judged)}.")
    for each in results.left_out:
        where = f" ({'; '.join(each.trials)})" if each.trials else ""
        lines.append(f"Not scored: {each.task} {each.split}{where}: {each.why}")
    lines += _about_average(results)
    if results.missing:
        lines.append(f"Not complete: {len(results.missing)} trials have not ended.")
    return lines


def _about_average(results: Results) -> list[str]:
    """Of which tasks the average is, or why there is none."""
    plan = results.plan
    if not _all_asked_for(results):
        return [f"No average: only {', '.join(plan.tasks)} were asked for."]
    counted = counted_tasks(plan.of_suite, wnli=results.wnli)
    outside = ", ".join(task for task in plan.of_suite.tasks if task not in counted)
    lines = [f"Average: the mean of {', '.join(counted)}; without {outside}."]
    for why in dict.fromkeys(average.why_none for average in results.averages.values() if average.why_none):
        arms = [ARM_TITLES[arm] for arm, average in results.averages.items() if average.why_none == why]
        lines.append(f"No average of {', '.join(arms)}: {why}.")
    return lines


COLUMNS = (
    "task",
    "model",
    "score",
    "metrics",
    "difference",
    "p",
    "seeds",
    "train rows",
    "tokens/s",
    "minutes",
    "notes",
)


def table(results: Results) -> list[dict[str, str]]:
    """The results as rows of text: of each task the models, then the majority; the averages last, if all of
    the suite was asked for. `MARK` stands behind scores of other than the official rows."""
    rows = []
    for task in dict.fromkeys(result.task for result in results.tasks):
        of_task = [result for result in results.tasks if result.task == task]
        rows += [_row(result) for result in of_task]
        rows.append(_majority_row(of_task[0]))
    if _all_asked_for(results):
        rows += [_average_row(arm, average) for arm, average in results.averages.items()]
    return rows


def marked(results: Results) -> dict[str, str]:
    """What the marks stand for: the notes of each task, and the tasks that averages have them from."""
    notes = {task: _notes_of(results, task) for task in dict.fromkeys(each.task for each in results.tasks)}
    if _all_asked_for(results):
        partial = {task: None for average in results.averages.values() for task in average.partial}
        notes["average"] = list(partial)
    return {name: "; ".join(each) for name, each in notes.items() if each}


def _notes_of(results: Results, task: str) -> list[str]:
    """The notes of all models on a task, each once."""
    return list(dict.fromkeys(note for each in results.tasks if each.task == task for note in each.notes))


def _recipe(plan: Plan, task: str) -> Mapping[str, Any]:
    """That of the task whose model answers."""
    return plan.recipes[get_task(task).trained_on or task]


def _all_asked_for(results: Results) -> bool:
    return set(counted_tasks(results.plan.of_suite, wnli=results.wnli)) <= set(results.plan.tasks)


def in_points(value: Interval) -> str:
    """`86.1 ± 1.2`, or the mean alone where there is one seed."""
    center, half = value
    return f"{100 * center:.1f}" if half is None else f"{100 * center:.1f} ± {100 * half:.1f}"


def _row(result: TaskResult) -> dict[str, str]:
    metrics = ", ".join(f"{name} {in_points(value)}" for name, value in result.metrics.items())
    notes = list(result.notes)
    if result.not_compared:
        notes.append(f"no difference: {result.not_compared}")
    return {
        "task": result.task,
        "model": ARM_TITLES[result.arm],
        "score": _marked(in_points(result.score), result.notes),
        "metrics": metrics if len(result.metrics) > 1 else next(iter(result.metrics)),
        **_compared(result.against),
        "seeds": str(len(result.seeds)),
        "train rows": f"{result.train_rows:,}{'' if result.trained_on_all else ' (part)'}",
        "tokens/s": "" if result.tokens_per_second is None else f"{result.tokens_per_second:,.0f}",
        "minutes": "" if result.minutes is None else f"{result.minutes:.1f}",
        "notes": "; ".join(notes) or "official rows",
    }


def _majority_row(first: TaskResult) -> dict[str, str]:
    """The majority on the rows that a task's first model, the main one if it is there, is judged by."""
    names = majority_metrics(first.task)
    notes = [note for note in first.notes if not note.startswith(TRAIN_NOTE)]
    return dict.fromkeys(COLUMNS, "") | {
        "task": first.task,
        "model": "majority",
        "score": _marked(f"{100 * first.majority:.1f}", notes),
        "metrics": "difference of accuracy" if "accuracy" in names and len(first.metrics) > 1 else "",
        **_compared(first.against_majority),
        "notes": "; ".join(notes) or "official rows",
    }


def _average_row(arm: Arm, average: Average) -> dict[str, str]:
    if average.score is None:
        score, notes = "none", average.why_none
    else:
        score = _marked(in_points(average.score), average.partial)
        notes = f"other rows: {', '.join(average.partial)}" if average.partial else "official rows"
    return dict.fromkeys(COLUMNS, "") | {
        "task": "average",
        "model": ARM_TITLES[arm],
        "score": score,
        "seeds": str(len(average.seeds)) if average.seeds else "",
        "notes": notes,
    }


def _compared(comparison: Comparison | None) -> dict[str, str]:
    if comparison is None:
        return {"difference": "", "p": ""}
    return {"difference": f"{100 * comparison.difference:+.1f}", "p": f"{comparison.p_value:.3f}"}


def _marked(score: str, notes: Sequence[str]) -> str:
    return score + (MARK if notes else "")


def markdown(results: Results) -> str:
    """The report as Markdown."""
    lines = [f"# {results.plan.of_suite.title}: {results.plan.model}", ""]
    lines += [f"* {line}" for line in describe(results)]
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "| " + " | ".join(["---"] * len(COLUMNS)) + " |"]
    # Markdown would take a lone mark for the begin of emphasis.
    lines += [
        "| " + " | ".join(row[name].replace(MARK, f"\\{MARK}") for name in COLUMNS) + " |"
        for row in table(results)
    ]
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
    """Tasks by models with their intervals, as SVG, the same for the same results; None without matplotlib or
    results."""
    try:
        from matplotlib import rc_context
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
    other_rows = {task for task in tasks if _notes_of(results, task)}
    axes.set_yticks(range(len(tasks)), [task + (MARK if task in other_rows else "") for task in tasks])
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlabel("score, points" + (f"\n{MARK} {MARK_MEANS}" if other_rows else ""))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(arms) + 1, frameon=False)
    # Else the names of its parts are drawn by chance.
    with io.StringIO() as text, rc_context({"svg.hashsalt": "gemma-encoder"}):
        drawing.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()
