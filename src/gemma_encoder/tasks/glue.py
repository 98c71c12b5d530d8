"""The GLUE tasks, as a table.

Columns, class names and class numbers are those of the Hugging Face export `nyu-mll/glue`; the aliases are
the columns of the official TSV files. Metrics are GLUE's own. A task with two metrics lists first the one
that picks checkpoints: for MRPC and QQP accuracy, since always answering "equivalent" already has an F1 of
0.81 on MRPC's dev set. Templates are ours: a single sentence goes in as it is, the parts of a pair are named,
each on a line of its own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from .base import Task

SENTENCES = "Sentence 1: {text}\nSentence 2: {text_pair}"
ENTAILMENT = "Premise: {text}\nHypothesis: {text_pair}"
NLI_LABELS = ("entailment", "neutral", "contradiction")
# The TSV files of MNLI and the diagnostics name the parts of a pair as the other tasks do.
NLI_ALIASES = {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"}


def suite_task(
    repository: str,
    name: str,
    columns: tuple[str, ...],
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    rows: dict[str, int],
    folder: str,
    template: str = "{text}",
    **options: Any,
) -> Task:
    """A task of a suite: what all have in common, a classification unless said otherwise.

    Args:
        repository: Of the suite on the Hugging Face hub.
        name: What the task is called here; `superglue_rte` is `rte` there.
        columns: One text column, or two.
        labels: Class names in the order of their numbers.
        metrics: The suite's own.
        rows: Rows of each official split.
        folder: The task's folder in the official download.
        template: How a row is written out.
        **options: Other fields of `Task`.
    """
    return Task(
        name=name,
        text_columns=columns,
        label_column="label",
        labels=labels,
        metrics=metrics,
        template=template,
        label_values="index",
        strip=True,
        official_rows=rows,
        folders=(folder,),
        hub=(repository, name.removeprefix("superglue_")),
        **{"problem_type": "single_label_classification", **options},
    )


_glue = partial(suite_task, "nyu-mll/glue")


def split_rows(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


SINGLE, PAIR, NLI = ("sentence",), ("sentence1", "sentence2"), ("premise", "hypothesis")

GLUE: dict[str, Task] = {
    task.name: task
    for task in (
        _glue(
            "cola",
            SINGLE,
            ("unacceptable", "acceptable"),
            ("matthews",),
            split_rows(8551, 1043, 1063),
            "CoLA",
            header=("source", "label", "mark", "sentence"),
        ),
        _glue("sst2", SINGLE, ("negative", "positive"), ("accuracy",), split_rows(67349, 872, 1821), "SST-2"),
        _glue(
            "mrpc",
            PAIR,
            ("not_equivalent", "equivalent"),
            ("accuracy", "f1"),
            split_rows(3668, 408, 1725),
            "MRPC",
            template=SENTENCES,
            aliases={"Quality": "label", "#1 String": "sentence1", "#2 String": "sentence2"},
        ),
        _glue(
            "stsb",
            PAIR,
            ("similarity",),
            ("pearson", "spearman"),
            split_rows(5749, 1500, 1379),
            "STS-B",
            template=SENTENCES,
            aliases={"score": "label"},
            problem_type="regression",
        ),
        _glue(
            "qqp",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            ("accuracy", "f1"),
            split_rows(363846, 40430, 390965),
            "QQP",
            template="Question 1: {text}\nQuestion 2: {text_pair}",
            aliases={"is_duplicate": "label"},
        ),
        _glue(
            "mnli",
            NLI,
            NLI_LABELS,
            ("accuracy",),
            {
                "train": 392702,
                "validation_matched": 9815,
                "validation_mismatched": 9832,
                "test_matched": 9796,
                "test_mismatched": 9847,
            },
            "MNLI",
            template=ENTAILMENT,
            aliases=NLI_ALIASES,
            validation_split="validation_matched",
            more_splits=("validation_mismatched",),
        ),
        _glue(
            "qnli",
            ("question", "sentence"),
            ("entailment", "not_entailment"),
            ("accuracy",),
            split_rows(104743, 5463, 5463),
            "QNLI",
            template="Question: {text}\nSentence: {text_pair}",
        ),
        _glue(
            "rte",
            PAIR,
            ("entailment", "not_entailment"),
            ("accuracy",),
            split_rows(2490, 277, 3000),
            "RTE",
            template=ENTAILMENT,
        ),
        _glue(
            "wnli",
            PAIR,
            ("not_entailment", "entailment"),
            ("accuracy",),
            split_rows(635, 71, 146),
            "WNLI",
            template=SENTENCES,
        ),
        _glue(
            "ax",
            NLI,
            NLI_LABELS,
            ("matthews",),
            {"test": 1104},
            "diagnostic",
            template=ENTAILMENT,
            aliases=NLI_ALIASES | {"Premise": "premise", "Hypothesis": "hypothesis", "Label": "label"},
            trained_on="mnli",
            validation_split="test",
            labelled_file="diagnostic-full",
        ),
    )
}
