"""Default hyper-parameters per task; `docs/results/` says what was tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters that an option on the command line overrides.

    Attributes:
        learning_rate: Of the backbone.
        head_learning_rate: Of pooler and head, which start from random weights.
        num_train_epochs: Passes over the training rows.
        batch_size: Rows per optimiser step.
        dropout: Rate at all four sites.
        max_length: Most tokens of a text.
    """

    learning_rate: float = 5e-5
    head_learning_rate: float = 5e-4
    num_train_epochs: float = 3.0
    batch_size: int = 16
    dropout: float = 0.1
    max_length: int = 256


DEFAULT_RECIPE = Recipe()
"""For a user's own file. Not tuned: the values of the first SST-2 runs."""

RECIPES: dict[str, Recipe] = {}
"""Recipes of tasks that were tuned; the others use `DEFAULT_RECIPE`."""


def recipe_for(task: str) -> Recipe:
    """The recipe of a task."""
    return RECIPES.get(task, DEFAULT_RECIPE)
