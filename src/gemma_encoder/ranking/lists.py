"""Queries with their candidate documents, from the files that rankers are trained on.

A record becomes a list by the names it has; README's table says which. `from_records` is the one place that
knows them.
"""

from __future__ import annotations

import json
import math
import random
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from datasets import Dataset, Features, Value
from datasets import List as ListFeature
from datasets.exceptions import DatasetGenerationError

from ..errors import ConfigError, DataError, GemmaEncoderError
from ..tasks.tables import iter_records, table_format, text_of
from ..whole_files import whole_file

QUERY_NAMES = ("query", "question", "anchor")
QUERY_ID_NAMES = ("query_id", "qid", "_id", "id")
DOCUMENTS_NAMES = ("documents", "docs", "passages", "candidates")
POSITIVE_NAMES = ("pos", "positive", "positives", "positive_passages")
NEGATIVE_NAMES = ("neg", "negative", "negatives", "negative_passages", "hard_negatives")
DOCUMENT_ID_NAMES = ("id", "_id", "docid", "doc_id", "pid")
LABEL_NAMES = ("label", "score", "relevance")
TRIPLE = ("query", "positive", "negative")

_FEATURES = Features(
    {
        "query_id": Value("string"),
        "query": Value("string"),
        "document_ids": ListFeature(Value("string")),
        "documents": ListFeature(Value("string")),
        "labels": ListFeature(Value("float64")),
    }
)


@dataclass(frozen=True)
class CandidateList:
    """A query and the documents that compete for it.

    Attributes:
        query_id: What runs and judgments call the query.
        query: Its text.
        document_ids: What runs and judgments call the documents; each once.
        documents: Their texts.
        labels: Relevance of each document (graded, or a teacher's score); None if nobody has judged them.

    Raises:
        DataError: Lengths differ, an id comes twice, there is no document, or a label is not finite.
    """

    query_id: str
    query: str
    document_ids: tuple[str, ...]
    documents: tuple[str, ...]
    labels: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.document_ids)
        if not count:
            raise DataError(f"query {self.query_id!r} has no document", fix="give it one, or leave it out")
        if len(self.documents) != count or (self.labels is not None and len(self.labels) != count):
            raise DataError(
                f"query {self.query_id!r} has {count} document ids, {len(self.documents)} documents"
                + ("" if self.labels is None else f" and {len(self.labels)} labels"),
                fix="give as many of each",
            )
        if len(set(self.document_ids)) != count:
            twice = next(name for name in self.document_ids if self.document_ids.count(name) > 1)
            raise DataError(
                f"query {self.query_id!r} has the document {twice!r} twice", fix="leave one of them out"
            )
        if self.labels is not None and not all(map(math.isfinite, self.labels)):
            raise DataError(f"query {self.query_id!r} has a label that is no finite number", fix="mend it")

    def __len__(self) -> int:
        return len(self.document_ids)

    def take(self, places: Sequence[int]) -> CandidateList:
        """The documents at these places, in this order."""
        return replace(
            self,
            document_ids=tuple(self.document_ids[place] for place in places),
            documents=tuple(self.documents[place] for place in places),
            labels=None if self.labels is None else tuple(self.labels[place] for place in places),
        )


class Lists(Sequence[CandidateList]):
    """Lists that are read as they are asked for.

    Attributes:
        source: Where they came from.
    """

    source: str

    @abstractmethod
    def queries(self) -> list[str]:
        """The text of each list's query."""

    @abstractmethod
    def select(self, places: Sequence[int]) -> Lists:
        """The lists at these places, in this order."""

    @abstractmethod
    def _at(self, index: int) -> CandidateList:
        """The list at a place."""

    @overload
    def __getitem__(self, index: int) -> CandidateList: ...
    @overload
    def __getitem__(self, index: slice) -> Lists: ...
    def __getitem__(self, index: int | slice) -> CandidateList | Lists:
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        return self._at(index)

    def sample(self, count: int | None, seed: int) -> Lists:
        """That many lists, drawn; all if None or if there are no more.

        Raises:
            ConfigError: `count` is below 1.
        """
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise ConfigError(f"max_train_rows is {count}", fix="give a positive number")
        return self.select(sorted(random.Random(seed).sample(range(len(self)), count)))


class CandidateLists(Lists):
    """Lists that lie on disk.

    Args:
        rows: Columns as `CandidateList` has fields.
        source: Where they came from.
    """

    def __init__(self, rows: Dataset, source: str) -> None:
        self.rows, self.source = rows, source

    def __len__(self) -> int:
        return len(self.rows)

    def _at(self, index: int) -> CandidateList:
        record: dict[str, Any] = self.rows[index]
        return CandidateList(
            record["query_id"],
            record["query"],
            tuple(record["document_ids"]),
            tuple(record["documents"]),
            None if record["labels"] is None else tuple(record["labels"]),
        )

    def queries(self) -> list[str]:
        """The text of each list's query."""
        return list(self.rows["query"])

    def select(self, places: Sequence[int]) -> CandidateLists:
        """The lists at these places, in this order."""
        return CandidateLists(self.rows.select(places), self.source)


class JoinedLists(Lists):
    """The lists of several sources, one after the other."""

    def __init__(self, parts: Sequence[Lists]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(map(len, self._parts)))
        self.source = ", ".join(part.source for part in parts)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _at(self, index: int) -> CandidateList:
        place = range(len(self))[index]
        part = bisect_right(self._ends, place)
        return self._parts[part][place - (self._ends[part - 1] if part else 0)]

    def queries(self) -> list[str]:
        """The text of each list's query."""
        return [query for part in self._parts for query in part.queries()]

    def select(self, places: Sequence[int]) -> SelectedLists:
        """The lists at these places, in this order."""
        return SelectedLists(self, places)


class SelectedLists(Lists):
    """Some of the lists of another, in an order of its own."""

    def __init__(self, lists: Lists, places: Sequence[int]) -> None:
        self._lists, self._places, self.source = lists, places, lists.source

    def __len__(self) -> int:
        return len(self._places)

    def _at(self, index: int) -> CandidateList:
        return self._lists[self._places[index]]

    def queries(self) -> list[str]:
        """The text of each list's query."""
        queries = self._lists.queries()
        return [queries[place] for place in self._places]

    def select(self, places: Sequence[int]) -> SelectedLists:
        """The lists at these places, in this order."""
        return SelectedLists(self._lists, [self._places[place] for place in places])


def read_lists(path: str | Path) -> CandidateLists:
    """Lists of a file: JSONL or parquet with a list in each record (see `from_records`), or TSV with query,
    positive and negative and no header, as MS MARCO's triples.

    The file is read once and kept as Arrow in the cache of `datasets`, so memory does not grow with it.

    Raises:
        DataError: A record is no list; names file and line.
    """
    file = Path(path)
    table_format(file)  # refuses what has no known suffix
    try:
        stat = file.stat()
    except OSError as error:
        raise DataError("there is no such file", where=str(file), fix="check the path") from error
    if not file.is_file():
        raise DataError("this is a folder, not a file", where=str(file), fix="name a file in it")
    # Size and time make a changed file another one for the cache.
    known = {"path": str(file.absolute()), "size": stat.st_size, "changed": stat.st_mtime_ns}
    return CandidateLists(_on_disk(_of_file, known), str(file))


def write_lists(path: str | Path, lists: Iterable[CandidateList]) -> int:
    """Write lists as JSONL that `read_lists` reads, packed if `path` ends in `.gz`.

    Returns:
        How many there were.

    Raises:
        OSError: It can't be written. What stood there before is left.
    """
    count = 0
    with whole_file(path) as file:
        for count, candidates in enumerate(lists, start=1):  # noqa: B007  # the last number is the answer
            columns: dict[str, Sequence[Any]] = {"id": candidates.document_ids, "text": candidates.documents}
            if candidates.labels is not None:
                columns["label"] = candidates.labels
            documents = [
                dict(zip(columns, each, strict=True)) for each in zip(*columns.values(), strict=True)
            ]
            record = {"query_id": candidates.query_id, "query": candidates.query, "documents": documents}
            file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
    return count


def hub_lists(name: str, split: str = "train", config: str | None = None) -> CandidateLists:
    """Lists of a data set of the Hugging Face hub, in any of the forms that `read_lists` knows.

    Raises:
        DataError: It can't be had, or a record is no list.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(name, config, split=split)
    except Exception as error:  # whatever a hub, a network or a broken data set raises
        raise DataError(
            f"the data set {name} can't be had: {error}", fix="check name, config and split, or give a file"
        ) from error
    return CandidateLists(
        _on_disk(_of_rows, {"rows": rows, "name": f"{name}, {split}"}), f"hub: {name}, {split}"
    )


def from_records(records: Iterable[tuple[int, Mapping[str, Any]]], place: str) -> Iterator[CandidateList]:
    """Lists of records with their numbers; `place` names the file in errors.

    A record has a query (`query`, `question` or `anchor`) and one of

    * `documents`: texts, or objects with `text` (and `title`), `id`, and `label` or `score`; with texts alone
      the labels may stand in a column `labels` or `scores`;
    * positives and negatives (`pos`, `neg` and their longer names; a text, texts, or objects; `negative_1`,
      `negative_2` ... are negatives too), which get the labels 1 and 0.

    Documents without an id are called by a hash of their text, those of a query that come twice count once.

    Raises:
        DataError: A record has none of these.
    """
    for number, record in records:
        try:
            yield _list_of(record, f"{place}-{number}")
        except DataError as error:
            raise DataError(error.what, where=f"{place}, record {number}", fix=error.fix) from None


def _on_disk(generator: Any, known: dict[str, Any]) -> Dataset:
    try:
        rows: Dataset = Dataset.from_generator(generator, features=_FEATURES, gen_kwargs=known)
    except DatasetGenerationError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, GemmaEncoderError):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from None
    return rows


def _of_file(path: str, size: int, changed: int) -> Iterator[dict[str, Any]]:
    kind = table_format(path)
    records: Iterable[tuple[int, Mapping[str, Any]]]
    records = iter_records(path, TRIPLE if kind in ("tsv", "csv") else (), header=TRIPLE)
    for made in from_records(records, path):
        yield _record(made)


def _of_rows(rows: Dataset, name: str) -> Iterator[dict[str, Any]]:
    for made in from_records(enumerate(rows), name):
        yield _record(made)


def _record(made: CandidateList) -> dict[str, Any]:
    return {name: getattr(made, name) for name in _FEATURES}


def _list_of(record: Mapping[str, Any], otherwise: str) -> CandidateList:
    name = first_of(record, QUERY_NAMES)
    if name is None:
        raise _no_list(record, f"no query ({', '.join(QUERY_NAMES)})")
    query = text_of(dict(record), name, otherwise)
    if not query.strip():
        raise DataError(f"column {name!r} is empty", fix="give the query a text, or leave the record out")
    id_name = first_of(record, QUERY_ID_NAMES)
    query_id = otherwise if id_name is None else str(record[id_name])
    documents_name = first_of(record, DOCUMENTS_NAMES)
    found: list[tuple[str, str, float | None]]
    if documents_name is not None:
        found = _judged(record, documents_name)
    else:
        positives, negatives = _texts(record, POSITIVE_NAMES), _texts(record, NEGATIVE_NAMES)
        if not positives:
            raise _no_list(record, f"neither documents nor a positive ({', '.join(POSITIVE_NAMES)})")
        found = [(*_document(each), 1.0) for each in positives]
        found += [(*_document(each), 0.0) for each in negatives]
    once: dict[str, tuple[str, float | None]] = {}
    for name, text, label in found:
        once.setdefault(name, (text, label))
    labels = [label for _, label in once.values() if label is not None]
    if labels and len(labels) < len(once):
        raise DataError("some of the documents have a label and some have none", fix="label all or none")
    return CandidateList(
        query_id,
        query,
        tuple(once),
        tuple(text for text, _ in once.values()),
        tuple(labels) or None,
    )


def _judged(record: Mapping[str, Any], name: str) -> list[tuple[str, str, float | None]]:
    """Documents with a label each, or None."""
    documents = record[name]
    if isinstance(documents, Mapping):  # MS MARCO's own: columns of texts and of is_selected
        marks_name = first_of(documents, ("is_selected", "label", "labels"))
        marks = documents[marks_name] if marks_name else None
        texts_name = first_of(documents, ("passage_text", "text", "texts"))
        documents = documents[texts_name] if texts_name else None
    else:
        marks_name = first_of(record, ("labels", "scores"))
        marks = record[marks_name] if marks_name else None
    if not isinstance(documents, list | tuple):
        raise DataError(
            f"column {name!r} is no list of documents", fix="make it a list of texts or of objects"
        )
    if marks is None:
        return [(*_document(each), _label(each)) for each in documents]
    if not isinstance(marks, list | tuple) or len(marks) != len(documents):
        raise DataError(f"{len(documents)} documents do not have as many labels", fix="give each one label")
    return [(*_document(each), _number(mark)) for each, mark in zip(documents, marks, strict=True)]


def _texts(record: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """What stands under the first of the names, and under it with a number (`negative_1`), as one list."""
    found: list[Any] = []
    for name in record:
        stem, _, number = name.rpartition("_")
        if name in names or (stem in names and number.isdigit()):
            value = record[name]
            found += list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    return found


def _document(each: Any) -> tuple[str, str]:
    """Id and text, the title before it."""
    if isinstance(each, str):
        return _called(each), each
    if not isinstance(each, Mapping) or "text" not in each:
        raise DataError(f"a document is {each!r:.60}", fix="make it a text, or an object with text")
    text = join_title(each.get("title"), text_of(dict(each), "text", ""))
    name = first_of(each, DOCUMENT_ID_NAMES)
    return (_called(text) if name is None else str(each[name])), text


def join_title(title: Any, text: str) -> str:
    """A document's title and text as one text."""
    return f"{title.strip()} {text}" if isinstance(title, str) and title.strip() else text


def _called(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _label(each: Any) -> float | None:
    name = first_of(each, LABEL_NAMES) if isinstance(each, Mapping) else None
    return None if name is None else _number(each[name])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"a label is {value!r}", fix="use a finite number")
    return float(value)


def first_of(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of the names under which a record has something."""
    return next((name for name in names if record.get(name) is not None), None)


def _no_list(record: Mapping[str, Any], lacks: str) -> DataError:
    return DataError(
        f"the record has {lacks}; its columns are {', '.join(record)}",
        fix='use {"query": ..., "documents": [{"id": ..., "text": ..., "label": ...}]} or '
        '{"query": ..., "pos": [...], "neg": [...]}',
    )
