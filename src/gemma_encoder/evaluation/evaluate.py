"""Judge a trained encoder on labelled rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, DataError
from ..scoring import DEFAULT_MAX_TOKENS, Row, score
from .baseline import majority_baseline
from .metrics import compute_metrics

if TYPE_CHECKING:
    from datasets import Dataset

    from ..encoder import Encoder
    from ..tasks import Split, Task


@dataclass(frozen=True)
class Evaluation:
    """How well an encoder does, and on what.

    Attributes:
        task: Name of the task.
        source: Where the rows came from.
        note: What makes them other than the official split; empty if nothing does.
        rows: Rows judged.
        metrics: The task's metrics, the main one first.
        baseline: The same metrics for answering with the commonest label (or the mean) of these rows.
        truncated: Texts that were longer than the model's maximal length and were cut.
        skipped: Bad rows left out.
        empty_texts: Rows with an empty text.
        seconds: Time for tokenising and scoring.
    """

    task: str
    source: str
    note: str
    rows: int
    metrics: dict[str, float]
    baseline: dict[str, float]
    truncated: int
    skipped: int
    empty_texts: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def evaluate(
    encoder: Encoder,
    split: Split,
    task: Task,
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    metrics: Sequence[str] | None = None,
) -> Evaluation:
    """Score the rows of a split and compare with their labels.

    Args:
        encoder: A trained encoder with the task's labels, in any order.
        split: Labelled rows, see `tasks.Split`.
        task: What the rows mean.
        max_tokens: Most tokens in one forward pass.
        metrics: Instead of the task's own.

    Raises:
        ConfigError: The encoder was trained for other labels or another kind of task, or a metric does not
            fit.
        DataError: There are no rows.
    """
    if not len(split.rows):
        raise DataError("there are no rows to judge", where=split.source, fix="give at least one")
    order = label_order(encoder, task)
    names = tuple(metrics or task.metrics)
    start = time.perf_counter()
    scored = list(score(encoder, texts(split.rows), max_tokens=max_tokens))
    seconds = time.perf_counter() - start
    logits = np.stack([row.logits for row in scored])[:, order]
    labels, together = split.rows["label"][:], split.together()
    return Evaluation(
        task=task.name,
        source=split.source,
        note=split.note,
        rows=len(scored),
        metrics=compute_metrics(names, logits, labels, **together),
        baseline=majority_baseline(labels, names, task.problem_type, num_labels=len(task.labels), **together),
        truncated=sum(row.truncated for row in scored),
        skipped=split.skipped,
        empty_texts=split.empty_texts,
        seconds=seconds,
    )


def texts(rows: Dataset) -> Iterator[Row]:
    """The texts, or pairs of texts, of a task's rows, as `scoring.score` takes them."""
    pairs = "text_pair" in rows.column_names
    for row in rows:
        yield (row["text"], row["text_pair"]) if pairs else row["text"]


def label_order(encoder: Encoder, task: Task) -> list[int]:
    """Where each of the task's labels stands among the encoder's scores.

    Raises:
        ConfigError: They are not the same labels, or the problem types or the number of texts differ.
    """
    config = encoder.config
    if config.problem_type != task.problem_type:
        raise ConfigError(
            f"The model does {config.problem_type}, the task is {task.problem_type}",
            where=f"task {task.name}",
            fix="use a task of the kind the model was made for, or train it for this one with a new head",
        )
    if task.is_pair != config.text.is_pair:
        raise ConfigError(
            f"The task has {'pairs' if task.is_pair else 'single texts'}, the model's template is "
            f"{config.text.template!r}",
            where=f"task {task.name}",
            fix="use a task of the kind the model was made for, or train it for this one with a new head",
        )
    if len(config.labels) == len(task.labels) == 1:
        return [0]  # the name of the only score means nothing
    if sorted(config.labels) != sorted(task.labels):
        raise ConfigError(
            f"The model knows the labels {', '.join(config.labels)}; the task has {', '.join(task.labels)}",
            where=f"task {task.name}",
            fix="use a task with the model's labels, or train it for this one with a new head",
        )
    return [config.labels.index(label) for label in task.labels]
