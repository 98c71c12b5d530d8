"""What a task is, and what its rows look like once they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from datasets import Dataset

from ..errors import ConfigError
from ..losses import ProblemType

Record = dict[str, Any]
Flatten = Callable[[Record], Iterable[Record]]

GROUP, CANDIDATE, INDEX = "group", "candidate", "idx"
"""Columns that a `Flatten` may add; see `Split.rows`."""


def by_group(groups: Iterable[int]) -> list[list[int]]:
    """The rows of each group, in the order in which groups and rows first appear."""
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    return list(members.values())


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
            `labels`, as in the Hugging Face exports; names are read too, and -1 marks a row without a
            label, in regression too.
        label_separator: For multi-label columns of plain text: what stands between the labels of a row.
        strip: Remove white space around texts (SST-2's texts end in a space that served texts don't have).
        aliases: Other names that columns have in other layouts, `{other: ours}`.
        header: Columns of TSV files that have no line with their names.
        flatten: Makes rows with `text_columns` and `label_column` out of one record of a file, where a row
            isn't that already: one for each choice or answer, spans marked. It may add `group`,
            `candidate` and `idx`. KeyError says which column it misses.
        trained_on: The task whose model answers this one, which has no training part of its own.
        train_split: The official name of the training part.
        validation_split: The official name of the part that scores are reported on.
        more_splits: Further splits that are reported, each by its own score (MNLI mismatched).
        official_rows: Rows of each official split; lists of candidates count once.
        folders: Names of the task's folder in other layouts than that of the hub.
        labelled_file: Name of the official file with the labels, where the one that is answered has none.
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
    aliases: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    flatten: Flatten | None = None
    trained_on: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    more_splits: tuple[str, ...] = ()
    official_rows: Mapping[str, int] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    labelled_file: str | None = None
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

    @property
    def test_splits(self) -> tuple[str, ...]:
        """The official parts whose answers are sent to a leaderboard."""
        return tuple(split for split in self.official_rows if split.startswith("test"))

    def rows_of(self, record: Record) -> Iterable[Record]:
        """A record as a file has it as rows with this task's columns.

        Raises:
            KeyError: A column that `flatten` needs is not there.
        """
        if self.aliases:
            named = {self.aliases[name]: value for name, value in record.items() if name in self.aliases}
            record = {**named, **record}  # a column of our own name wins
        return (record,) if self.flatten is None else self.flatten(record)


@dataclass(frozen=True)
class Split:
    """One part of a task's data, read and checked.

    Attributes:
        rows: Columns `text`, `text_pair` (pairs only), `label` (int; float for regression; list of 0.0 / 1.0
            for multi-label), `row` (1-based line of a text file, where its record starts, or row of a parquet
            file). Where rows are judged together also `group` (int, from 0: the answers to one question), and
            `candidate` (what a row stands for, where a metric compares it). Rows read without labels have
            `idx` instead of `label`: what the file calls them, as JSON.
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

    def together(self) -> dict[str, Any]:
        """Groups and candidates, as metrics take them; None where rows have none."""
        columns = self.rows.column_names
        return {
            "groups": self.rows[GROUP][:] if GROUP in columns else None,
            "candidates": self.rows[CANDIDATE][:] if CANDIDATE in columns else None,
        }


class ListsToLearn(Protocol):
    """Lists that are read, cut to size and tokenised as training asks for them."""

    def __len__(self) -> int: ...

    def tokenized(self, encoder: Any, seed: int) -> Any:
        """As `training.collation.TrainingItems`."""
        ...


@dataclass(frozen=True)
class TaskData:
    """The rows to train on and the rows to judge by.

    Attributes:
        task: What the rows are for.
        train: See `Split.rows`; in ranking also lists that lie elsewhere (`ranking.learning`).
        validation: See `Split.rows`.
        train_note: How `train` differs from the official split (a part, a sample); belongs in `run.json`.
        validation_note: The same for `validation`.
        train_source: Where `train` came from.
        validation_source: Where `validation` came from.
        skipped: Bad rows left out of both parts.
        empty_texts: Rows in both files whose text is empty.
    """

    task: Task
    train: Dataset | ListsToLearn
    validation: Dataset
    train_note: str = ""
    validation_note: str = ""
    train_source: str = ""
    validation_source: str = ""
    skipped: int = 0
    empty_texts: int = 0

    @property
    def items(self) -> int:
        """What a batch counts: rows to learn from, in ranking lists."""
        rows = self.train
        if isinstance(rows, Dataset) and self.task.problem_type == "ranking":
            return len(set(rows[GROUP]))
        return len(rows)

    @property
    def judged_by(self) -> Split:
        """The validation rows as a split."""
        return Split(self.validation, self.validation_source, self.validation_note)

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
