"""What a report says about a study beside its numbers: how it was set up, and what a reader must know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .choosing import left_of_search
from .plan import StudyPlan
from .records import Record, ReportRows


def set_up(plan: StudyPlan, rows: Mapping[str, ReportRows], reported: Sequence[Record]) -> dict[str, str]:
    """Facts by name, for the head of a report.

    Args:
        plan: The plan.
        rows: What the report rows of each task are.
        reported: The report trials that are complete.
    """
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
    baselines = [
        f"{task} {100 * of.baseline[of.metrics[0]]:.1f} ({of.metrics[0]})"
        for task, of in rows.items()
        if of.metrics[0] in of.baseline
    ]
    if baselines:
        facts["points without reading a text"] = ", ".join(baselines)
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


def notes(plan: StudyPlan, records: Sequence[Record], rows: Mapping[str, ReportRows]) -> list[str]:
    """Sentences about what results can't show by themselves.

    Args:
        plan: The plan.
        records: Of all trials.
        rows: What the report rows of each task are.
    """
    found = [f"{each.key} failed: {each.error}" for each in records if each.state == "failed"]
    missing = sum(each.state in ("waiting", "running") for each in records)
    if missing:
        found.append(f"{missing} trials have not ended; the results are of those that have.")
    if left := left_of_search(records, plan):
        found.append(
            f"The search is not finished: {'; '.join(left)}. The same command without --budget_minutes "
            "goes on."
        )
    if plan.design == "search":
        found.append(_of_finalists(plan))
    machines = Counter(each.result.machine for each in records if each.result and each.key.stage == "report")
    if len(machines) > 1:
        where = "; ".join(
            f"{number} on {name or 'an unknown one'}" for name, number in machines.most_common()
        )
        found.append(
            f"Trials of the report ran on different machines ({where}), so minutes, tokens/s and memory "
            "compare unlike things."
        )
    for task, of in rows.items():
        if of.note:
            found.append(f"{task} is judged by {of.note}: not the official split.")
    if not plan.learning_rates and "learning_rate" not in plan.axes and plan.design != "search":
        found.append(
            "All arms have the same learning rate, which may suit one better than another. Give "
            "learning_rates to tune it for each."
        )
    if mixed := _mixed_rates(plan, records):
        found.append(
            f"The trials of some arms have different learning rates: {'; '.join(mixed)}. Their means are of "
            "unlike things."
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
        found.append(f"The best learning rate tried is at the edge of those tried: {'; '.join(at_edge)}.")
    return found


def _of_finalists(plan: StudyPlan) -> str:
    """What a search did for its finalists and not for the baseline."""
    said = (
        f"Each finalist is among the best of {plan.trials} settings, and the baseline is one setting that "
        "nobody tuned, so a difference is also what tuning gives"
    )
    if any(axis.name == "learning_rate" and not axis.levels for axis in plan.axes_read()):
        rate = plan.base.get("learning_rate")
        said += f"; the baseline's learning rate is {rate or 'that of each task in `train`'}"
    return f"{said}."


def _mixed_rates(plan: StudyPlan, records: Sequence[Record]) -> list[str]:
    """Tasks and arms whose report trials have different learning rates, with these."""
    rates: dict[tuple[str, str], set[float]] = {}
    for each in records:
        if each.result and each.key.stage == "report":
            rates.setdefault((each.key.task, each.key.arm), set()).add(each.result.learning_rate)
    return [
        f"{task}, {arm} ({', '.join(f'{rate:g}' for rate in sorted(found))})"
        for (task, arm), found in sorted(rates.items())
        if len(found) > 1
    ]
