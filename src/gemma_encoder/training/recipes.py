"""Default hyper-parameters per task; `docs/results/attention.md` says what was tried."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..dropout import DropoutConfig


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters that an option on the command line overrides.

    Attributes:
        learning_rate: Of the backbone.
        head_learning_rate: Of pooler and head, which start from random weights.
        num_train_epochs: Passes over the training rows.
        batch_size: Rows per optimiser step.
        dropout: Rates while training.
        max_length: Most tokens of a text.
    """

    learning_rate: float = 2e-5
    head_learning_rate: float = 2e-4
    num_train_epochs: float = 3.0
    batch_size: int = 16
    dropout: DropoutConfig = field(default_factory=lambda: DropoutConfig(feed_forward=0.1, head=0.1))
    max_length: int = 256


DEFAULT_RECIPE = Recipe()
"""The learning rate is the best of those tried with Gemma 3 270M on CoLA, SST-2, MRPC, STS-B and RTE, or
within 0.3 points of it. Epochs, batch size, length and dropout are customary and were not searched."""

RECIPES: dict[str, Recipe] = {}
"""Recipes of tasks for which other values were found better."""


def recipe_for(task: str) -> Recipe:
    """The recipe of a task."""
    return RECIPES.get(task, DEFAULT_RECIPE)
