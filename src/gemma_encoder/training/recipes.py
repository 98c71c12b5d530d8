"""Hyper-parameters of every task: `recipes.yaml` says which, and what was tried."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from ..dropout import DropoutConfig


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters that an option on the command line overrides.

    Attributes:
        learning_rate: Of the backbone.
        head_learning_rate: Of pooler and head, which start from random weights.
        num_train_epochs: Passes over the training rows.
        batch_size: Rows per optimiser step; of tasks with lists of candidates, lists.
        dropout: Rates while training.
        max_length: Most tokens of a text.
        tokens: Mean tokens of an official training row with Gemma 3's tokenizer; None for unknown rows.
    """

    learning_rate: float
    head_learning_rate: float
    num_train_epochs: float
    batch_size: int
    dropout: DropoutConfig
    max_length: int
    tokens: float | None = None


def recipe_for(task: str) -> Recipe:
    """The recipe of a task; that of any other rows for an unknown one."""
    known = _table()
    values = known["defaults"] | known["tasks"].get(task, {})
    return Recipe(**{**values, "dropout": DropoutConfig(**values["dropout"])})


@cache
def _table() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("recipes.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table
