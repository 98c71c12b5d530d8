"""One run of several: candidates of more than one first stage, the scores of a teacher, a re-ranker beside
its first stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..errors import ConfigError, DataError
from .lists import CandidateList
from .runs import Run, ranked

RANK_OFFSET = 60


def reciprocal_rank_fusion(
    runs: Sequence[Mapping[str, Mapping[str, float]]], weights: Sequence[float] | None = None
) -> Run:
    """Sum 1 / (60 + rank) over the runs that have a document (Cormack et al. 2009, SIGIR).

    Looks at ranks alone, so runs whose scores have nothing in common can be fused.

    Args:
        runs: Query id to document id to score; a query is in the result if one of them has it.
        weights: How much each run counts; all alike if None.

    Raises:
        ConfigError: There is no run, or weights are not as they must be.
    """
    fused: Run = {}
    for run, weight in _weighted(runs, weights):
        for query, scores in run.items():
            of_query = fused.setdefault(query, {})
            for rank, (document, _) in enumerate(ranked(scores), start=1):
                of_query[document] = of_query.get(document, 0.0) + weight / (RANK_OFFSET + rank)
    return fused


def standard_score_fusion(
    runs: Sequence[Mapping[str, Mapping[str, float]]], weights: Sequence[float] | None = None
) -> Run:
    """Mean of the runs' standard scores: of each query mean 0 and standard deviation 1 in every run.

    Keeps how far documents are apart, so it is what a student learns from (`teach`). A document that a run
    lacks has the run's lowest score of that query; a run that lacks the query has no say in it.

    Args:
        runs: Query id to document id to score; a query is in the result if one of them has it.
        weights: How much each run counts; all alike if None.

    Raises:
        ConfigError: There is no run, or weights are not as they must be.
    """
    fused: Run = {}
    weighted = _weighted(runs, weights)
    for query in dict.fromkeys(query for run, _ in weighted for query in run):
        with_query = [(_standard(run[query]), weight) for run, weight in weighted if run.get(query)]
        documents = dict.fromkeys(document for scores, _ in with_query for document in scores)
        total = sum(weight for _, weight in with_query)
        fused[query] = dict.fromkeys(documents, 0.0)
        for scores, weight in with_query:
            lowest = min(scores.values())
            for document in documents:
                fused[query][document] += weight / total * scores.get(document, lowest)
    return fused


def teach(candidates: CandidateList, teacher: Mapping[str, Mapping[str, float]]) -> CandidateList:
    """A list with the teacher's scores as labels; a document that the teacher lacks has its lowest.

    Raises:
        DataError: The teacher lacks the query.
    """
    scores = teacher.get(candidates.query_id)
    if not scores:
        raise DataError(
            f"the teacher has no scores for query {candidates.query_id!r}",
            fix="give a run with that query, or leave the query out",
        )
    low = min(scores.values())
    return replace(candidates, labels=tuple(scores.get(name, low) for name in candidates.document_ids))


def _standard(scores: Mapping[str, float]) -> dict[str, float]:
    values = np.fromiter(scores.values(), np.float64, len(scores))
    spread = values.std() or 1.0
    return dict(zip(scores, ((values - values.mean()) / spread).tolist(), strict=True))


def _weighted(
    runs: Sequence[Mapping[str, Mapping[str, float]]], weights: Sequence[float] | None
) -> list[tuple[Mapping[str, Mapping[str, float]], float]]:
    """Each run with its weight.

    Raises:
        ConfigError: There is no run, there are not as many weights as runs, or one is not above 0.
    """
    if not runs:
        raise ConfigError("there is no run to fuse", fix="give at least one")
    weights = [1.0] * len(runs) if weights is None else weights
    if len(weights) != len(runs):
        raise ConfigError(f"there are {len(weights)} weights for {len(runs)} runs", fix="give each run one")
    for weight in weights:
        if not 0 < weight < math.inf:
            raise ConfigError(f"a weight is {weight:g}", fix="use numbers above 0")
    return list(zip(runs, weights, strict=True))
