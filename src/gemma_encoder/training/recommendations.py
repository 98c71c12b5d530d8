"""Which attention and pooling for how many rows: `recommendations.yaml` has what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from ..attention import AttentionPolicy
from ..losses import ProblemType
from ..pooling import PoolingKind


@dataclass(frozen=True)
class Recommendation:
    """What `--attention auto` stands for.

    Attributes:
        attention: Who sees whom.
        pooling: How token states become one vector.
        why: What was measured, and where it is documented.
    """

    attention: AttentionPolicy
    pooling: PoolingKind
    why: str


def recommended(rows: int, problem_type: ProblemType = "single_label_classification") -> Recommendation:
    """The attention and pooling to begin with, by the evidence at hand (Gemma 3 270M).

    Args:
        rows: How many rows there are to train on; in ranking, lists.
        problem_type: What is learnt.
    """
    found = next(
        entry
        for entry in _table()
        if rows <= entry.get("up_to", rows) and problem_type == entry.get("problem_type", problem_type)
    )
    return Recommendation(found["attention"], found["pooling"], f"{found['evidence']} ({found['doc']})")


@cache
def _table() -> list[dict[str, Any]]:
    text = resources.files(__package__).joinpath("recommendations.yaml").read_text(encoding="utf-8")
    table: list[dict[str, Any]] = yaml.safe_load(text)
    return table
