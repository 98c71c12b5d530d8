"""What the selection rows decide: the learning rate of an arm, the finalists of a search."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from .plan import Arm, StudyPlan
from .records import Record


def best_learning_rate(
    records: Iterable[Record], plan: StudyPlan, task: str, arm: str, metric: str, *, higher: bool
) -> float | None:
    """The rate whose tuning trials have the best mean; the lower one of two that are equal.

    Args:
        records: Of the study.
        plan: The plan.
        task: Which task.
        arm: Which arm.
        metric: Its main metric.
        higher: Whether more of it is better.

    Returns:
        The rate, None as long as a tuning trial of the arm has not ended. A rate that failed with any seed is
        not chosen; if all did, None.
    """
    values: dict[float, list[float]] = defaultdict(list)
    ended = 0
    for record in records:
        key = record.key
        if (key.task, key.arm, key.stage) != (task, arm, "tuning") or key.learning_rate is None:
            continue
        ended += record.has_ended
        if record.result:
            values[key.learning_rate].append(record.result.selection[metric])
    whole = sorted(rate for rate, found in values.items() if len(found) == plan.tuning_seeds)
    if ended < len(plan.learning_rates) * plan.tuning_seeds or not whole:
        return None
    sign = 1 if higher else -1
    return max(whole, key=lambda rate: sign * fmean(values[rate]))


def reported_learning_rate(records: Iterable[Record], task: str, arm: str) -> float | None:
    """The rate of an arm's report trials that are complete, the most common one; None if there are none."""
    rates = Counter(
        each.result.learning_rate
        for each in records
        if each.result and (each.key.task, each.key.arm, each.key.stage) == (task, arm, "report")
    )
    return rates.most_common(1)[0][0] if rates else None


def finalists(
    records: Iterable[Record], plan: StudyPlan, task: str, metric: str, *, higher: bool
) -> list[Arm]:
    """The best settings of a search, the best first, each once."""
    tried = [each for each in records if each.key.task == task and each.key.stage == "search" and each.result]
    sign = -1 if higher else 1
    tried.sort(key=lambda each: (sign * each.result.selection[metric], each.number))  # type: ignore[union-attr]
    arms: dict[str, Arm] = {}
    for each in tried:
        arms.setdefault(each.key.arm, Arm(each.key.arm, each.levels, each.options))
    baseline = plan.arms()[0]
    return [arm for arm in arms.values() if arm.options != baseline.options][: plan.finalists]


def search_ended(records: Sequence[Record], plan: StudyPlan, task: str) -> bool:
    """Whether all settings of a task's search have been tried."""
    tried = [each for each in records if each.key.task == task and each.key.stage == "search"]
    return (
        all(each.state != "running" for each in tried)
        and sum(each.has_ended for each in tried) >= plan.trials
    )


def left_of_search(records: Sequence[Record], plan: StudyPlan) -> list[str]:
    """What a search has still to do before its finalists are trained: words for each task that is not there.

    Empty too where the plan is no search.
    """
    if plan.design != "search":
        return []
    baseline, left = plan.arms()[0], []
    for task in plan.tasks:
        of_task = [each for each in records if each.key.task == task]
        tried = [each for each in of_task if each.key.stage == "search"]
        if not search_ended(records, plan, task):
            ended = sum(each.has_ended for each in tried)
            left.append(f"{ended} of {plan.trials} settings of {task} have been tried")
        elif any(each.result and each.options != baseline.options for each in tried) and not any(
            each.key.stage == "report" and each.key.arm != baseline.name for each in of_task
        ):
            left.append(f"the finalists of {task} have not been trained")
    return left
