"""A run without any training: candidates in the order of their vectors' cosine with the query's.

    python -m benchmarks.cosine_ranking --collection cranfield --run bm25.trec --out cosine.trec

Query and documents are encoded each by itself, by a decoder as it was pretrained: the mean (or last) of its
token states is the vector. This is what a trained re-ranker has to beat besides its first stage.
`gemma-encoder evaluate` judges the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from gemma_encoder import Encoder, PoolingConfig, TextConfig
from gemma_encoder.decoders import Decoder
from gemma_encoder.ranking import Run, read_run, write_run
from gemma_encoder.ranking.collection import open_collection
from gemma_encoder.ranking.lists import CandidateList
from gemma_encoder.ranking.run_lists import RunLists
from gemma_encoder.scoring import pool_token_ids

from .common import exit_status

MAX_TOKENS = 4096  # of one forward pass; never changes a vector


def main(argv: Sequence[str] | None = None, *, decoder: Decoder | None = None) -> None:
    """Write the run; `decoder` replaces `--model`."""
    parser = argparse.ArgumentParser(
        prog="cosine_ranking", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gemma-3-270m", help="decoder: name, folder, .gguf file or hub id")
    parser.add_argument("--collection", required=True, help="folder as BEIR lays it out, or cranfield")
    parser.add_argument("--run", required=True, help="a first stage's run in TREC's columns")
    parser.add_argument("--depth", type=int, default=100, help="candidates of a query")
    parser.add_argument("--attention", choices=["causal", "bidirectional"], default="causal")
    parser.add_argument("--pooling", choices=["mean", "last_k"], default="mean")
    parser.add_argument("--max-length", type=int, default=512, help="most tokens of a text")
    parser.add_argument(
        "--center",
        action="store_true",
        help="subtract the candidates' mean vector: a decoder's states all point much the same way",
    )
    parser.add_argument("--out", required=True, help="write the run to this file")
    options = parser.parse_args(argv)

    collection = open_collection(options.collection)
    run = read_run(options.run).run
    lists = RunLists(run, collection.queries, collection.corpus, depth=options.depth)
    encoder = Encoder.from_decoder(
        options.model if decoder is None else decoder,
        attention=options.attention,
        pooling=PoolingConfig(options.pooling),
        text=TextConfig(max_length=options.max_length),
    )
    write_run(options.out, rank(encoder, list(lists), center=options.center), "cosine")


def rank(encoder: Encoder, lists: Sequence[CandidateList], *, center: bool = False) -> Run:
    """The cosine of each query's candidates with it, by query and document id.

    Args:
        encoder: One of single texts.
        lists: The candidates of each query.
        center: Subtract the mean of all candidates' vectors from every vector first.
    """
    texts = dict.fromkeys(text for each in lists for text in each.documents)
    places = {text: place for place, text in enumerate(texts)}
    of_documents = vectors(encoder, list(texts))
    of_queries = vectors(encoder, [each.query for each in lists])
    if center:
        mean = of_documents.mean(axis=0)
        of_documents, of_queries = of_documents - mean, of_queries - mean
    of_documents, of_queries = _normalised(of_documents), _normalised(of_queries)
    run: Run = {}
    for each, query in zip(lists, of_queries, strict=True):
        scores = of_documents[[places[text] for text in each.documents]] @ query
        run[each.query_id] = dict(zip(each.document_ids, scores.tolist(), strict=True))
    return run


def vectors(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Pooled vectors `[texts, D]`, float32."""
    return pool_token_ids(encoder, encoder.tokenize(texts).input_ids, MAX_TOKENS)


def _normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
