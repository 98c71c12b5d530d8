"""Read CSV, TSV, JSONL, parquet and plain lines row by row, in constant memory, with exact row numbers in
every error. `formats` says what each format is; `.gz` may follow any suffix but parquet's."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from ..errors import ConfigError, DataError, first_line
from .formats import (
    Lines,
    ReadReport,
    Source,
    name_of,
    read_delimited,
    read_jsonl,
    read_lines,
    read_parquet,
)

TableFormat = Literal["csv", "tsv", "jsonl", "parquet", "lines"]

SUFFIXES: dict[str, TableFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "lines",
}
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair, no character by itself


@dataclass(frozen=True)
class Row:
    """One row to score: its number (see `Split.rows`), its text or texts, and all its columns."""

    number: int
    text: str
    text_pair: str | None
    record: dict[str, Any]


def iter_rows(
    source: Source,
    text_column: str = "text",
    text_pair_column: str | None = None,
    *,
    format: TableFormat | None = None,
    report: ReadReport | None = None,
) -> Iterator[Row]:
    """Stream the rows of a file or of standard input, holding one row (of parquet: 1,024) at a time.

    Args:
        source: A path, or an open stream such as `sys.stdin`.
        text_column: The column of the text; `lines` has only this one.
        text_pair_column: The column of the second text, for pairs.
        format: What the file is; from its suffix by default, must be said for a stream.
        report: Collects counts, and says whether to go on after bad rows.

    Raises:
        DataError: There is no such file, no row, no such column; or a row is bad (names its line).
        ConfigError: The format is not one of `TableFormat`, or is missing for a stream.
    """
    report = report if report is not None else ReadReport()
    kind = table_format(source, format)
    if kind == "lines":
        if text_pair_column is not None:
            raise ConfigError(
                "plain lines have no second text", fix="use CSV, TSV, JSONL or parquet for pairs"
            )
        text_column = "text"
    columns = [text_column] if text_pair_column is None else [text_column, text_pair_column]
    empty = True
    for number, record in iter_records(source, columns, format=kind, report=report):
        try:
            texts = [text_of(record, column, where(source, kind, number)) for column in columns]
        except DataError as error:
            report.bad(error)
            continue
        report.empty_texts += any(not text.strip() for text in texts)
        empty = False
        yield Row(number, texts[0], texts[1] if len(texts) == 2 else None, record)
    if empty:
        raise _no_rows(source, report)


def iter_records(
    source: Source,
    columns: Sequence[str] = (),
    *,
    format: TableFormat | None = None,
    report: ReadReport | None = None,
    header: Sequence[str] = (),
    known: Iterable[str] = (),
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stream `(row number, {column: value})`; every record has the `columns` asked for. See `iter_rows`.

    `header` names the columns of a CSV or TSV file whose first line has none of these names, and none that is
    `known` to stand in headers too.
    """
    report = report if report is not None else ReadReport()
    kind = table_format(source, format)
    with _clear_errors(source):
        if kind == "parquet":
            found = read_parquet(source, columns)
        else:
            lines = Lines(source)
            if kind == "jsonl":
                found = read_jsonl(lines, columns, report)
            elif kind == "lines":
                found = read_lines(lines, report)
            else:
                found = read_delimited(lines, kind, columns, report, header, known)
        empty = True
        for item in found:
            empty = False
            yield item
    if empty:
        raise _no_rows(source, report)


def table_format(source: Source, format: str | None = None) -> TableFormat:
    """The format said, or else the one the file's suffix stands for."""
    if format is not None:
        if format not in get_args(TableFormat):
            raise ConfigError(f"format is {format!r}", fix=f"use one of {', '.join(get_args(TableFormat))}")
        return format  # type: ignore[return-value]
    if not isinstance(source, str | Path):
        raise ConfigError(
            "a stream has no suffix to tell its format by", fix="say format: csv, tsv, jsonl or lines"
        )
    suffixes = [suffix.lower() for suffix in Path(source).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    if not suffixes or suffixes[-1] not in SUFFIXES:
        raise DataError(
            f"can't tell the format of a file named {Path(source).name!r}",
            where=str(source),
            fix=f"name it {', '.join(SUFFIXES)} (.gz may follow), or say the format",
        )
    return SUFFIXES[suffixes[-1]]


def where(source: Source, kind: TableFormat, number: int) -> str:
    """File and row, for an error."""
    return f"{name_of(source)}, {'row' if kind == 'parquet' else 'line'} {number}"


def _no_rows(source: Source, report: ReadReport) -> DataError:
    first = (
        f"; {report.skipped} bad rows were skipped, first: {report.first_errors[0]}" if report.skipped else ""
    )
    return DataError(
        f"there are no rows{first}",
        where=name_of(source),
        fix="give a file with at least one row",
    )


def text_of(record: dict[str, Any], column: str, place: str) -> str:
    """The text in a column: numbers are written out, nothing at all is an empty text."""
    value = record[column]
    if value is None or value != value:  # JSON's NaN, which pandas writes for nothing
        return ""
    if isinstance(value, list | dict | bytes):
        kind = type(value).__name__
        raise DataError(f"column {column!r} holds a {kind}, not a text", where=place, fix="make it a string")
    text = value if isinstance(value, str) else str(value)
    if SURROGATE.search(text):  # half of a "\ud83d\ude00" pair in JSON: no tokenizer takes it
        raise DataError(
            f"column {column!r} holds half of a surrogate pair", where=place, fix="write the file as UTF-8"
        )
    return text


@contextmanager
def _clear_errors(source: Source) -> Iterator[None]:
    """Turn what the operating system, gzip and pyarrow raise into a DataError that names the file."""
    place = name_of(source)
    try:
        yield
    except FileNotFoundError:
        raise DataError("there is no such file", where=place, fix="check the path") from None
    except IsADirectoryError:
        raise DataError("this is a folder, not a file", where=place, fix="name a file in it") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"the gzip file is broken: {error}", where=place, fix="compress it again") from None
    except pa.ArrowException as error:
        raise DataError(
            f"this is no readable parquet file: {first_line(error)}", where=place, fix="write it again"
        ) from None
    except OSError as error:
        raise DataError(
            f"the file can't be read: {error.strerror or error}", where=place, fix="check it"
        ) from None
