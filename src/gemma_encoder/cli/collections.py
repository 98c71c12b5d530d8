"""What `rank`, `candidates` and `train` have in common: options of a collection to lists."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .common import check_writable, counted, note, refuse_changed
from .options import CollectionOptions

if TYPE_CHECKING:
    from ..ranking.collection import Collection
    from ..ranking.lists import Lists
    from ..ranking.run_lists import Gaps, MissingPositives, RunLists
    from ..ranking.runs import Run


def is_given(options: CollectionOptions) -> bool:
    """Whether candidates are to come from a collection."""
    return any((options.collection, options.queries, options.corpus, options.run, options.first_stage))


def refuse_collection(options: CollectionOptions, reason: str) -> None:
    """Raise ConfigError if an option of a collection is given where none is read."""
    refuse_changed(options, [field.name for field in fields(options)], reason)


def open_lists(
    options: CollectionOptions,
    *,
    judged: bool,
    missing_positives: MissingPositives = "leave",
    with_positives_only: bool = False,
) -> RunLists:
    """The candidates of a collection's queries; what is missing is told.

    Args:
        options: Where everything is.
        judged: Lists have labels from judgments.
        missing_positives: See `RunLists`.
        with_positives_only: See `RunLists`.

    Raises:
        ConfigError: Options contradict each other.
        DataError: A file can't be read, or a text is missing and `skip_missing` was not given.
    """
    from ..ranking.collection import open_collection
    from ..ranking.run_lists import RunLists

    _check(options)
    collection = open_collection(
        options.collection,
        queries=options.queries,
        corpus=options.corpus,
        qrels=options.qrels,
        judged=judged,
    )
    run = _run(options, collection)
    queries = collection.judged_queries()
    kept = run if collection.qrels is None else {name: run[name] for name in run if name in queries}
    lists = RunLists(
        kept,
        collection.queries,
        collection.corpus,
        collection.qrels if judged else None,
        depth=options.depth,
        missing_positives=missing_positives,
        with_positives_only=with_positives_only,
        strict=not options.skip_missing,
        source=f"{collection.source}, {_candidates(options)}",
    )
    _count(lists.gaps, collection, queries, run)
    _tell(lists.gaps, collection, added=missing_positives == "add")
    return lists


def open_list_files(names: Sequence[str]) -> Lists:
    """Lists of files and of the hub; empty documents among them are told.

    Raises:
        DataError: They can't be read.
    """
    from ..ranking.learning import load_lists
    from ..ranking.lists import CandidateLists

    lists = load_lists(names)
    for part in lists.parts:
        if isinstance(part, CandidateLists) and (empty := part.empty_documents()):
            note(f"{part.source}: {counted(empty, 'document')} without a text")
    return lists


def _check(options: CollectionOptions) -> None:
    if options.run and options.first_stage:
        raise ConfigError(
            "--run and --first_stage both say where candidates come from", fix="give one of them"
        )
    if not options.first_stage:
        refuse_changed(options, ("first_stage_output", "index", "bm25"), "it is for --first_stage bm25")
    elif options.first_stage_output:
        check_writable(options.first_stage_output, "--first_stage_output")


def _candidates(options: CollectionOptions) -> str:
    return ", ".join(map(str, options.run)) or options.first_stage or "its own run"


def _run(options: CollectionOptions, collection: Collection) -> Run:
    from ..ranking.fusion import reciprocal_rank_fusion

    if options.run:
        runs = read_runs(options.run)
        return runs[0] if len(runs) == 1 else reciprocal_rank_fusion(runs)
    if options.first_stage:
        return _bm25(options, collection)
    if collection.run is None:
        raise ConfigError(
            "nothing says which documents compete for a query", fix="give --run FILE, or --first_stage bm25"
        )
    return collection.run


def read_runs(paths: Sequence[str]) -> list[Run]:
    """Runs of files; lines that say something twice are told."""
    from ..ranking.runs import read_run

    found = []
    for path in paths:
        read = read_run(path)
        if read.repeated:
            note(f"{path}: {counted(read.repeated, 'repeated line')} passed over")
        found.append(read.run)
    return found


def _bm25(options: CollectionOptions, collection: Collection) -> Run:
    from ..ranking.first_stage import Bm25Options, bm25_index
    from ..ranking.runs import write_run

    settings = asdict(options.bm25)
    if settings["stemmer"] == "none":
        settings["stemmer"] = None
    folder = Path(options.index) if options.index else _index_folder(collection)
    index = bm25_index(folder, collection.corpus.items(), Bm25Options(**settings), rebuild=True)
    run = index.search(collection.judged_queries(), top_k=options.depth)
    if options.first_stage_output:
        write_run(options.first_stage_output, run, "bm25")
        note(f"BM25's run is in {options.first_stage_output}")
    return run


def _index_folder(collection: Collection) -> Path:
    from ..decoders import cache_folder

    place = (
        collection.source
        if collection.source.startswith("irds:")
        else str(Path(collection.source).absolute())
    )
    return cache_folder() / "bm25" / hashlib.sha256(place.encode()).hexdigest()[:16]


def _count(gaps: Gaps, collection: Collection, queries: Mapping[str, str], run: Run) -> None:
    """Add what is left out before there are lists."""
    from ..ranking.collection import Corpus

    gaps.queries_without_candidates += sum(not run.get(name) for name in queries)
    if collection.qrels is None:
        return
    gaps.queries_without_judgments = sum(name not in collection.qrels for name in run)
    gaps.judged_queries_without_text = sum(name not in collection.queries for name in collection.qrels)
    if isinstance(collection.corpus, Corpus):  # ir_datasets would look each up on disk
        gaps.judgments_without_text = sum(
            document not in collection.corpus for name in queries for document in collection.qrels[name]
        )


def _tell(gaps: Gaps, collection: Collection, *, added: bool) -> None:
    added_count = gaps.missing_positives - gaps.positives_without_text
    counts = {
        "repeated lines of judgments passed over": collection.repeated_judgments,
        "documents of the corpus are empty": getattr(collection.corpus, "empty", 0),
        "queries without text left out": gaps.queries_without_text,
        "judged queries without text left out": gaps.judged_queries_without_text,
        "queries of the run without judgments left out": gaps.queries_without_judgments,
        "queries without candidates": gaps.queries_without_candidates,
        "candidates without text left out": gaps.documents_without_text,
        "judgments of documents without text": gaps.judgments_without_text,
        "queries without a relevant candidate": gaps.queries_without_positive,
        "relevant documents were no candidates and were added": added_count if added else 0,
        "relevant documents have no text": gaps.positives_without_text if added else 0,
    }
    told = [f"{count:,} {what}" for what, count in counts.items() if count]
    if told:
        note("; ".join(told))
