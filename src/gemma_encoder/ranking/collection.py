"""A collection: queries, a corpus and judgments, as BEIR lays them out. Its runs as lists: `run_lists`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import ConfigError, DataError
from ..tasks.tables import iter_records, text_of
from .list_records import first_of, join_title
from .runs import Qrels, Run, read_qrels

CHUNK = 65_536
ID_NAMES = ("_id", "id", "doc_id", "docid", "pid", "query_id", "qid")


class Corpus(Mapping[str, str]):
    """Documents by id, their texts in Arrow memory (about as large as the file).

    Args:
        path: JSONL, parquet, CSV or TSV with an id (`_id`, `id`, `doc_id`, `docid`, `pid`), `text` and, where
            there is one, `title`, which is put before the text; TSV without a header has id and text.

    Raises:
        DataError: There is no such file, a line is bad, or an id comes twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.source = str(path)
        self.empty = 0
        self._places: dict[str, int] = {}
        self._chunks: list[pa.Array] = []
        texts: list[str] = []
        for number, (name, text) in _named_texts(Path(path)):
            if name in self._places:
                raise DataError(
                    f"document {name!r} comes twice",
                    where=f"{path}, line {number}",
                    fix="leave one of them out",
                )
            self.empty += not text.strip()
            self._places[name] = len(self._places)
            texts.append(text)
            if len(texts) == CHUNK:
                self._chunks.append(pa.array(texts, pa.large_string()))
                texts = []
        self._chunks.append(pa.array(texts, pa.large_string()))

    def __getitem__(self, name: str) -> str:
        chunk, place = divmod(self._places[name], CHUNK)
        text: str = self._chunks[chunk][place].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_queries(path: str | Path) -> dict[str, str]:
    """Queries by id; files as for `Corpus`.

    Raises:
        DataError: A line is bad, a query is empty, or an id comes twice.
    """
    queries: dict[str, str] = {}
    for number, (name, text) in _named_texts(Path(path)):
        what = "comes twice" if name in queries else "" if text.strip() else "has no text"
        if what:
            raise DataError(f"query {name!r} {what}", where=f"{path}, line {number}", fix="mend that line")
        queries[name] = text
    return queries


QRELS_NAMES = [f"qrels.{kind}{packed}" for kind in ("trec", "tsv", "txt") for packed in ("", ".gz")]


@dataclass(frozen=True)
class Collection:
    """Texts to rank, and what is known of them.

    Attributes:
        queries: Query id to text.
        corpus: Document id to text.
        source: Where they came from.
        qrels: Judgments, None if none were asked for.
        run: Candidates that the collection brings along, if it does.
        repeated_judgments: Lines of judgments left out since they say again what an earlier one said.
    """

    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    source: str
    qrels: Qrels | None = None
    run: Run | None = None
    repeated_judgments: int = 0

    def judged_queries(self) -> dict[str, str]:
        """The queries that have judgments; all if there are no judgments.

        Raises:
            DataError: None has any.
        """
        if self.qrels is None:
            return dict(self.queries)
        found = {name: text for name, text in self.queries.items() if self.qrels.get(name)}
        if not found:
            ids = [", ".join(map(repr, islice(each, 3))) for each in (self.queries, self.qrels)]
            raise DataError(
                f"no query has judgments (queries: {ids[0]}; in the judgments: {ids[1]})",
                where=self.source,
                fix="give queries and judgments of one collection",
            )
        return found


def open_collection(
    folder: str | Path | None = None,
    *,
    queries: str | Path | None = None,
    corpus: str | Path | None = None,
    qrels: str | Path | None = None,
    judged: bool = False,
) -> Collection:
    """Read a collection.

    Args:
        folder: A folder with `corpus`, `queries` and judgments, as BEIR lays them out; a bundled collection
            by name; or `irds:ID` for one of ir_datasets.
        queries: File of queries instead of the folder's.
        corpus: File of documents instead of the folder's.
        qrels: File of judgments; or the name of one in the folder's `qrels`, such as `test`.
        judged: Judgments are needed: those of the folder are looked for if `qrels` is not given.

    Raises:
        DataError: A file is not there or can't be read.
        ConfigError: Neither a folder nor files were given.
    """
    name = str(folder or "")
    if name.startswith("irds:"):
        return _of_ir_datasets(name, queries, corpus, qrels, judged=judged)
    if folder is not None:
        folder = _folder(folder)
    elif queries is None or corpus is None:
        raise ConfigError(
            "there are no queries, or no corpus", fix="give --collection, or --queries and --corpus"
        )
    queries = queries or find_file(folder or "", "queries")
    corpus = corpus or find_file(folder or "", "corpus")
    judgments = find_qrels(folder, qrels) if qrels is not None or judged else None
    read = read_qrels(judgments) if judgments else None
    return Collection(
        read_queries(queries),
        Corpus(corpus),
        name or f"{queries}, {corpus}",
        read.qrels if read else None,
        repeated_judgments=read.repeated if read else 0,
    )


def find_qrels(folder: str | Path | None, name: str | Path | None = None) -> Path:
    """The file of judgments: `name` itself, that name in the folder's `qrels`, or else the only one there is.

    Raises:
        DataError: There is none, or several and no name.
    """
    if name is not None and Path(name).is_file():
        return Path(name)
    splits: list[Path] = []
    if folder is not None:
        folder = _folder(folder)
        splits = sorted(path for path in (folder / "qrels").glob("*") if path.is_file())
        splits += [path for path in (folder / each for each in QRELS_NAMES) if path.is_file()]
    named = [path for path in splits if name is None or path.name.split(".")[0] == str(name)]
    if len(named) == 1:
        return named[0]
    there = ", ".join(path.name for path in splits)
    if name is not None:
        raise DataError(
            "there is no such file of judgments",
            where=str(name),
            fix=f"use one of {there}" if there else "check the path",
        )
    if named:
        raise DataError(
            f"there are several files of judgments: {there}", where=str(folder), fix="name one with --qrels"
        )
    raise DataError(
        "there are no judgments", where=str(folder or "no folder given"), fix="give them with --qrels"
    )


def _folder(folder: str | Path) -> Path:
    """A folder, or that of a bundled collection."""
    path = Path(folder)
    if path.is_dir():
        return path
    from ..tasks.sources import bundled_folder  # and with it `datasets`

    bundled = bundled_folder()
    sets = sorted(each for each in (bundled / "ir").glob("*") if each.is_dir()) if bundled else []
    for each in sets:
        if str(path) == each.name:
            return each
    names = ", ".join(each.name for each in sets)
    raise DataError(
        "there is no such folder",
        where=str(folder),
        fix=f"check the path, or use a bundled collection: {names}" if names else "check the path",
    )


def _of_ir_datasets(
    name: str,
    queries: str | Path | None,
    corpus: str | Path | None,
    qrels: str | Path | None,
    *,
    judged: bool,
) -> Collection:
    from .ir_datasets import ir_collection

    if queries or corpus:
        raise ConfigError(f"{name} brings queries and corpus", fix="leave --queries and --corpus out")
    found = ir_collection(name.removeprefix("irds:"))
    if qrels is not None:
        read = read_qrels(qrels)
        return replace(found, qrels=read.qrels, repeated_judgments=read.repeated)
    if judged and found.qrels is None:
        raise DataError("there are no judgments", where=name, fix="give them with --qrels")
    return found if judged else replace(found, qrels=None)


def find_file(folder: str | Path, stem: str) -> Path:
    """The file of a BEIR folder that is called `corpus` or `queries`.

    Raises:
        DataError: There is none; names the suffixes that were looked for.
    """
    suffixes = [kind + packed for kind in (".jsonl", ".parquet", ".tsv", ".csv") for packed in ("", ".gz")]
    for suffix in suffixes:
        path = Path(folder) / f"{stem}{suffix}"
        if path.is_file():
            return path
    raise DataError(
        f"there is no {stem}", where=str(folder), fix=f"add {stem}.jsonl (or {', '.join(suffixes[1:])})"
    )


def _named_texts(path: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    for number, record in iter_records(path, header=("_id", "text"), known=ID_NAMES):
        name = first_of(record, ID_NAMES)
        place = f"{path}, line {number}"
        if name is None or "text" not in record:
            raise DataError(
                f"a line has no id or no text; its columns are {', '.join(record)}",
                where=place,
                fix='use {"_id": ..., "text": ...}',
            )
        value: Any = record[name]
        yield number, (str(value), join_title(record.get("title"), text_of(record, "text", place)))
