"""Text to adapt on, as documents of token ids: files, hub data sets, the training texts of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, first_line
from ..tasks import DataSource, get_task, iter_rows, load_split
from ..tasks.glue import GLUE
from ..tasks.superglue import SUPERGLUE
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
    """

    documents: list[np.ndarray]
    texts: int
    sources: str

    @property
    def tokens(self) -> int:
        """Of all documents."""
        return sum(map(len, self.documents))


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

    Args:
        sources: Files (a text a line in .txt, else a column of CSV, TSV, JSONL or parquet, also with .gz),
            `hub:NAME` for a data set's training split, `task:NAME` for the training texts of a task,
            or of all tasks of a suite.
        text: Tokenizer, maximal length and special tokens of a document. Its template is not used.
        most_tokens: No more texts are read behind these; 0 reads all.
        column: Of files and hub data sets.
        data_dir: Folder with the files of tasks.
        data_source: Where tasks are looked for otherwise.

    Raises:
        ConfigError: No source is given, or a name is unknown.
        DataError: One can't be read, or there is no text.
    """
    if not sources:
        raise ConfigError("There is no text to adapt on", fix="give --corpus FILE, hub:NAME or task:NAME")
    rows = (
        row
        for source in sources
        for row in _texts(source, column=column, data_dir=data_dir, where=data_source)
    )
    documents: list[np.ndarray] = []
    texts = tokens = 0
    while part := list(islice(rows, TEXTS_AT_ONCE)):
        for pieces in cut(part, text):
            texts += 1
            documents += pieces
            tokens += sum(map(len, pieces))
            if most_tokens and tokens >= most_tokens:
                return Corpus(documents, texts, ", ".join(sources))
    if not documents:
        raise DataError("There is no text in it", where=", ".join(sources), fix="give a corpus with texts")
    return Corpus(documents, texts, ", ".join(sources))


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


def _texts(source: str, *, column: str, data_dir: str | None, where: DataSource) -> Iterator[str]:
    if source.startswith(TASK):
        name = source.removeprefix(TASK)
        for task in SUITES.get(name, [name]):
            yield from _of_task(task, data_dir, where)
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
    """The training split of a data set, streamed; `NAME:CONFIG` names its configuration."""
    from datasets import load_dataset

    name, _, config = name.partition(":")
    try:
        rows = iter(load_dataset(name, config or None, split="train", streaming=True))
    except Exception as error:  # the hub's libraries raise many kinds
        raise DataError(
            f"The data set can't be read: {first_line(error)}",
            where=name,
            fix="check its name and that you are online, or give a file",
        ) from error
    for row in rows:
        value = row.get(column)
        if not isinstance(value, str):
            raise DataError(
                f"There is no text in the column {column!r}, the columns are {', '.join(row)}",
                where=name,
                fix="name the column with --text_column",
            )
        yield value
