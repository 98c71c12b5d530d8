"""Text to adapt on, as documents of token ids: files, hub data sets, the training texts of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, first_line
from ..tasks import DataSource, get_task, iter_rows, load_split
from ..tasks.glue import GLUE
from ..tasks.superglue import SUPERGLUE
from ..tasks.tables import table_format
from ..text import TextConfig, TextTokenizer

TASK, HUB = "task:", "hub:"
SUITES = {"glue": tuple(GLUE), "superglue": tuple(SUPERGLUE)}
TEXTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Corpus:
    """Documents, each a row of token ids with its special tokens.

    Attributes:
        documents: Int32 `[L]` each. A text longer than the maximal length is several, none of it lost.
        texts: How many texts were read.
        sources: Where they came from, in words.
        by_source: `texts` and `tokens` read of each source; none of one that reading ended before.
    """

    documents: list[np.ndarray]
    texts: int
    sources: str
    by_source: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Of all documents."""
        return sum(map(len, self.documents))

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(map(len, self.documents))


def read_corpus(
    sources: Sequence[str],
    text: TextTokenizer,
    *,
    most_tokens: int,
    column: str = "text",
    data_dir: str | None = None,
    data_source: DataSource = "auto",
) -> Corpus:
    """Read texts until there are enough tokens, and cut them into documents.

    Sources take turns, a text each, so that all are in it; one that has no more drops out.

    Args:
        sources: Files (a text a line in .txt, else a column of CSV, TSV, JSONL or parquet, also with .gz),
            `hub:NAME` for a data set's training split, `task:NAME` for the training texts of a task,
            or of all tasks of a suite, each a source of its own.
        text: Tokenizer, maximal length and special tokens of a document. Its template is not used.
        most_tokens: No more texts are read behind these; 0 reads all.
        column: Of files and hub data sets.
        data_dir: Folder with the files of tasks.
        data_source: Where tasks are looked for otherwise.

    Raises:
        ConfigError: No source is given, or a name is unknown.
        DataError: One can't be read, or there is no text. Missing files are found before any is read.
    """
    if not sources:
        raise ConfigError("There is no text to adapt on", fix="give --corpus FILE, hub:NAME or task:NAME")
    named = ", ".join(sources)
    singles = list(dict.fromkeys(single for source in sources for single in _singles(source)))
    for source in singles:
        _check(source)
    rows = _in_turn(
        {source: _texts(source, column=column, data_dir=data_dir, where=data_source) for source in singles}
    )
    documents: list[np.ndarray] = []
    by_source = {source: {"texts": 0, "tokens": 0} for source in singles}
    texts = tokens = 0
    while part := list(islice(rows, TEXTS_AT_ONCE)):
        for (source, _), pieces in zip(part, cut((row for _, row in part), text), strict=True):
            own = sum(map(len, pieces))
            by_source[source]["texts"] += 1
            by_source[source]["tokens"] += own
            texts += 1
            documents += pieces
            tokens += own
            if most_tokens and tokens >= most_tokens:
                return Corpus(documents, texts, named, by_source)
    if not documents:
        raise DataError("There is no text in it", where=named, fix="give a corpus with texts")
    return Corpus(documents, texts, named, by_source)


def cut(texts: Iterable[str], text: TextTokenizer) -> Iterator[list[np.ndarray]]:
    """The documents of each text: BOS, at most as many tokens as fit, EOS. None if it has no token."""
    config, tokenizer = text.config, text.tokenizer
    begin, end = ([] if token is None else [token] for token in _special(text))
    room = config.max_length - len(begin) - len(end)
    ids = tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    for row in ids:
        starts = range(0, len(row), room)
        yield [np.array([*begin, *row[start : start + room], *end], dtype=np.int32) for start in starts]


def _special(text: TextTokenizer) -> tuple[int | None, int | None]:
    """BOS and EOS of a document, as the encoder's texts have them."""
    tokenizer: Any = text.tokenizer
    return (
        tokenizer.bos_token_id if text.config.bos else None,
        tokenizer.eos_token_id if text.config.eos else None,
    )


def _singles(source: str) -> list[str]:
    """The tasks of a suite; any other source is a single one."""
    name = source.removeprefix(TASK)
    return [TASK + task for task in SUITES[name]] if source.startswith(TASK) and name in SUITES else [source]


def _check(source: str) -> None:
    """Refuse a task that doesn't exist, and a file that doesn't or whose format can't be told."""
    if source.startswith(TASK):
        get_task(source.removeprefix(TASK))
    elif not source.startswith(HUB):
        table_format(source)
        if not Path(source).exists():
            raise DataError("there is no such file", where=source, fix="check the path")


def _in_turn(sources: dict[str, Iterator[str]]) -> Iterator[tuple[str, str]]:
    """Each source's name with its next text, until all have ended."""
    while sources:
        for name, texts in list(sources.items()):
            if (text := next(texts, None)) is None:
                del sources[name]
            else:
                yield name, text


def _texts(source: str, *, column: str, data_dir: str | None, where: DataSource) -> Iterator[str]:
    if source.startswith(TASK):
        yield from _of_task(source.removeprefix(TASK), data_dir, where)
    elif source.startswith(HUB):
        yield from _of_hub(source.removeprefix(HUB), column)
    else:
        for row in iter_rows(source, column):
            yield row.text


def _of_task(name: str, data_dir: str | None, source: DataSource) -> Iterator[str]:
    """A task's training texts, pairs written out by its template."""
    task = get_task(name)
    if task.trained_on:  # it has no training part
        return
    rows = load_split(task, task.train_split, data_dir, source=source).rows
    template = TextConfig(template=task.template)
    columns = ("text", "text_pair")[: 2 if template.is_pair else 1]
    for texts in zip(*(rows[column] for column in columns), strict=True):
        yield template.filled(texts)


def _of_hub(name: str, column: str) -> Iterator[str]:
    """The texts of a data set's training split; `NAME:CONFIG` names its configuration."""
    name, _, config = name.partition(":")
    for row in _rows_of_hub(name, config or None):
        value = row.get(column)
        if not isinstance(value, str):
            raise DataError(
                f"There is no text in the column {column!r}, the columns are {', '.join(row)}",
                where=name,
                fix="name the column with --text_column",
            )
        yield value


def _rows_of_hub(name: str, config: str | None) -> Iterator[dict[str, Any]]:
    """Streamed, so that a broken file or a lost connection may show at any row."""
    from datasets import load_dataset

    try:
        yield from load_dataset(name, config, split="train", streaming=True)
    except Exception as error:  # the hub's libraries raise many kinds
        raise DataError(
            f"The data set can't be read: {first_line(error)}",
            where=name,
            fix="check its name, its files and that you are online, or give a file",
        ) from error
