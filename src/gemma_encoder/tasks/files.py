"""A user's own files as a task."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from datasets import Dataset, Features, List, Value

from ..errors import ConfigError, DataError, NoLabelsError, first_line
from ..losses import ProblemType
from .base import CANDIDATE, GROUP, INDEX, Split, Task, TaskData, by_group
from .formats import ReadReport, missing_column
from .labels import (
    encode_label,
    infer_problem_type,
    is_missing,
    order_names,
    refuse_no_label,
    shown,
    single_name,
    split_labels,
)
from .tables import TableFormat, iter_records, table_format, text_of, where

PAIR_TEMPLATE = "Text 1: {text}\nText 2: {text_pair}"
DEFAULT_METRICS: dict[ProblemType, tuple[str, ...]] = {
    "single_label_classification": ("accuracy", "f1_macro"),
    "multi_label_classification": ("f1_micro", "f1_macro", "accuracy"),
    "regression": ("pearson", "spearman", "mse"),
}


@dataclass(frozen=True)
class FileTask:
    """A classification or regression task in a user's own files (CSV, TSV, JSONL, parquet; see `tables`).

    The kind of task follows from the labels of the training file: lists, or text with a `label_separator`,
    are multi-label; numbers of which one has a fraction are regression; whole numbers and words are classes,
    ordered by number if all are whole numbers and by name otherwise. `problem_type` and `labels` override
    that.

    Without a validation file a part of the training file is held out: `validation_fraction` of its rows, at
    least one, drawn with `seed`. An empty text is kept and counted (it is what a served model will meet too);
    an empty label is an error.

    Attributes:
        train: The training file.
        validation: The file to judge by, in any of the formats.
        text_column: Column of the text.
        text_pair_column: Column of the second text, for pairs.
        label_column: Column of the label.
        problem_type: Overrides what the labels look like.
        labels: Class names in the order wanted; by default those in the training file.
        label_separator: For multi-label columns of plain text, what stands between labels, such as `|`.
        template: How a row is written out; `{text}` and, for pairs, `{text_pair}`.
        metrics: The first one picks the best checkpoint; by default those of `DEFAULT_METRICS`.
        validation_fraction: Share of the training file held out when there is no validation file.
        max_train_rows: Train on this many rows, drawn with `seed` (a smaller number draws a part of a larger
            one's).
        seed: Seed of both draws.
        skip_bad_rows: Leave out and count rows that can't be read, instead of stopping at the first.
        name: What the task is called in results; the training file's name by default.
    """

    train: str | Path
    validation: str | Path | None = None
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    problem_type: ProblemType | None = None
    labels: tuple[str, ...] | None = None
    label_separator: str | None = None
    template: str | None = None
    metrics: tuple[str, ...] | None = None
    validation_fraction: float = 0.1
    max_train_rows: int | None = None
    seed: int = 0
    skip_bad_rows: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        if self.problem_type not in (None, *get_args(ProblemType)):
            allowed = ", ".join(get_args(ProblemType))
            raise ConfigError(f"problem_type is {self.problem_type!r}", fix=f"use one of {allowed}")
        for name in ("labels", "metrics"):
            value: Any = getattr(self, name)
            if value is not None and (
                not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value)
            ):
                raise ConfigError(f"{name} are {value!r}", fix="give a list of names")
        if self.problem_type == "ranking":
            raise ConfigError(
                "Files of your own can't hold lists of candidates yet",
                fix="use classification or regression, one row a text",
            )
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(
                f"validation_fraction is {self.validation_fraction}", fix="give a number between 0 and 1"
            )

    def load(self) -> TaskData:
        """Read, check and number the rows.

        Raises:
            DataError: A file or a row of it is bad (names both), or the kind of task can't be told.
        """
        report = ReadReport(skip_bad_rows=self.skip_bad_rows)
        raw = list(_raw_rows(self.train, self._columns, self.label_column, report))
        task = self._task(raw, report)
        train = _split(self.train, raw, task, report)
        if self.validation is not None:
            validation = read_table(self.validation, task, skip_bad_rows=self.skip_bad_rows)
        else:
            train, validation = hold_out(train, self.validation_fraction, self.seed)
        return TaskData.of(task, sample(train, self.max_train_rows, self.seed), validation)

    @property
    def _columns(self) -> tuple[str, ...]:
        pair = self.text_pair_column
        return (self.text_column,) if pair is None else (self.text_column, pair)

    def _task(self, raw: Sequence[_RawRow], report: ReadReport) -> Task:
        problem_type = self._problem_type(raw)
        names = self.labels
        if names is None:
            names = ("score",) if problem_type == "regression" else self._names(raw, problem_type, report)
        if problem_type == "single_label_classification" and len(names) < 2:
            raise DataError(
                f"there is one class only, {shown(names[0])}" if names else "there is no class",
                where=str(self.train),
                fix=f"check column {self.label_column!r}; classification needs two classes or more",
            )
        return Task(
            name=self.name or Path(self.train).name.split(".")[0],
            text_columns=self._columns,
            label_column=self.label_column,
            problem_type=problem_type,
            labels=tuple(names),
            metrics=tuple(self.metrics or DEFAULT_METRICS[problem_type]),
            template=self.template or ("{text}" if self.text_pair_column is None else PAIR_TEMPLATE),
            label_separator=self.label_separator,
        )

    def _problem_type(self, raw: Sequence[_RawRow]) -> ProblemType:
        if self.problem_type is not None:
            return self.problem_type
        if self.label_separator is not None:
            return "multi_label_classification"
        labels = [(row.place, row.label) for row in raw if not is_missing(row.label)]
        try:
            return infer_problem_type(labels)
        except DataError as error:
            raise DataError(error.what, where=error.where or str(self.train), fix=error.fix) from None

    def _names(
        self, raw: Sequence[_RawRow], problem_type: ProblemType, report: ReadReport
    ) -> tuple[str, ...]:
        found: set[str] = set()
        bad = list(report.first_errors)
        for row in raw:
            try:
                found.update(self._names_in(row, problem_type))
            except DataError as error:
                if not report.skip_bad_rows:
                    raise
                bad.append(error)  # counted where the row is encoded
        if not found:
            first = f", first bad row: {bad[0]}" if bad else ""
            raise DataError(
                f"no row has a label{first}", where=str(self.train), fix=f"check column {self.label_column!r}"
            )
        return order_names(found)

    def _names_in(self, row: _RawRow, problem_type: ProblemType) -> list[str]:
        if problem_type == "multi_label_classification":
            return split_labels(row.label, self.label_separator, row.place) if row.label is not None else []
        return [] if is_missing(row.label) else [single_name(row.label, row.place)]


@dataclass(frozen=True)
class _RawRow:
    number: int
    place: str
    texts: tuple[str, ...]
    label: Any
    group: Any = None
    candidate: str | None = None
    index: Any = None


def read_table(
    path: str | Path,
    task: Task,
    *,
    format: TableFormat | None = None,
    skip_bad_rows: bool = False,
    labelled: bool = True,
) -> Split:
    """Read a file for a task that is known already (its columns, its classes).

    Args:
        path: The file.
        task: What its rows mean.
        format: By the file's name if None.
        skip_bad_rows: Leave out and count bad rows.
        labelled: Whether labels are read. Otherwise rows get the `idx` that the file calls them by.

    Raises:
        NoLabelsError: None of the rows has a label.
        DataError: The file or a row of it is bad, or a label is none of the task's; names file, row and
            label.
    """
    report = ReadReport(skip_bad_rows=skip_bad_rows)
    kind = _labelled_format(path, format)
    # Columns of other layouts are looked for in each record, not in the header.
    columns = (*task.text_columns, *((task.label_column,) if labelled else ()))
    if task.flatten or task.aliases:
        columns = ()
    header = task.header if labelled else ()  # the official test files have a line with their names
    records = (
        (number, where(path, kind, number), record)
        for number, record in iter_records(path, columns, format=kind, report=report, header=header)
    )
    return _split(path, _flat_rows(records, task, report, labelled), task, report, labelled)


def to_split(
    rows: Iterator[tuple[int, str, dict[str, Any]]], source: str, task: Task, *, labelled: bool = True
) -> Split:
    """Number rows that are in memory already: `(row, place, record)` each."""
    report = ReadReport()
    return _split(source, _flat_rows(rows, task, report, labelled), task, report, labelled)


def hold_out(train: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Split training rows into those to train on and those to judge by; both keep the order of the file."""
    return hold_out_rows(train, round(train.rows.num_rows * fraction), seed=seed)


def hold_out_rows(train: Split, count: int, *, seed: int) -> tuple[Split, Split]:
    """The same with a number of rows; of rows that are judged in groups whole groups, until it is reached."""
    total = train.rows.num_rows
    units = by_group(train.rows[GROUP] if GROUP in train.rows.column_names else range(total))
    if len(units) < 2:
        what = "one row" if total < 2 else "one group of rows"
        raise DataError(f"{what} can't be split in two", where=train.source, fix="give a validation file")
    random.Random(seed).shuffle(units)
    held: list[int] = []
    while len(units) > 1 and len(held) < max(1, count):
        held += units.pop(0)
    kept = sorted(row for unit in units for row in unit)
    return (
        Split(
            train.rows.select(kept),
            train.source,
            f"{len(kept):,} of {total:,} rows; the others are held out for validation",
            train.skipped,
            train.empty_texts,
        ),
        Split(
            train.rows.select(sorted(held)),
            train.source,
            f"{len(held):,} of the {total:,} training rows, held out with seed {seed}",
        ),
    )


def sample(split: Split, max_rows: int | None, seed: int, *, lists: bool = False) -> Split:
    """At most `max_rows` rows: the first of one seeded shuffle, so smaller draws are parts of larger ones.

    Args:
        split: What to draw from.
        max_rows: How many, all if None.
        seed: Seed of the shuffle.
        lists: Draw whole groups, and count them instead of rows.

    Raises:
        ConfigError: `max_rows` is not positive.
    """
    if max_rows is None:
        return split
    if max_rows < 1:
        raise ConfigError(f"max_train_rows is {max_rows}", fix="give a positive number")
    units = by_group(split.rows[GROUP] if lists else range(split.rows.num_rows))
    total = len(units)
    if max_rows >= total:
        return split
    order = list(range(total))
    random.Random(seed).shuffle(order)
    drawn = f"{max_rows:,} of {total:,} {'lists' if lists else 'rows'} drawn with seed {seed}"
    note = f"{split.note}; {drawn}" if split.note else drawn
    rows = split.rows.select([row for unit in order[:max_rows] for row in units[unit]])
    return Split(rows, split.source, note, split.skipped, split.empty_texts)


def _labelled_format(path: str | Path, format: TableFormat | None) -> TableFormat:
    kind = table_format(path, format)
    if kind == "lines":
        raise DataError("plain lines have no labels", where=str(path), fix="use CSV, TSV, JSONL or parquet")
    return kind


def _flat_rows(
    records: Iterable[tuple[int, str, dict[str, Any]]], task: Task, report: ReadReport, labelled: bool
) -> Iterator[_RawRow]:
    """The rows in `(row, place, record)`, as the task makes them out of records."""
    for number, place, record in records:
        try:
            flat = list(task.rows_of(record))
            for row in flat:
                texts = tuple(text_of(row, column, place) for column in task.text_columns)
                if labelled and task.label_column not in row:
                    report.no_label(missing_column(task.label_column, record, place))
                    continue
                label = row[task.label_column] if labelled else None
                refuse_no_label(label, task.label_column, place)
                group, candidate = row.get(GROUP), row.get(CANDIDATE)
                yield _RawRow(number, place, texts, label, group, candidate, row.get(INDEX))
        except KeyError as error:
            raise missing_column(str(error.args[0]), record, place) from None
        except DataError as error:
            report.bad(error)
        except (ValueError, TypeError, AttributeError) as error:
            what = f"the row can't be made into one of {task.name}: {first_line(error)}"
            report.bad(DataError(what, where=place, fix="mend it, or skip bad rows"))


def _raw_rows(
    path: str | Path, text_columns: Sequence[str], label_column: str, report: ReadReport
) -> Iterator[_RawRow]:
    kind = _labelled_format(path, None)
    for number, record in iter_records(path, [*text_columns, label_column], format=kind, report=report):
        place = where(path, kind, number)
        try:
            texts = tuple(text_of(record, column, place) for column in text_columns)
            refuse_no_label(record[label_column], label_column, place)
        except DataError as error:
            report.bad(error)
            continue
        yield _RawRow(number, place, texts, record[label_column])


def _split(
    source: str | Path,
    raw: Iterator[_RawRow] | Sequence[_RawRow],
    task: Task,
    report: ReadReport,
    labelled: bool = True,
) -> Split:
    names = ("text", "text_pair") if task.is_pair else ("text",)
    columns: dict[str, list[Any]] = {name: [] for name in (*names, "label", "row", GROUP, CANDIDATE, INDEX)}
    groups: dict[Any, int] = {}
    for row in raw:
        try:
            label = encode_label(row.label, task, row.place) if labelled else None
        except NoLabelsError as error:
            report.no_label(error)
            continue
        except DataError as error:
            report.bad(error)
            continue
        texts = tuple(text.strip() for text in row.texts) if task.strip else row.texts
        report.empty_texts += any(not text.strip() for text in texts)
        for name, text in zip(names, texts, strict=True):
            columns[name].append(text)
        columns["label"].append(label)
        columns["row"].append(row.number)
        columns[GROUP].append(groups.setdefault(row.group, len(groups)))
        columns[CANDIDATE].append(row.candidate)
        columns[INDEX].append(json.dumps(row.index))
    report.refuse_no_labels(source, len(columns["row"]))
    if not columns["row"]:
        first = f"; first: {report.first_errors[0]}" if report.first_errors else ""
        raise DataError(
            f"no row can be used, {report.skipped} are bad{first}", where=str(source), fix="mend the file"
        )
    features: dict[str, Any] = {name: Value("string") for name in names} | {"row": Value("int64")}
    for name, kind, there in (
        ("label", _label_feature(task), labelled),
        (INDEX, "string", not labelled),
        (GROUP, "int64", set(groups) != {None}),
        (CANDIDATE, "string", any(candidate is not None for candidate in columns[CANDIDATE])),
    ):
        if there:
            features[name] = Value(kind) if isinstance(kind, str) else kind
        else:
            del columns[name]
    rows = Dataset.from_dict(columns, features=Features(features))
    return Split(rows, str(source), skipped=report.skipped, empty_texts=report.empty_texts)


def _label_feature(task: Task) -> Any:
    if task.problem_type == "multi_label_classification":
        return List(Value("float32"))
    return Value("int64") if task.problem_type == "single_label_classification" else Value("float64")
