"""Runs and judgments."""

from collections.abc import Mapping


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """In trec_eval's order: by score, of equal ones by document id, both descending."""
    return sorted(scores.items(), key=lambda item: (item[1], item[0]), reverse=True)
