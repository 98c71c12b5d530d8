"""The GLUE tasks built in, as a table.

Columns, class names and class numbers are those of the Hugging Face export `nyu-mll/glue`; metrics are GLUE's
own. A task with two metrics lists first the one that picks checkpoints: for MRPC accuracy, since always
answering "equivalent" already has an F1 of 0.81 on its dev set. Templates are ours: a single sentence goes in
as it is, the parts of a pair are named, each on a line of its own.
"""

from __future__ import annotations

from ..losses import ProblemType
from .base import Task

SENTENCES = "Sentence 1: {text}\nSentence 2: {text_pair}"


def _glue(
    name: str,
    columns: tuple[str, ...],
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    rows: tuple[int, int],
    template: str = "{text}",
    problem_type: ProblemType = "single_label_classification",
) -> Task:
    return Task(
        name=name,
        text_columns=columns,
        label_column="label",
        problem_type=problem_type,
        labels=labels,
        metrics=metrics,
        template=template,
        label_values="index",
        strip=True,
        official_rows={"train": rows[0], "validation": rows[1]},
        hub=("nyu-mll/glue", name),
    )


PAIR = ("sentence1", "sentence2")

GLUE: dict[str, Task] = {
    task.name: task
    for task in (
        _glue("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews",), (8551, 1043)),
        _glue("sst2", ("sentence",), ("negative", "positive"), ("accuracy",), (67349, 872)),
        _glue("mrpc", PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1"), (3668, 408), SENTENCES),
        _glue("stsb", PAIR, ("similarity",), ("pearson", "spearman"), (5749, 1500), SENTENCES, "regression"),
        _glue(
            "rte",
            PAIR,
            ("entailment", "not_entailment"),
            ("accuracy",),
            (2490, 277),
            "Premise: {text}\nHypothesis: {text_pair}",
        ),
        _glue("wnli", PAIR, ("not_entailment", "entailment"), ("accuracy",), (635, 71), SENTENCES),
    )
}
