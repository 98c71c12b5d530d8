"""Re-ranking pairs/s: this package against `sentence_transformers.CrossEncoder` on the same saved folder.

    python -m benchmarks.ranking_speed --collection FOLDER [--run RUN] [--folder TRAINED]

FOLDER is a collection as BEIR lays it out (`corpus.jsonl` and `queries.jsonl`, also with `.gz`), RUN a first
stage's run in TREC's six columns; without one the candidates are BM25's. In each round these four re-rank the
same queries, tokenisation included, ours by compiled layers as in a stream of some minutes:

    Reranker.rank_many      ours, all queries in one call
    Reranker.rank           ours, one query after another
    CrossEncoder.rank       theirs, one query after another
    CrossEncoder.predict    theirs, the pairs of all queries in one call, which sorts them together by length

The limit is the products of the linear layers alone, with the tokens that each pass of the first has. Memory
and start-up of both programs are in `benchmarks.scoring_speed`.

All scores are checked to agree before anything is timed, in float32 also the ten best of every query. A text
that stands in a list twice is left out of it, since we would score it once and CrossEncoder twice.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from gemma_encoder.decoders import Decoder
from gemma_encoder.errors import ConfigError
from gemma_encoder.packing import plan_batches
from gemma_encoder.ranking import Reranker, bm25_index, read_run
from gemma_encoder.ranking.collection import Corpus, find_file, read_queries
from gemma_encoder.ranking.learning import RANKING
from gemma_encoder.ranking.lists import CandidateList
from gemma_encoder.ranking.run_lists import RunLists
from gemma_encoder.speed.limit import Products
from gemma_encoder.speed.measuring import ScoresDifferError

from .common import Comparison, add_common_options, exit_status, parse, rates_of, report
from .cross_encoder import (
    add_cross_encoder_options,
    facts_of,
    folder_of,
    open_both,
    scores_agree,
    settings_of,
)

MANY, ONE = "Reranker.rank_many", "Reranker.rank"
THEIR_ONE, THEIR_MANY = "CrossEncoder.rank", "CrossEncoder.predict"
AGAINST = ((MANY, THEIR_ONE), (MANY, THEIR_MANY), (ONE, THEIR_ONE))
TOP = 10


def main(argv: Sequence[str] | None = None, *, decoder: Decoder | None = None) -> dict[str, Any]:
    """Run the benchmark; `decoder` replaces `--model`."""
    parser = argparse.ArgumentParser(
        prog="ranking_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    add_cross_encoder_options(parser)
    parser.add_argument("--collection", metavar="FOLDER", help="folder with corpus.jsonl and queries.jsonl")
    parser.add_argument(
        "--run", metavar="FILE", help="a first stage's run in TREC's columns; BM25 if left out"
    )
    parser.add_argument("--queries", type=int, default=4, help="queries of a round, drawn by --seed")
    parser.add_argument("--depth", type=int, default=100, help="candidates of a query")
    options = parse(parser, argv)
    if options.collection is None:
        parser.error(
            "there is nothing to re-rank: give --collection FOLDER, a collection as BEIR lays it out "
            "(corpus.jsonl and queries.jsonl, both with _id and text), and --run FILE if you have one"
        )

    lists, source, repeated = _lists(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder_of(options, decoder, RANKING, scratch)
        results: list[Any] = []
        try:
            for dtype in options.dtypes:
                results.append(_compare(folder, lists, dtype, options))
        finally:  # a run that is cut off leaves the precisions it has measured
            result = _reported(results, lists, source, repeated, options)
    return result


def _reported(
    results: Sequence[Any],
    lists: Sequence[CandidateList],
    source: str,
    repeated: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """What of each precision was measured, printed and written."""
    if not results:
        return {}
    encoder_facts, comparisons, differences = zip(*results, strict=True)
    counts = [len(each) for each in lists]
    of_each = f"{counts[0]}" if len({*counts}) == 1 else f"{min(counts)} to {max(counts)}"
    facts = {
        **encoder_facts[0],
        "data": f"{source}; {len(lists)} queries, {of_each} candidates each, {sum(counts)} pairs",
        "texts repeated in a list, left out": repeated,
        **settings_of(options, differences),
    }
    ordered = [each[number] for number in range(len(AGAINST)) for each in comparisons]
    return report("Re-ranking speed, packed against CrossEncoder", facts, ordered, options.out)


def _lists(options: argparse.Namespace) -> tuple[list[CandidateList], str, int]:
    """Queries drawn from the run, each text once in a list; what they are in words; how many repeated."""
    corpus = Corpus(find_file(options.collection, "corpus"))
    queries = read_queries(find_file(options.collection, "queries"))
    source = Path(options.collection).resolve().name
    if options.run is None:
        with tempfile.TemporaryDirectory() as index:
            run = bm25_index(index, corpus.items()).search(queries, options.depth)
        source = f"{source}, BM25"
    else:
        run = read_run(options.run).run
        source = f"{source}, {Path(options.run).name}"
    lists = RunLists(run, queries, corpus, depth=options.depth)
    places = random.Random(options.seed).sample(range(len(lists)), min(options.queries, len(lists)))
    drawn = [lists[place] for place in places]
    distinct = [_distinct(each) for each in drawn]
    return distinct, source, sum(map(len, drawn)) - sum(map(len, distinct))


def _distinct(candidates: CandidateList) -> CandidateList:
    """Without texts that stand further up."""
    places: dict[str, int] = {}
    for place, text in enumerate(candidates.documents):
        places.setdefault(text, place)
    return candidates.take(list(places.values()))


def _compare(
    folder: str, lists: list[CandidateList], dtype: str, options: argparse.Namespace
) -> tuple[dict[str, Any], list[Comparison], float]:
    ours, theirs = open_both(folder, dtype, options)
    reranker = Reranker(ours, max_tokens=options.max_tokens)
    if theirs.num_labels != 1:
        raise ConfigError(
            f"the model has {theirs.num_labels} labels; CrossEncoder.rank takes models with one",
            where=folder,
            fix="give the folder of a re-ranker with a single score",
        )
    contenders = _contenders(reranker, theirs, lists, options.batch_size)
    scores = {name: work() for name, work in contenders.items()}  # warms them up, too
    difference = max(scores_agree(scores[name], scores[THEIR_ONE], dtype) for name in (MANY, ONE, THEIR_MANY))
    if dtype == "float32":
        _same_best(scores[MANY], scores[THEIR_ONE], lists)

    pairs = [(each.query, text) for each in lists for text in each.documents]
    lengths = list(map(len, ours.tokenize(pairs).input_ids))
    passes = [sum(lengths[row] for row in rows) for rows in plan_batches(lengths, options.max_tokens)]
    products = Products(ours, passes)
    alone = {"products alone": products.stock, "products alone, fused": products.fused}
    rates = rates_of({**contenders, **alone}, len(pairs), "pairs/s", dtype, options)
    limit = max(median(rates[name]) for name in alone)
    also: dict[str, Callable[[float], float]] = {
        "% of the limit": lambda rate: 100 * rate / limit,
        "tokens/s": lambda rate: rate * sum(lengths) / len(lengths),
        "ms for 100 candidates": lambda rate: 100 * 1000 / rate,
    }
    comparisons = [Comparison(dtype, "pairs/s", (a, rates[a]), (b, rates[b]), also) for a, b in AGAINST]
    return facts_of(ours, theirs, lengths), comparisons, difference


def _contenders(
    ours: Reranker, theirs: CrossEncoder, lists: list[CandidateList], batch_size: int
) -> dict[str, Callable[[], np.ndarray]]:
    """The four calls; each gives the scores of all pairs, in the order of the lists."""
    queries, documents = [each.query for each in lists], [each.documents for each in lists]
    queried = list(zip(queries, documents, strict=True))
    pairs = [(each.query, text) for each in lists for text in each.documents]
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "activation_fn": torch.nn.Identity(),
        "show_progress_bar": False,
    }

    def many() -> np.ndarray:
        return _placed([(d.index, d.score) for d in ranked] for ranked in ours.rank_many(queries, documents))

    def one() -> np.ndarray:
        return _placed([(d.index, d.score) for d in ours.rank(query, texts)] for query, texts in queried)

    def their_one() -> np.ndarray:
        return _placed(
            [(d["corpus_id"], d["score"]) for d in theirs.rank(query, texts, **settings)]
            for query, texts in queried
        )

    def their_many() -> np.ndarray:
        return np.asarray(theirs.predict(pairs, **settings), dtype=np.float32)

    return {MANY: many, ONE: one, THEIR_ONE: their_one, THEIR_MANY: their_many}


def _placed(rankings: Iterable[Sequence[tuple[int, float]]]) -> np.ndarray:
    """Scores of rankings (place and score), back in the order of the places, one ranking behind the other."""
    return np.array([score for ranked in rankings for _, score in sorted(ranked)], np.float32)


def _same_best(ours: np.ndarray, theirs: np.ndarray, lists: Sequence[CandidateList]) -> None:
    """Refuse to compare what doesn't give every query the same `TOP` documents in the same order."""
    start = 0
    for each in lists:
        end = start + len(each)
        mine, other = (np.argsort(-scores[start:end], kind="stable")[:TOP] for scores in (ours, theirs))
        if not np.array_equal(mine, other):
            raise ScoresDifferError(
                f"query {each.query_id!r} has other {TOP} best documents: ours {mine.tolist()}, "
                f"CrossEncoder's {other.tolist()}"
            )
        start = end


if __name__ == "__main__":
    sys.exit(exit_status(main))
