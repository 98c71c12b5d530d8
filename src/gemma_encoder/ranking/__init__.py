"""Ranking documents for queries: lists in files, first stage, re-ranking, runs, measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
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

_HOMES = {
    "DEFAULT_MEASURES": "measures",
    "Bm25Index": "first_stage",
    "Bm25Options": "first_stage",
    "Judgement": "measures",
    "Measured": "measures",
    "Qrels": "runs",
    "QrelsFile": "runs",
    "RankedDocument": "reranking",
    "Reranker": "reranking",
    "Run": "runs",
    "RunComparison": "measures",
    "RunFile": "runs",
    "bm25_index": "first_stage",
    "compare_runs": "measures",
    "gain_figure": "plots",
    "judge": "measures",
    "ranked": "runs",
    "read_qrels": "runs",
    "read_run": "runs",
    "write_run": "runs",
}

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
