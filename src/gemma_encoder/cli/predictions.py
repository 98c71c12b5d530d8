"""The output of `predict`: JSONL or CSV that is complete to the last flush, and can be gone on with."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, DataError
from ..scoring import Scored, labels_on, probabilities

if TYPE_CHECKING:
    from ..encoder_config import EncoderConfig
    from ..tasks.tables import Row
    from .options import PredictOptions

DIGITS = 6  # as many as float32 gives; more would only show the order of additions


def probabilities_of(config: EncoderConfig, logits: np.ndarray) -> dict[str, float]:
    """Probability of each label; for regression and ranking the value of each score."""
    values = probabilities(logits, config.problem_type)
    return {label: round(float(value), DIGITS) for label, value in zip(config.labels, values, strict=True)}


def prediction(config: EncoderConfig, logits: np.ndarray) -> Any:
    """The answer: a label; several (multi-label: those above 0.5); a number, or several by name."""
    values = probabilities_of(config, logits)
    if config.problem_type == "single_label_classification":
        return config.labels[int(np.argmax(logits))]
    if config.problem_type == "multi_label_classification":
        return [label for label, on in zip(config.labels, labels_on(logits), strict=True) if on]
    return values if len(values) > 1 else next(iter(values.values()))


@dataclass(frozen=True)
class Written:
    """What an output file holds: whole records, the bytes they take (a broken last one is not among them)."""

    records: int
    size: int
    header: list[str] | None
    last: dict[str, Any]
    last_row: int | None


class Predictions:
    """Writes records a buffer at a time, each buffer in one go.

    Attributes:
        resumed: Rows the output had when it was opened.
        last_row: Input row number of the last of those.
        written: Rows added and resumed.
        flushed: Rows that are in the output.
    """

    def __init__(
        self,
        open_file: Callable[[], IO[bytes]],
        format: str,
        config: EncoderConfig,
        keep: Sequence[str],
        found: Written | None,
        name: str,
    ) -> None:
        self._open = open_file
        self._file: IO[bytes] | None = None
        self.format, self.config, self.keep, self.name = format, config, keep, name
        self.resumed = found.records if found else 0
        self.last_row = found.last_row if found else None
        self.header = found.header if found else None
        self._last = found.last if found else {}
        self.written = self.flushed = self.resumed
        self._buffer = io.StringIO(newline="")

    def add(self, row: Row, scored: Scored) -> None:
        """Take a row's scores; they are in the file after the next `flush`.

        Raises:
            DataError: The row lacks a column to keep, or its scores are no numbers.
            ConfigError: A column to keep has the name of one of ours.
        """
        if not np.isfinite(scored.logits).all():
            raise DataError(
                f"The model's scores are {', '.join(map(str, scored.logits.tolist()))}",
                where=f"row {row.number}",
                fix="try --dtype float32; if they stay so the model's weights are spoilt",
            )
        record = self._record(row, self._ours(scored))
        if self.format == "jsonl":
            self._buffer.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
        else:
            self._write_csv(record)
        self.written += 1

    def check_last(self, row: Row, scored: Scored) -> None:
        """See that the last record the output had is what would be written for its row now.

        Raises:
            DataError: It isn't, by more than rounding.
        """
        ours = self._ours(scored)
        self._refuse_other_columns(self._record(row, ours))
        for name, value in ours.items():
            if not _agree(value, self._last[name]):
                raise DataError(
                    f"The output was written by another model or with other options: the {name} of row "
                    f"{self.last_row} is {self._last[name]} there, and {value} now",
                    where=self.name,
                    fix="give the model and options of the run that is resumed, or use --overwrite",
                )

    def check_columns(self, row: Row) -> None:
        """See that nothing about a row's columns keeps it from being written, without its scores.

        Raises:
            DataError: It lacks a column to keep, or has others than the output.
            ConfigError: A column to keep has the name of one of ours.
        """
        scores = np.zeros(len(self.config.labels), np.float32)
        record = self._record(row, self._ours(Scored(0, scores, truncated=False)))
        if row.number == self.last_row:
            self._refuse_other_columns(record)
        elif self.format == "csv" and row.number > (self.last_row or 0):
            self._refuse_other_header(record)

    def _refuse_other_columns(self, record: Mapping[str, Any]) -> None:
        if list(record) != list(self._last):
            raise DataError(
                f"The output has the columns {', '.join(self._last)}; now they would be {', '.join(record)}",
                where=self.name,
                fix="give the options of the run that is resumed, or use --overwrite",
            )

    def _refuse_other_header(self, record: Mapping[str, Any]) -> None:
        if self.header is None:
            self.header = list(record)
        if self.header != list(record):
            raise DataError(
                f"Row {record['row']} has columns {', '.join(record)}, the output {', '.join(self.header)}",
                where=self.name,
                fix="use JSONL output, or the same options as the run that is resumed",
            )

    def _record(self, row: Row, ours: Mapping[str, Any]) -> dict[str, Any]:
        kept = self._kept(row)
        self._refuse_collision(kept, ours)
        return {"row": row.number, **kept, **ours}

    def _ours(self, scored: Scored) -> dict[str, Any]:
        """What the model says of a row, under the names of the output's format."""
        answer = prediction(self.config, scored.logits)
        chances = probabilities_of(self.config, scored.logits)
        if self.format == "csv":
            said = _flat(self.config, answer, chances)
        elif self.config.problem_type in ("regression", "ranking"):
            said = {"prediction": answer}
        else:
            said = {"prediction": answer, "probabilities": chances}
        return {**said, "truncated": scored.truncated}

    def flush(self) -> None:
        """Put what was added into the output."""
        if self._file is None:
            self._file = self._open()
        # A kept column may hold half of a surrogate pair; its escape is JSON too.
        self._file.write(self._buffer.getvalue().encode(errors="backslashreplace"))
        self._file.flush()
        self.flushed = self.written
        self._buffer = io.StringIO(newline="")

    def close(self) -> None:
        """Close the output, if it was opened and isn't standard output."""
        if self._file is not None and self.name != "-":
            self._file.close()

    def _kept(self, row: Row) -> Mapping[str, Any]:
        if list(self.keep) == ["all"]:
            return row.record
        for column in self.keep:
            if column not in row.record:
                there = ", ".join(map(repr, row.record))
                fix = f"the columns are {there}"
                raise DataError(f"There is no column {column!r} to keep", where=f"row {row.number}", fix=fix)
        return {column: row.record[column] for column in self.keep}

    def _refuse_collision(self, kept: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        for column in ("row", *ours):
            if column in kept:
                fix = "name the columns to keep without it, or rename it in the input"
                raise ConfigError(f"Column {column!r} is one of the output's own and can't be kept", fix=fix)

    def _write_csv(self, record: dict[str, Any]) -> None:
        writer = csv.writer(self._buffer, lineterminator="\n")
        if self.header is None:
            writer.writerow(record)
        self._refuse_other_header(record)
        writer.writerow(
            [json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict) else v for v in record.values()]
        )


@contextmanager
def open_predictions(options: PredictOptions, config: EncoderConfig) -> Iterator[Predictions]:
    """The output of a command line. An old one is touched when the first rows are written, and not before.

    Raises:
        ConfigError: The output exists and nothing says what to do with it, or its format can't be told.
        DataError: The output can't be resumed: it isn't one of ours.
    """
    format = _format(options)
    if options.output == "-":
        # UTF-8 as in a file, whatever the terminal's encoding is
        yield Predictions(lambda: sys.stdout.buffer, format, config, options.keep, None, "-")
        return
    path, found = Path(options.output), None
    if path.exists() and path.stat().st_size and not options.overwrite:
        if not options.resume:
            fix = "add --resume to go on after its rows, or --overwrite to replace it"
            raise ConfigError(f"The output exists: {path}", fix=fix)
        found = find_written(path, format)

    def open_file() -> IO[bytes]:
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
        file = path.open("r+b" if found else "wb")
        if found:
            file.seek(found.size)
            file.truncate()
        return file

    predictions = Predictions(open_file, format, config, options.keep, found, options.output)
    try:
        yield predictions
    finally:
        predictions.close()


def find_written(path: Path, format: str) -> Written:
    """Count the whole records of an output file, however large, and find where the last one ends.

    Raises:
        DataError: The last record isn't one that `predict` writes.
    """
    size = records = 0
    header: list[str] | None = None
    last, record, quotes = b"", b"", 0
    with path.open("rb") as file:
        for line in file:
            record, quotes = record + line, quotes + line.count(b'"')
            # A line end inside a quoted CSV field is not the end of the record.
            if not line.endswith(b"\n") or (format == "csv" and quotes % 2):
                continue
            size += len(record)
            if format == "csv" and header is None:
                header = next(csv.reader([record.decode()]))
            else:
                records, last = records + 1, record
            record, quotes = b"", 0
    try:
        if not records:
            fields = {}
        elif format == "csv":
            values = next(csv.reader(io.StringIO(last.decode(), newline="")))
            fields = dict(zip(header or (), values, strict=False))
        else:
            fields = json.loads(last)
        row = int(fields["row"]) if records else None
    except (ValueError, KeyError, TypeError) as error:
        fix = "use the output of an interrupted predict with the same format, or --overwrite"
        raise DataError(
            "This isn't an output of predict that can be resumed", where=str(path), fix=fix
        ) from error
    return Written(records, size, header, fields, row)


def _format(options: PredictOptions) -> str:
    if options.output_format:
        return options.output_format
    if options.output == "-":
        return "jsonl"
    suffix = Path(options.output).suffix.lower().lstrip(".")
    if suffix not in ("jsonl", "csv"):
        fix = "name it .jsonl or .csv, or add --output_format"
        raise ConfigError(f"Can't tell the format of the output {options.output!r}", fix=fix)
    return suffix


def _flat(config: EncoderConfig, answer: Any, chances: Mapping[str, float]) -> dict[str, Any]:
    """Prediction and probabilities as CSV columns."""
    if config.problem_type in ("regression", "ranking"):
        if len(chances) == 1:
            return {"prediction": answer}
        return {f"prediction_{name}": value for name, value in chances.items()}
    joined = "|".join(answer) if isinstance(answer, list) else answer
    return {"prediction": joined} | {f"probability_{label}": chance for label, chance in chances.items()}


def _agree(value: Any, written: Any) -> bool:
    """Whether a value is what was written, in CSV as text, but for rounding on another machine."""
    if isinstance(value, Mapping):
        same_names = isinstance(written, Mapping) and value.keys() == written.keys()
        return same_names and all(_agree(value[name], written[name]) for name in value)
    try:
        return bool(np.isclose(float(value), float(written), rtol=1e-3, atol=1e-3))
    except (TypeError, ValueError):
        return str(value) == str(written)
