"""`gemma-encoder predict`: texts in, labels or scores out, as a stream that survives a kill."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from .common import Progress, check_writable, counted, load_encoder, note, print_facts, print_table
from .options import ComputeOptions, PredictOptions
from .plan import text_plan

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..scoring import Row as Text
    from ..tasks.formats import ReadReport
    from ..tasks.tables import Row
    from .predictions import Predictions


def run(options: PredictOptions, compute: ComputeOptions) -> None:
    """Score every row of the input."""
    _check(options)
    encoder = load_encoder(
        options.model, compute.dtype, compute.device, compile_layers=compute.compile_layers
    )
    from ..tasks.formats import ReadReport

    report = ReadReport(skip_bad_rows=options.skip_bad_rows)
    rows = _rows(options, encoder, report)
    if options.dry_run:
        _print_plan(options, compute, encoder, rows, report)
    elif options.text and options.output == "-" and options.output_format is None and sys.stdout.isatty():
        _print_scores(encoder, list(rows), compute.max_tokens)
    else:
        _write(options, compute, encoder, rows, report)


def _check(options: PredictOptions) -> None:
    if bool(options.text) == (options.input is not None):
        raise ConfigError(
            "Give either --input or --text", fix='--input FILE, --input - or --text "one sentence"'
        )
    if options.text_pair and len(options.text_pair) != len(options.text):
        raise ConfigError(
            f"{len(options.text)} --text but {len(options.text_pair)} --text_pair", fix="give one each"
        )
    if options.resume and options.output == "-":
        raise ConfigError("--resume needs an output file", fix="add --output FILE")
    if options.resume and options.overwrite:
        raise ConfigError("--resume keeps the output and --overwrite replaces it", fix="give one of them")
    if options.resume and options.input == "-":
        note("resuming from standard input: send the same rows from the beginning again")
    if options.buffer_rows < 1:
        raise ConfigError(f"buffer_rows is {options.buffer_rows}", fix="give a number of rows of at least 1")
    if options.output != "-":
        check_writable(options.output)
        if options.input and _same_file(options.input, options.output):
            fix = "choose another --output"
            raise ConfigError("The output is the input", where=options.output, fix=fix)


def _same_file(one: str, other: str) -> bool:
    return Path(one).exists() and Path(other).exists() and Path(one).samefile(other)


def _rows(options: PredictOptions, encoder: Encoder, report: ReadReport) -> Iterator[Row]:
    """The rows to score: those of --text, or of the input as a stream."""
    from ..tasks.tables import Row, iter_rows

    pairs = encoder.config.text.is_pair
    if options.text:
        if pairs != bool(options.text_pair):
            fix = "add a --text_pair to each --text" if pairs else "leave --text_pair out"
            raise ConfigError(
                f"The model scores {'pairs' if pairs else 'single texts'}", where=options.model, fix=fix
            )
        seconds: Sequence[str | None] = options.text_pair or [None] * len(options.text)
        return (
            Row(number, text, second, {"text": text, "text_pair": second})
            for number, (text, second) in enumerate(zip(options.text, seconds, strict=True), 1)
        )
    source: Any = sys.stdin if options.input == "-" else options.input
    format = options.input_format or ("lines" if options.input == "-" else None)
    columns = (options.text_column, options.text_pair_column if pairs else None)
    return iter_rows(source, *columns, format=format, report=report)


def _text(row: Row) -> Text:
    return row.text if row.text_pair is None else (row.text, row.text_pair)


def _write(
    options: PredictOptions,
    compute: ComputeOptions,
    encoder: Encoder,
    rows: Iterator[Row],
    report: ReadReport,
) -> None:
    from ..scoring import score
    from .predictions import open_predictions

    rows = chain([next(rows)], rows)  # an input that can't be read is an error before the output is touched
    with open_predictions(options, encoder.config) as predictions:
        rows, behind = _after_written(options, predictions, rows)
        # Rows on their way through the model: `score` draws a buffer of them, then gives their scores.
        drawn: deque[Row] = deque()
        bad: list[DataError] = []

        def texts() -> Iterator[Text]:
            try:
                for row in rows:
                    drawn.append(row)
                    yield _text(row)
            except DataError as error:  # raised when the rows before it are scored and written
                bad.append(error)

        progress, truncated = Progress("row", predictions.resumed, hidden=options.output == "-"), 0
        try:
            scores = score(encoder, texts(), max_tokens=compute.max_tokens, buffer_rows=options.buffer_rows)
            for scored in scores:
                row = drawn.popleft()
                if scored.index >= behind:
                    predictions.add(row, scored)
                    truncated += scored.truncated
                elif scored.index == behind - 1:
                    predictions.check_last(row, scored)
                if not drawn:
                    predictions.flush()
                    progress.show(predictions.written)
            if bad:
                raise bad[0]
        except BaseException:
            progress.close()
            if predictions.flushed and options.output != "-":
                note(
                    f"{counted(predictions.flushed, 'row')} written to {options.output}; go on with --resume"
                )
            raise
    progress.close()
    _summary(options, predictions, truncated, report, encoder)


def _after_written(
    options: PredictOptions, predictions: Predictions, rows: Iterator[Row]
) -> tuple[Iterator[Row], int]:
    """Pass over the rows the output has; returns the rows to score and how many of them are written already.

    Scoring starts where the last buffer of the interrupted run started, so the passes, and with them every
    digit, are the same as without the interruption, and a model that says something else is noticed.
    """
    done = predictions.resumed
    if not done:
        return rows, 0
    start = (done - 1) // options.buffer_rows * options.buffer_rows
    again = list(islice(rows, start, done))
    if len(again) != done - start or again[-1].number != predictions.last_row:
        raise DataError(
            f"The output doesn't belong to this input: its {done:,} rows end with row {predictions.last_row}",
            where=options.output,
            fix="give the same input and options as before, or use --overwrite",
        )
    note(f"resuming after {counted(done, 'row')}")
    return chain(again, rows), len(again)


def _summary(
    options: PredictOptions, predictions: Predictions, truncated: int, report: ReadReport, encoder: Encoder
) -> None:
    remarks = []
    if truncated:
        remarks.append(
            f"{counted(truncated, 'text')} longer than {encoder.config.text.max_length} tokens cut"
        )
    if report.empty_texts:
        remarks.append(f"{counted(report.empty_texts, 'empty text')} scored all the same")
    if report.skipped:
        remarks.append(f"{counted(report.skipped, 'bad row')} skipped, the first: {report.first_errors[0]}")
    if options.output != "-":
        remarks.insert(0, f"{counted(predictions.written, 'row')} written to {options.output}")
    if remarks:
        note("; ".join(remarks))


def _print_plan(
    options: PredictOptions,
    compute: ComputeOptions,
    encoder: Encoder,
    rows: Iterator[Row],
    report: ReadReport,
) -> None:
    from .predictions import open_predictions

    with open_predictions(options, encoder.config) as predictions:  # opened to read, for --resume
        rows, _ = _after_written(options, predictions, rows)

        def texts() -> Iterator[Text]:
            for row in rows:
                predictions.check_columns(row)
                yield _text(row)

        plan = text_plan(encoder, texts(), compute.max_tokens)
    pairs = encoder.config.text.is_pair
    facts = {
        "model": options.model,
        "input": options.input or "--text",
        "columns": (options.text_column, options.text_pair_column) if pairs else options.text_column,
        **plan,
        "bad rows skipped": report.skipped,
        "labels": encoder.config.labels,
        "output": "standard output" if options.output == "-" else options.output,
    }
    print_facts("Would predict (dry run, nothing written):", facts)


def _print_scores(encoder: Encoder, rows: list[Row], max_tokens: int) -> None:
    """For --text on a terminal: a table to read."""
    from ..scoring import score
    from .predictions import prediction, probabilities_of

    table = []
    for row, scored in zip(rows, score(encoder, map(_text, rows), max_tokens=max_tokens), strict=True):
        chances = probabilities_of(encoder.config, scored.logits)
        named = {label: f"{chance:.3f}" for label, chance in chances.items()}
        answer = prediction(encoder.config, scored.logits)
        texts = {"text": row.text} | ({"text pair": row.text_pair} if row.text_pair else {})
        table.append({**texts, "prediction": answer} | named)
    print_table("", table)
