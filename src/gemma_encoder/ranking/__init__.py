"""Ranking documents for queries: lists in files, first stage, re-ranking, runs, measures."""

from __future__ import annotations

from .first_stage import Bm25Index, Bm25Options, bm25_index
from .measures import DEFAULT_MEASURES, Judgement, Measured, RunComparison, compare_runs, judge
from .plots import gain_figure
from .reranking import RankedDocument, Reranker
from .runs import Qrels, QrelsFile, Run, RunFile, ranked, read_qrels, read_run, write_run

__all__ = [
    "DEFAULT_MEASURES",
    "Bm25Index",
    "Bm25Options",
    "Judgement",
    "Measured",
    "Qrels",
    "QrelsFile",
    "RankedDocument",
    "Reranker",
    "Run",
    "RunComparison",
    "RunFile",
    "bm25_index",
    "compare_runs",
    "gain_figure",
    "judge",
    "ranked",
    "read_qrels",
    "read_run",
    "write_run",
]
