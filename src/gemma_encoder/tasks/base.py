"""What a task is, and what its rows look like once they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from datasets import Dataset

from ..errors import ConfigError
from ..losses import ProblemType


@dataclass(frozen=True)
class Task:
    """A row of the task table: which columns become text and label, and how the result is judged.

    Attributes:
        name: What it is called on the command line.
        text_columns: One column, or two for a pair.
        label_column: Where the label is.
        problem_type: What the label means.
        labels: Class names in the order of the scores; for regression the name of the score.
        metrics: Names known to `evaluation.metrics`; the first one is the main metric: it picks the best
            checkpoint.
        template: How the text (and its pair) is written out for the model.
        label_values: `name`: a label in a file is a class name. `index`: an integer is the class's place in
            `labels`, as in the Hugging Face exports; names are read too, and -1 marks a row without a label.
        label_separator: For multi-label columns of plain text: what stands between the labels of a row.
        strip: Remove white space around texts (SST-2's texts end in a space that served texts don't have).
        train_split: The official name of the training part.
        validation_split: The official name of the part that scores are reported on.
        official_rows: Rows of each official split.
        hub: Repository and configuration on the Hugging Face hub.
    """

    name: str
    text_columns: tuple[str, ...]
    label_column: str
    problem_type: ProblemType
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    template: str = "{text}"
    label_values: Literal["name", "index"] = "name"
    label_separator: str | None = None
    strip: bool = False
    train_split: str = "train"
    validation_split: str = "validation"
    official_rows: Mapping[str, int] = field(default_factory=dict)
    hub: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if len(self.text_columns) not in (1, 2):
            raise ConfigError(
                f"text_columns are {self.text_columns!r}", fix="give one column, or two for a pair"
            )
        if self.problem_type not in get_args(ProblemType):
            allowed = ", ".join(get_args(ProblemType))
            raise ConfigError(f"problem_type is {self.problem_type!r}", fix=f"use one of {allowed}")
        if not self.metrics:
            raise ConfigError(f"task {self.name!r} has no metric", fix="name at least one")
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"labels are {self.labels!r}", fix="give at least one, each a different name")

    @property
    def is_pair(self) -> bool:
        """Whether a row has two texts."""
        return len(self.text_columns) == 2

    @property
    def main_metric(self) -> str:
        """The metric that picks the best checkpoint."""
        return self.metrics[0]


@dataclass(frozen=True)
class Split:
    """One part of a task's data, read and checked.

    Attributes:
        rows: Columns `text`, `text_pair` (pairs only), `label` (int; float for regression; list of 0.0 / 1.0
            for multi-label), `row` (1-based line of a text file, where its record starts, or row of a parquet
            file).
        source: Where the rows came from.
        note: What makes it other than the official split; empty if nothing does. Belongs in every result.
        skipped: Bad rows left out.
        empty_texts: Rows kept whose text is empty or only white space.
    """

    rows: Dataset
    source: str
    note: str = ""
    skipped: int = 0
    empty_texts: int = 0


@dataclass(frozen=True)
class TaskData:
    """The rows to train on and the rows to judge by.

    Attributes:
        task: What the rows are for.
        train: See `Split.rows`.
        validation: See `Split.rows`.
        train_note: How `train` differs from the official split (a part, a sample); belongs in `run.json`.
        validation_note: The same for `validation`.
        train_source: Where `train` came from.
        validation_source: Where `validation` came from.
        skipped: Bad rows left out of both parts.
        empty_texts: Rows in both files whose text is empty.
    """

    task: Task
    train: Dataset
    validation: Dataset
    train_note: str = ""
    validation_note: str = ""
    train_source: str = ""
    validation_source: str = ""
    skipped: int = 0
    empty_texts: int = 0

    @classmethod
    def of(cls, task: Task, train: Split, validation: Split) -> TaskData:
        """Put two splits together."""
        return cls(
            task,
            train.rows,
            validation.rows,
            train_note=train.note,
            validation_note=validation.note,
            train_source=train.source,
            validation_source=validation.source,
            skipped=train.skipped + validation.skipped,
            empty_texts=train.empty_texts + validation.empty_texts,
        )
