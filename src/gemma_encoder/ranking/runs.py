"""Runs and relevance judgments: TREC's files, and the order in which a run ranks documents."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import ConfigError, DataError
from ..tasks.tables import iter_records, where
from ..whole_files import whole_file

Run = dict[str, dict[str, float]]
"""Query id to document id to score."""
Qrels = dict[str, dict[str, int]]
"""Query id to document id to grade of relevance."""

RUN_COLUMNS = ("query id", "Q0", "document id", "rank", "score", "tag")
QRELS_COLUMNS = ("query id", "iteration", "document id", "grade")
BEIR_COLUMNS = ("query-id", "corpus-id", "score")
TOO_LARGE = 2.0**128 - 2.0**103  # from here up, float32 rounds to infinity

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # float() takes 1_000 too
_NAME = re.compile(r"[^ \t\n\r\f\v\ud800-\udfff]+")  # white space as trec_eval sees it; NBSP is none
_GRADE = re.compile(r"[+-]?\d+", re.ASCII)

Value = TypeVar("Value", int, float)


@dataclass(frozen=True)
class RunFile:
    """A run that was read.

    Attributes:
        run: The scores.
        lines: Lines that were used.
        repeated: Lines left out since they say again what an earlier one said.
    """

    run: Run
    lines: int
    repeated: int


@dataclass(frozen=True)
class QrelsFile:
    """Judgments that were read.

    Attributes:
        qrels: The grades.
        lines: Lines that were used.
        repeated: Lines left out since they say again what an earlier one said.
    """

    qrels: Qrels
    lines: int
    repeated: int


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """A query's documents in trec_eval's order: by score, ties by document id, both descending.

    Scores are compared in float32, as trec_eval holds them: what differs by less is a tie.

    Args:
        scores: Document id to score.

    Returns:
        Document ids with the scores as they were given, the best first.

    Raises:
        DataError: A score is not finite in float32.
    """
    with np.errstate(over="ignore"):
        singles = np.fromiter(scores.values(), np.float64, len(scores)).astype(np.float32)
    if not np.isfinite(singles).all():
        document = list(scores)[int(np.argmin(np.isfinite(singles)))]
        raise DataError(
            f"a score is {scores[document]}, not finite in float32",
            where=f"document {document}",
            fix="look for what made the model diverge",
        )
    order = sorted(zip(singles.tolist(), scores, strict=True), reverse=True)
    return [(document, scores[document]) for _, document in order]


def read_run(path: str | Path) -> RunFile:
    """Read a run in TREC's six columns: query id, `Q0`, document id, rank, score, tag.

    The score alone says how documents are ranked; rank and tag are not looked at. `.gz` is unpacked; blank
    lines are passed over.

    Raises:
        DataError: There is no such file or no line; a line has not six columns, its score is no number or not
            finite in float32, or it contradicts an earlier one. Names the line.
    """
    run: Run = {}
    counts = _gather(run, path, _run_lines(path))
    return RunFile(run, *counts)


def read_qrels(path: str | Path) -> QrelsFile:
    """Read relevance judgments: TREC's four columns (query id, iteration, document id, grade), or BEIR's
    three behind a header (`query-id`, `corpus-id`, `score`).

    `.gz` is unpacked; blank lines are passed over.

    Raises:
        DataError: There is no such file or no line; a line has other columns, its grade is no whole number,
            or it contradicts an earlier one. Names the line.
    """
    qrels: Qrels = {}
    counts = _gather(qrels, path, _qrels_lines(path))
    return QrelsFile(qrels, *counts)


def write_run(path: str | Path, run: Mapping[str, Mapping[str, float]], tag: str) -> Path:
    """Write a run in TREC's six columns, ranks from 1 in the order of `ranked`; packed if it ends in `.gz`.

    Scores are written so that reading them gives the same float32. Queries without documents leave no line. A
    kill or a full disk leaves what stood there before.

    Args:
        path: Where to. Its folder is made if need be.
        run: The scores.
        tag: Name of the run, its last column.

    Raises:
        DataError: A score is not finite in float32, or an id is empty or has white space in it.
        ConfigError: The tag is empty or has white space in it.
        OSError: It can't be written.
    """
    check_tag(tag)
    with whole_file(path) as file:
        for query, scores in run.items():
            file.writelines(run_lines(query, scores, tag))
    return Path(path)


def check_tag(tag: str) -> None:
    """Refuse a name of a run that can't stand in a column.

    Raises:
        ConfigError: It is empty or has white space in it.
    """
    if not is_name(tag):
        raise ConfigError(f"the tag of a run is {tag!r}", fix="give one word without white space")


def is_name(text: object) -> bool:
    """Whether it can stand in a column: a string, not empty, without white space."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def run_lines(query: str, scores: Mapping[str, float], tag: str) -> Iterator[bytes]:
    """A query's lines of a run, the best document first.

    Raises:
        DataError: A score is not finite in float32, or an id is empty or has white space in it.
    """
    for name in (query, *scores):
        if not is_name(name):
            raise DataError(
                f"{name!r} can't stand in a column",
                where=f"query {query!r}",
                fix="give ids without white space",
            )
    for rank, (document, score) in enumerate(ranked(scores), start=1):
        # str of a float32 has as few digits as reading back the same float32 takes.
        yield f"{query} Q0 {document} {rank} {np.float32(score)!s} {tag}\n".encode()


def _gather(
    gathered: dict[str, dict[str, Value]],
    path: str | Path,
    triples: Iterable[tuple[str, str, str, Value]],
) -> tuple[int, int]:
    """Fill in (place, query, document, value); how many were new and how many were there already."""
    new = repeated = 0
    for place, query, document, value in triples:
        of_query = gathered.setdefault(query, {})
        if document not in of_query:
            of_query[document] = value
            new += 1
        elif of_query[document] == value:
            repeated += 1
        else:
            raise DataError(
                f"query {query!r}, document {document!r} has {value} here and {of_query[document]} before",
                where=place,
                fix="keep one of the two lines",
            )
    if not new:  # blank lines or a header alone
        raise DataError("no line has a document", where=str(path), fix="give a file with at least one")
    return new, repeated


def _run_lines(path: str | Path) -> Iterator[tuple[str, str, str, float]]:
    for place, fields in _fields(path):
        if len(fields) != 6:
            raise _columns(fields, place, RUN_COLUMNS)
        query, _, document, _, score, _ = fields
        number = float(score) if _NUMBER.fullmatch(score) else math.nan
        if not abs(number) < TOO_LARGE:
            raise DataError(
                f"score {score!r} is no finite number of float32",
                where=place,
                fix=f"the columns are {', '.join(RUN_COLUMNS)}; write the score as in 12.5",
            )
        yield place, query, document, number


def _qrels_lines(path: str | Path) -> Iterator[tuple[str, str, str, int]]:
    columns: tuple[str, ...] = QRELS_COLUMNS
    for number, (place, fields) in enumerate(_fields(path)):
        if number == 0 and tuple(fields) == BEIR_COLUMNS:
            columns = BEIR_COLUMNS
            continue
        if len(fields) != len(columns):
            raise _columns(fields, place, columns)
        query, document, grade = fields[0], fields[-2], fields[-1]
        if not _GRADE.fullmatch(grade):
            raise DataError(
                f"grade {grade!r} is no whole number",
                where=place,
                fix=f"the columns are {', '.join(columns)}",
            )
        yield place, query, document, int(grade)


def _fields(path: str | Path) -> Iterator[tuple[str, list[str]]]:
    """The columns of each line that is not blank, behind its place."""
    try:
        for number, record in iter_records(path, format="lines"):
            if fields := _NAME.findall(record["text"]):
                yield where(path, "lines", number), fields
    except DataError as error:
        if "UTF-8" not in error.what:
            raise
        fix = "give a text file in UTF-8; if it is packed with gzip, name it .gz"
        raise DataError(error.what, where=error.where, fix=fix) from None


def _columns(fields: list[str], place: str, columns: Sequence[str]) -> DataError:
    return DataError(
        f"the line has {len(fields)} columns: {' '.join(fields)[:80]!r}",
        where=place,
        fix=f"give {len(columns)}, divided by white space: {', '.join(columns)}",
    )
