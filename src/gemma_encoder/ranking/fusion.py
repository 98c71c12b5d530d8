"""One run of several: for candidates of more than one first stage, and for the scores of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..errors import ConfigError, DataError
from .lists import CandidateList
from .runs import Run, ranked

RANK_OFFSET = 60


def reciprocal_rank_fusion(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> Run:
    """Sum 1 / (60 + rank) over the runs that have a document (Cormack et al. 2009, SIGIR).

    Looks at ranks alone, so runs whose scores have nothing in common can be fused.

    Args:
        runs: Query id to document id to score; a query is in the result if one of them has it.

    Raises:
        ConfigError: There is no run.
    """
    fused: Run = {}
    for run in _some(runs):
        for query, scores in run.items():
            of_query = fused.setdefault(query, {})
            for rank, (document, _) in enumerate(ranked(scores), start=1):
                of_query[document] = of_query.get(document, 0.0) + 1 / (RANK_OFFSET + rank)
    return fused


def standard_score_fusion(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> Run:
    """Mean of the runs' standard scores: of each query mean 0 and standard deviation 1 in every run.

    Keeps how far documents are apart, so it is what a student learns from (`teach`). A document that a run
    lacks has the run's lowest score of that query; a run that lacks the query has no say in it.

    Args:
        runs: Query id to document id to score; a query is in the result if one of them has it.

    Raises:
        ConfigError: There is no run.
    """
    fused: Run = {}
    for query in dict.fromkeys(query for run in _some(runs) for query in run):
        scored = [_standard(run[query]) for run in runs if run.get(query)]
        documents = dict.fromkeys(document for scores in scored for document in scores)
        lowest = [min(scores.values()) for scores in scored]
        fused[query] = {
            document: float(
                np.mean([scores.get(document, low) for scores, low in zip(scored, lowest, strict=True)])
            )
            for document in documents
        }
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


def _some(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> Sequence[Mapping[str, Mapping[str, float]]]:
    if not runs:
        raise ConfigError("there is no run to fuse", fix="give at least one")
    return runs
