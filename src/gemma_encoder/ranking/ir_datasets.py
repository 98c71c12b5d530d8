"""Collections of the library ir_datasets, by their ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import DataError
from ..extras import library
from .collection import Collection
from .list_records import join_title
from .runs import Qrels, Run


class IrDocuments(Mapping[str, str]):
    """Texts of a data set by document id, looked up on disk as they are asked for.

    Args:
        dataset: What `ir_datasets.load` gave.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset, self._store = dataset, dataset.docs_store()

    def __getitem__(self, name: str) -> str:
        document: Any = self._store.get(name)
        title = getattr(document, "title", None)
        text: str = document.text if hasattr(document, "text") else document.default_text()
        return join_title(title, text)

    def __iter__(self) -> Iterator[str]:
        return (document.doc_id for document in self._dataset.docs_iter())

    def __len__(self) -> int:
        count: int | None = self._dataset.docs_count()  # None before the first look-up
        return sum(1 for _ in self) if count is None else count


def ir_collection(name: str) -> Collection:
    """Queries, documents, judgments and candidates of a data set such as `msmarco-passage/train`.

    The library fetches what isn't on the machine yet, and says how where it may not.

    Raises:
        DataError: There is no such data set, or it can't be had, or it lacks queries or documents.
        ConfigError: ir_datasets is not installed.
    """
    ir_datasets = library("ir_datasets", extra="irds")
    source = f"irds:{name}"
    try:
        dataset = ir_datasets.load(name)
    except KeyError:
        raise DataError(
            "ir_datasets has no such data set", where=source, fix="use an id of its catalogue"
        ) from None
    if not (dataset.has_docs() and dataset.has_queries()):
        raise DataError(
            "the data set has no documents or no queries", where=source, fix="use a part that has both"
        )
    try:
        queries = {query.query_id: query.default_text() for query in dataset.queries_iter()}
        documents = IrDocuments(dataset)
        qrels: Qrels = {}
        for judged in dataset.qrels_iter() if dataset.has_qrels() else ():
            qrels.setdefault(judged.query_id, {})[judged.doc_id] = judged.relevance
        run: Run = {}
        for scored in dataset.scoreddocs_iter() if dataset.has_scoreddocs() else ():
            run.setdefault(scored.query_id, {})[scored.doc_id] = scored.score
    except Exception as error:  # whatever a network, a licence that was not agreed to or a full disk raises
        raise DataError(
            f"the data set can't be had: {error}", where=source, fix="see the library's page of that data set"
        ) from error
    return Collection(queries, documents, source, qrels or None, run or None)
