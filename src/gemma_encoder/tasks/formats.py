"""The formats of tables: a reader for each, which names the line of every error.

CSV is RFC 4180 (comma, double quotes, fields may hold line ends) with a header. TSV has a header and no
quoting: a line is a row and a quote is a character, as in GLUE's own files. JSONL is an object a line. Blank
lines are passed over in these three. `lines` is a text a line, blank ones included. All are UTF-8 (a byte
order mark is allowed).
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from ..errors import ConfigError, DataError, NoLabelsError, first_line

Source = str | Path | IO[Any]
Numbered = tuple[int, dict[str, Any]]
"""A record with the line it starts on (of parquet: its row), from 1."""

LARGEST_FIELD = 1 << 24  # characters; the standard library's 131,072 is less than a long document
PARQUET_ROWS = 1024  # rows held at a time


@dataclass
class ReadReport:
    """What a reader met on its way: filled while rows are drawn.

    Attributes:
        skip_bad_rows: Go on after a bad row and count it, instead of raising.
        skipped: Bad rows left out so far.
        empty_texts: Rows given out whose text is empty or white space.
        first_errors: The first few errors skipped.
        unlabelled: Rows without a label.
        first_unlabelled: The error of the first of them.
    """

    skip_bad_rows: bool = False
    skipped: int = 0
    empty_texts: int = 0
    first_errors: list[DataError] = field(default_factory=list)
    unlabelled: int = 0
    first_unlabelled: DataError | None = None

    def bad(self, error: DataError) -> None:
        """Count a bad row, or raise its error if bad rows are not to be skipped."""
        if not self.skip_bad_rows:
            raise error
        self.skipped += 1
        if len(self.first_errors) < 5:
            self.first_errors.append(error)

    def no_label(self, error: DataError) -> None:
        """Count a row without a label. Only at the end of a file can be told what it is: a bad row among
        others, or one of a file whose labels are hidden."""
        self.unlabelled += 1
        self.first_unlabelled = self.first_unlabelled or error
        if self.skip_bad_rows:
            self.bad(error)

    def refuse_no_labels(self, source: Source, labelled: int) -> None:
        """Say at the end of a file that rows had no label, unless they were skipped and others are left.

        Args:
            source: The file.
            labelled: Rows with a label.

        Raises:
            NoLabelsError: No row has one.
            DataError: Some have none; names the first.
        """
        first = self.first_unlabelled
        if first is not None and not labelled and self.skipped in (0, self.unlabelled):
            what = f"no row has a label; first: {first.what}"
            raise NoLabelsError(what, where=first.where or name_of(source), fix=first.fix)
        if first is not None and not self.skip_bad_rows:
            raise DataError(first.what, where=first.where, fix=first.fix)


def name_of(source: Source) -> str:
    """How an error calls the source."""
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) and name != "<stdin>" else "standard input"


def missing_column(column: str, there: Iterable[str], place: str) -> DataError:
    """The error for a column that is not there; lists the ones that are."""
    names = ", ".join(repr(name) for name in there) or "none"
    return DataError(
        f"there is no column {column!r}; the columns are {names}", where=place, fix="name one of these"
    )


class Lines:
    """The lines of a UTF-8 source, their number, and which of the latest were not UTF-8."""

    def __init__(self, source: Source) -> None:
        self.source, self.number = source, 0
        self.undecodable: list[tuple[int, UnicodeDecodeError]] = []

    def __iter__(self) -> Iterator[str]:
        if not isinstance(self.source, str | Path):
            yield from self._decode(getattr(self.source, "buffer", self.source))
            return
        path = Path(self.source)
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as opened:
            yield from self._decode(opened)

    def _decode(self, stream: Iterable[bytes | str]) -> Iterator[str]:
        for line in stream:
            self.number += 1
            if isinstance(line, str):
                yield line
                continue
            if self.number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                # Hand it on all the same: a CSV record may span lines; only its parser knows where it ends.
                self.undecodable.append((self.number, error))
                yield line.decode(errors="replace")

    def place(self, number: int | None = None) -> str:
        """File and line, for an error; the latest line if no number is given."""
        return f"{name_of(self.source)}, line {self.number if number is None else number}"

    def take_undecodable(self) -> DataError | None:
        """The error for lines that were not UTF-8 since the last call."""
        if not self.undecodable:
            return None
        number, error = self.undecodable[0]
        self.undecodable.clear()
        return DataError(
            f"byte {error.start + 1} of the line, 0x{error.object[error.start]:02x}, is not UTF-8",
            where=self.place(number),
            fix="save the file as UTF-8, or skip bad rows",
        )


def read_lines(lines: Lines, report: ReadReport) -> Iterator[Numbered]:
    """Plain lines, each a record with the column `text`."""
    for line in lines:
        if error := lines.take_undecodable():
            report.bad(error)
        else:
            yield lines.number, {"text": line.rstrip("\r\n")}


def read_jsonl(lines: Lines, columns: Sequence[str], report: ReadReport) -> Iterator[Numbered]:
    """JSONL; every record has the `columns`."""
    for line in lines:
        if error := lines.take_undecodable():
            report.bad(error)
        elif line.strip():
            try:
                record = _json_object(line, columns, lines.place())
            except DataError as bad:
                report.bad(bad)
            else:
                yield lines.number, record


def _json_object(line: str, columns: Sequence[str], place: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            _refuse_duplicates([name for name, _ in pairs], place)
        return found

    try:
        record = json.loads(line, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg} at character {error.pos + 1}"
        fix = "write one object a line, or skip bad rows"
        raise DataError(f"the line is broken JSON: {reason}", where=place, fix=fix) from None
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise DataError(
            f"the line is a JSON {kind}, not an object", where=place, fix="write one object a line"
        )
    for column in columns:
        if column not in record:
            raise missing_column(column, record, place)
    return record


def read_delimited(
    lines: Lines,
    kind: str,
    columns: Sequence[str],
    report: ReadReport,
    names: Sequence[str],
    known: Iterable[str] = (),
) -> Iterator[Numbered]:
    """CSV or TSV, as `kind` says; has the `columns`.

    `names` are those of the columns if the first line has none of them and none that is `known`: it is a row
    then.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_FIELD))
    reader = (
        csv.reader(iter(lines), strict=True)
        if kind == "csv"
        else csv.reader(iter(lines), delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    header: list[str] | None = None
    implied = False
    while True:
        start = lines.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error) or "field limit" in str(error):
                # Never skipped: everything after the quote would be lost as one row.
                raise DataError(
                    "a quote opened in this record is never closed, or a field is over 16 million characters",
                    where=lines.place(start),
                    fix='close it; write a quote inside a quoted field as ""',
                ) from None
            lines.undecodable.clear()
            reason, fix = str(error), 'put the field in quotes and write a quote inside it as ""'
            if "new-line character" in reason:
                reason, fix = "it holds a carriage return", "save the file with line ends LF or CRLF"
            broken = DataError(f"the line is broken {kind.upper()}: {reason}", where=lines.place(), fix=fix)
            if header is None:
                raise broken from None
            report.bad(broken)
            continue
        if not fields:
            continue
        if undecodable := lines.take_undecodable():
            if header is None:
                raise undecodable
            report.bad(undecodable)
            continue
        if header is None:
            implied = bool(names) and not set(fields) & {*names, *known}
            header = list(names) if implied else fields
            _refuse_duplicates(header, lines.place())
            for column in columns:
                if column not in header:
                    raise missing_column(column, header, name_of(lines.source))
            if not implied:
                continue  # the line was the header; otherwise it is the first row
        if len(fields) != len(header):
            of_names = f"without a header they are {', '.join(names)}"
            says = of_names if implied else f"the header has {len(header)}"
            what = f"the row has {len(fields)} fields, {says}"
            fix = "quote fields with commas or line ends" if kind == "csv" else "take tabs out of the texts"
            report.bad(DataError(what, where=lines.place(start), fix=fix + ", or skip bad rows"))
        else:
            yield start, dict(zip(header, fields, strict=True))


def read_parquet(source: Source, columns: Sequence[str]) -> Iterator[Numbered]:
    """Parquet; has the `columns`."""
    if not isinstance(source, str | Path):
        raise ConfigError("parquet can't be read from a stream", fix="give the path of the file")
    if Path(source).is_dir():
        raise IsADirectoryError
    with pq.ParquetFile(source) as file:
        names = file.schema_arrow.names
        _refuse_duplicates(names, str(source))
        for column in columns:
            if column not in names:
                raise missing_column(column, names, str(source))
        number = 0
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            try:
                records = batch.to_pylist()
            except UnicodeDecodeError:
                place = f"{source}, rows {number + 1} to {number + batch.num_rows}"
                raise DataError("a string is not UTF-8", where=place, fix="write the file again") from None
            except (ValueError, OverflowError) as error:  # dates beyond Python's, a struct with a name twice
                place = f"{source}, rows {number + 1} to {number + batch.num_rows}"
                raise DataError(
                    f"a value can't be read: {first_line(error)}", where=place, fix="leave the column out"
                ) from None
            for record in records:
                number += 1
                yield number, record


def _refuse_duplicates(names: Sequence[str], place: str) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        listed = ", ".join(repr(name) for name in twice)
        fix = (
            "rename them"
            if "" not in twice
            else "name them, or remove the separators at the end of the lines"
        )
        raise DataError(f"column names occur more than once: {listed}", where=place, fix=fix)
