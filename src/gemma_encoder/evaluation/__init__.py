"""Judging scores: metrics, baselines, intervals."""

from __future__ import annotations

from .baseline import majority_baseline
from .intervals import mean_interval
from .metrics import METRICS, check_metrics, compute_metrics, higher_is_better

__all__ = [
    "METRICS",
    "check_metrics",
    "compute_metrics",
    "higher_is_better",
    "majority_baseline",
    "mean_interval",
]
