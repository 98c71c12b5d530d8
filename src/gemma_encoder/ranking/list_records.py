"""Records to lists: the names by which training files call query, documents and labels.

A record becomes a list by the names it has; docs/ranking.md has a table of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from ..errors import DataError
from ..tasks.tables import text_of
from .lists import CandidateList

QUERY_NAMES = ("query", "question", "anchor")
QUERY_ID_NAMES = ("query_id", "qid", "_id", "id")
DOCUMENTS_NAMES = ("documents", "docs", "passages", "candidates")
POSITIVE_NAMES = ("pos", "positive", "positives", "positive_passages")
ANSWER_NAMES = ("answer",)
"""A positive where none is called so: other data sets have an answer beside their passages."""
NEGATIVE_NAMES = ("neg", "negative", "negatives", "negative_passages", "hard_negatives")
DOCUMENT_ID_NAMES = ("id", "_id", "docid", "doc_id", "pid")
LABEL_NAMES = ("label", "score", "relevance")
LABELS_NAMES = ("labels", "scores", "label")
SCORES_NAMES = ("pos_scores", "neg_scores")
COLUMN_NAMES = (
    *QUERY_NAMES,
    *QUERY_ID_NAMES,
    *DOCUMENTS_NAMES,
    *POSITIVE_NAMES,
    *ANSWER_NAMES,
    *NEGATIVE_NAMES,
)
"""What tells the header of a CSV or TSV file from a row."""


def from_records(
    records: Iterable[tuple[int, Mapping[str, Any]]], place: str, name: str | None = None
) -> Iterator[CandidateList]:
    """Lists of records with their numbers; `place` names the file in errors.

    A query without an id is called by `name` (or `place`) and its number; white space becomes `-`, so that it
    can stand in a run.

    A record has a query (`query`, `question` or `anchor`) and one of

    * `documents`: texts, or objects with `text` (and `title`), `id`, and `label` or `score`; with texts alone
      the labels may stand in a column `labels`, `scores` or `label`;
    * positives and negatives (`pos`, `neg` and their longer names; a text, texts, or objects; `negative_1`,
      `negative_2` ... are negatives too). They get the labels 1 and 0 (1 where a document is both, as mined
      negatives can be), unless there are a teacher's scores: in the objects, in `pos_scores` and
      `neg_scores`, or for all documents in `scores` or `label`.

    Documents without an id are called by a hash of their text. One that comes twice in a list counts once.

    Raises:
        DataError: A record has none of these, an id is empty, there are not as many labels as documents, or a
            document comes again with another text or label.
    """
    stem = re.sub(r"\s+", "-", name or place)
    for number, record in records:
        try:
            yield _list_of(record, f"{stem}-{number}")
        except DataError as error:
            raise DataError(error.what, where=f"{place}, record {number}", fix=error.fix) from None


def _list_of(record: Mapping[str, Any], otherwise: str) -> CandidateList:
    name = first_of(record, QUERY_NAMES)
    if name is None:
        raise _no_list(record, f"no query ({', '.join(QUERY_NAMES)})")
    query = text_of(dict(record), name, otherwise)
    if not query.strip():
        raise DataError(f"column {name!r} is empty", fix="give the query a text, or leave the record out")
    id_name = first_of(record, QUERY_ID_NAMES)
    query_id = otherwise if id_name is None else _id(record, id_name)
    documents_name = first_of(record, DOCUMENTS_NAMES)
    found: list[tuple[str, str, float | None]]
    if documents_name is not None:
        found = _judged(record, documents_name)
    else:
        found = _contrasted(record)
    once = _once(found)
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


def _contrasted(record: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    """Positives and negatives, with a teacher's scores where it has them."""
    positives = _texts(record, POSITIVE_NAMES) or _texts(record, ANSWER_NAMES)
    negatives = _texts(record, NEGATIVE_NAMES)
    if not positives:
        raise _no_list(record, f"neither documents nor a positive ({', '.join(POSITIVE_NAMES)})")
    documents = [*positives, *negatives]
    marks: list[float | None] = []
    if any(record.get(name) is not None for name in SCORES_NAMES):
        for name, side in zip(SCORES_NAMES, (positives, negatives), strict=True):
            marks += _marks(name, record.get(name), len(side))
    elif column := first_of(record, LABELS_NAMES):
        marks = _marks(column, record[column], len(documents))
    else:
        marks = [_label(each) for each in documents]
        if not any(mark is not None for mark in marks):
            relevant = [_document(each) for each in positives]
            others = [each for each in map(_document, negatives) if each not in relevant]
            return [(*each, float(each in relevant)) for each in relevant + others]
    return [(*_document(each), mark) for each, mark in zip(documents, marks, strict=True)]


def _once(found: Iterable[tuple[str, str, float | None]]) -> dict[str, tuple[str, float | None]]:
    """Documents by id, those that come twice once; which of two that differ is meant, nobody can tell."""
    once: dict[str, tuple[str, float | None]] = {}
    for name, text, label in found:
        known = once.setdefault(name, (text, label))
        if known[0] != text:
            raise DataError(
                f"document {name!r} comes twice, with the texts {known[0]!r:.60} and {text!r:.60}",
                fix="give every document an id of its own",
            )
        if known[1] != label:
            raise DataError(
                f"document {name!r} comes twice, with the labels {known[1]} and {label} (text: {text!r:.60})",
                fix="leave one of them out",
            )
    return once


def _judged(record: Mapping[str, Any], name: str) -> list[tuple[str, str, float | None]]:
    """Documents with a label each, or None."""
    documents = record[name]
    if isinstance(documents, Mapping):  # MS MARCO's own: columns of texts and of is_selected
        marks_name = first_of(documents, ("is_selected", "label", "labels"))
        marks = documents[marks_name] if marks_name else None
        texts_name = first_of(documents, ("passage_text", "text", "texts"))
        documents = documents[texts_name] if texts_name else None
    else:
        marks_name = first_of(record, LABELS_NAMES)
        marks = record[marks_name] if marks_name else None
    if not isinstance(documents, list | tuple):
        raise DataError(
            f"column {name!r} is no list of documents", fix="make it a list of texts or of objects"
        )
    if marks is None:
        return [(*_document(each), _label(each)) for each in documents]
    labels = _marks(marks_name, marks, len(documents))
    return [(*_document(each), label) for each, label in zip(documents, labels, strict=True)]


def _marks(name: str | None, marks: Any, count: int) -> list[float | None]:
    """The labels in a column, one for each of so many documents."""
    if not isinstance(marks, list | tuple):
        marks_are = "missing" if marks is None else f"{marks!r:.60}, no list"
        raise DataError(
            f"column {name!r} is {marks_are}, for {count} documents",
            fix="give a list with one label for each document, or leave the column out",
        )
    if len(marks) != count:
        raise DataError(
            f"column {name!r} has {len(marks)} labels: {count} documents do not have as many labels",
            fix="give each document one (scores, not margins), or leave the column out",
        )
    return [_number(mark) for mark in marks]


def _texts(record: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """What stands under the first of the names, and under it with a number (`negative_1`), as one list."""
    found: list[Any] = []
    for name in record:
        stem, _, number = name.rpartition("_")
        numbered = stem in names and number.isdigit()
        if name in names or numbered:
            value = record[name]
            if numbered and value == "":  # a table whose rows have fewer negatives than its header
                continue
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
    return (_called(text) if name is None else _id(each, name)), text


def _id(record: Mapping[str, Any], name: str) -> str:
    found = text_of(dict(record), name, "")
    if not found.strip():
        raise DataError(f"the id in {name!r} is empty", fix="give one, or leave the column out")
    return found


def join_title(title: Any, text: str) -> str:
    """A document's title and text as one text."""
    return f"{title.strip()} {text}" if isinstance(title, str) and title.strip() else text


def _called(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _label(each: Any) -> float | None:
    name = first_of(each, LABEL_NAMES) if isinstance(each, Mapping) else None
    return None if name is None else _number(each[name])


def _number(value: Any) -> float:
    """A label: a number, also written out as CSV has it; true is 1."""
    try:
        found = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"a label is {value!r:.60}", fix="use a finite number")
    return found


def first_of(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of the names under which a record has something."""
    return next((name for name in names if record.get(name) is not None), None)


def _no_list(record: Mapping[str, Any], lacks: str) -> DataError:
    return DataError(
        f"the record has {lacks}; its columns are {', '.join(record)}",
        fix='use {"query": ..., "documents": [{"id": ..., "text": ..., "label": ...}]} or '
        '{"query": ..., "pos": [...], "neg": [...]}',
    )
