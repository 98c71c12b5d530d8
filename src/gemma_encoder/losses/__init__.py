"""Losses by problem type."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from torch import Tensor

from ..errors import ConfigError
from .classification import binary_cross_entropy, cross_entropy
from .regression import squared_error

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
Reduction = Literal["mean", "sum"]


class Loss(Protocol):
    """Scores `[B, num_labels]` and labels to one number: mean or sum over the rows."""

    def __call__(self, logits: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor: ...


_LOSSES: dict[str, Loss] = {
    "single_label_classification": cross_entropy,
    "multi_label_classification": binary_cross_entropy,
    "regression": squared_error,
}


def loss_for(problem_type: ProblemType) -> Loss:
    """The loss that trains a problem type.

    Raises:
        ConfigError: Unknown problem type.
    """
    if problem_type not in _LOSSES:
        raise ConfigError(
            f"problem_type is {problem_type!r}", fix=f"use one of {', '.join(get_args(ProblemType))}"
        )
    return _LOSSES[problem_type]


__all__ = [
    "Loss",
    "ProblemType",
    "Reduction",
    "binary_cross_entropy",
    "cross_entropy",
    "loss_for",
    "squared_error",
]
