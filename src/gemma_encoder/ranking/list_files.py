"""Lists from files and from data sets of the hub, and to files. Forms of records: `list_records`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value
from datasets import List as ListFeature
from datasets.exceptions import DatasetGenerationError

from ..errors import DataError, GemmaEncoderError
from ..tasks.tables import iter_records, table_format
from ..whole_files import whole_file
from .list_records import COLUMN_NAMES, from_records
from .lists import CandidateList, CandidateLists

TRIPLE = ("query", "positive", "negative")
FEATURES = Features(
    {
        "query_id": Value("string"),
        "query": Value("string"),
        "document_ids": ListFeature(Value("string")),
        "documents": ListFeature(Value("string")),
        "labels": ListFeature(Value("float64")),
    }
)
FORMAT = 3
"""Of the lists in the cache: raise it when records are read in another way, so that no old ones are taken."""


def read_lists(path: str | Path) -> CandidateLists:
    """Lists of a file: JSONL, parquet, CSV or TSV with a list in each record (see `from_records`).

    CSV and TSV without a header have query, positive and negative, as MS MARCO's triples.

    The file is read once and kept as Arrow in the cache of `datasets`, so memory does not grow with it.

    Raises:
        DataError: A record is no list (names file and line), or triples are ids instead of texts.
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
    known["format"] = FORMAT
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
    known = {"rows": rows, "name": f"{name}, {split}", "format": FORMAT}
    return CandidateLists(_on_disk(_of_rows, known), f"hub: {name}, {split}")


def _on_disk(generator: Any, known: dict[str, Any]) -> Dataset:
    try:
        rows: Dataset = Dataset.from_generator(generator, features=FEATURES, gen_kwargs=known)
    except DatasetGenerationError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, GemmaEncoderError):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from None
    return rows


def _of_file(path: str, size: int, changed: int, format: int) -> Iterator[dict[str, Any]]:
    records: Iterable[tuple[int, Mapping[str, Any]]] = iter_records(path, header=TRIPLE, known=COLUMN_NAMES)
    if table_format(path) in ("tsv", "csv"):
        records = _of_texts(records, path)
    # A run must not hold where its lists lay, so queries are called by the file's name alone.
    for made in from_records(records, path, Path(path.removesuffix(".gz")).stem):
        yield _record(made)


def _of_texts(
    records: Iterable[tuple[int, Mapping[str, Any]]], path: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The same records; refuses MS MARCO's triples of ids, which would be learnt as texts."""
    for place, (number, record) in enumerate(records):
        if not place and all(record.get(name, "").strip().isdigit() for name in TRIPLE):
            raise DataError(
                f"query, positive and negative are numbers: {', '.join(record[name] for name in TRIPLE)}",
                where=f"{path}, line {number}",
                fix="give triples of texts, or for ids a --collection that has the texts, with --qrels and "
                "--run or --first_stage",
            )
        yield number, record


def _of_rows(rows: Dataset, name: str, format: int) -> Iterator[dict[str, Any]]:
    for made in from_records(enumerate(rows), name, name.split(",")[0].rpartition("/")[2]):
        yield _record(made)


def _record(made: CandidateList) -> dict[str, Any]:
    return {name: getattr(made, name) for name in FEATURES}
