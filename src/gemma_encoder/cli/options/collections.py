"""Options of `rank`, `fuse` and `candidates`, and what `train` has in common with them: a collection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Bm25Settings:
    """How BM25 scores.

    Attributes:
        k1: How slowly more occurrences of a word stop counting.
        b: How much long documents are held back, 0 to 1.
        stemmer: A Snowball stemmer by name, such as english; none leaves words as they are.
    """

    k1: float = 0.9
    b: float = 0.4
    stemmer: str = "english"


@dataclass(frozen=True)
class CollectionOptions:
    """Queries, documents, and which of them compete.

    Attributes:
        collection: Folder with corpus, queries and judgments as BEIR lays them out; irds:ID for one of
            ir_datasets; or the bundled cranfield.
        queries: File of queries (id and text: JSONL, parquet, CSV, TSV); that of the collection if not given.
        corpus: File of documents; that of the collection if not given.
        qrels: File of judgments, or the name of one in the collection's folder qrels (train, test). Only
            queries with judgments are taken.
        run: TREC run with the candidates; several are fused by reciprocal rank.
        first_stage: Or find the candidates with BM25.
        first_stage_output: Where to write what BM25 found, a TREC run.
        index: Folder of BM25's index, used again while the corpus is the same; in the cache if not given.
        bm25: How BM25 scores.
        depth: The most candidates of a query.
        skip_missing: Leave out and count queries and documents that have no text, instead of stopping.
    """

    collection: str | None = None
    queries: str | None = None
    corpus: str | None = None
    qrels: str | None = None
    run: list[str] = field(default_factory=list)
    first_stage: Literal["bm25"] | None = None
    first_stage_output: str | None = None
    index: str | None = None
    bm25: Bm25Settings = field(default_factory=Bm25Settings)
    depth: int = 100
    skip_missing: bool = False


@dataclass(frozen=True)
class RankOptions:
    """What ranks what, and where to put it.

    Attributes:
        model: Folder of a trained encoder of pairs.
        output: The run to write, in TREC's six columns, packed if it ends in .gz. --out for short.
        lists: Or the candidates stand in a file, with the query and its documents in each record (JSONL,
            parquet).
        tag: Name of the run, its last column; the name of the model's folder if not given.
        resume: Go on after the queries that an interrupted run has ranked.
        overwrite: Replace an output that exists.
        dry_run: Read everything, print what would happen, write nothing.
    """

    model: str
    output: str
    lists: str | None = None
    tag: str | None = None
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class FuseOptions:
    """Which runs become one, and how.

    Attributes:
        run: The TREC runs, at least two.
        output: The run to write, in TREC's six columns, packed if it ends in .gz.
        by: Their scores, brought to mean 0 and standard deviation 1 for each query and averaged; or ranks,
            the sum of 1 / (60 + rank), for runs whose scores say little.
        weights: How much each run counts, in the order of --run; all alike if not given.
        tag: Name of the run, its last column.
        overwrite: Replace an output that exists.
    """

    run: list[str]
    output: str
    by: Literal["scores", "ranks"] = "scores"
    weights: list[str] = field(default_factory=list)
    tag: str = "fused"
    overwrite: bool = False


@dataclass(frozen=True)
class CandidatesOptions:
    """Where lists go, and what their labels are.

    Attributes:
        output: The lists to write, JSONL, packed if it ends in .gz.
        teachers: Runs whose scores become the labels, standardised for each query and averaged; judgments
            if not given.
        missing_positives: Put relevant documents that are no candidates behind them (add), or leave them out.
        overwrite: Replace an output that exists.
    """

    output: str
    teachers: list[str] = field(default_factory=list)
    missing_positives: Literal["add", "leave"] = "add"
    overwrite: bool = False
