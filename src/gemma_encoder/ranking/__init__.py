"""Ranking: lists of documents for a query, from files to a re-ranked run."""

from .reranking import RankedDocument, Reranker

__all__ = ["RankedDocument", "Reranker"]
