"""Queries with their candidate documents: one list, and many that are read as they are asked for."""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, overload

import pyarrow.compute as pc

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

SHORT = 16
"""Bytes from which a document is taken to have a text, without reading it."""


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

    def labels(self) -> Iterator[tuple[float, ...] | None]:
        """The labels of each list; without reading texts where that can be helped."""
        for each in self:
            yield each.labels

    @property
    def parts(self) -> Sequence[Lists]:
        """The lists by source, if they are of several."""
        return [self]

    @abstractmethod
    def select(self, places: Sequence[int]) -> Lists:
        """The lists at these places, in this order."""

    def to_judge(self, places: Sequence[int]) -> Lists:
        """The lists at these places to judge a model by: without what was put in for training alone."""
        return self.select(places)

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

    def labels(self) -> Iterator[tuple[float, ...] | None]:
        """The labels of each list, from their column alone."""
        for batch in self.rows.select_columns("labels").with_format("arrow").iter(batch_size=1000):
            for each in batch["labels"].to_pylist():
                yield None if each is None else tuple(each)

    def empty_documents(self) -> int:
        """Documents without a text, or of white space alone."""
        empty = 0
        for batch in self.rows.select_columns("documents").with_format("arrow").iter(batch_size=1000):
            texts = batch["documents"].combine_chunks().flatten()
            short = texts.filter(pc.less(pc.binary_length(texts), SHORT))  # the others are not looked at
            empty += sum(not text.strip() for text in short.to_pylist())
        return empty

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

    def labels(self) -> Iterator[tuple[float, ...] | None]:
        """The labels of each list."""
        return chain.from_iterable(part.labels() for part in self._parts)

    @property
    def parts(self) -> Sequence[Lists]:
        """The lists by source."""
        return self._parts

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
