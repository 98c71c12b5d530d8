"""Losses by problem type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, get_args

from torch import Tensor

from ..errors import ConfigError
from .classification import binary_cross_entropy, cross_entropy
from .ranking import softmax_cross_entropy, to_lists
from .regression import squared_error

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression", "ranking"]
Reduction = Literal["mean", "sum"]


class Loss(Protocol):
    """Scores `[B, num_labels]` and labels to one number: mean or sum over the rows (ranking: the lists).

    `lists` says which list each row belongs to, int `[B]`; only ranking looks at it.
    """

    def __call__(
        self, logits: Tensor, labels: Tensor, reduction: Reduction = "mean", lists: Tensor | None = None
    ) -> Tensor: ...


def _by_row(function: Callable[[Tensor, Tensor, Reduction], Tensor]) -> Loss:
    def loss(
        logits: Tensor, labels: Tensor, reduction: Reduction = "mean", lists: Tensor | None = None
    ) -> Tensor:
        return function(logits, labels, reduction)

    return loss


def _by_list(function: Callable[[Tensor, Tensor, Tensor, Reduction], Tensor]) -> Loss:
    def loss(
        logits: Tensor, labels: Tensor, reduction: Reduction = "mean", lists: Tensor | None = None
    ) -> Tensor:
        if lists is None:
            raise ConfigError(
                "A ranking loss compares the rows of a list", fix="say which list each row belongs to (lists)"
            )
        scores, mask = to_lists(logits.squeeze(1), lists)
        return function(scores, to_lists(labels.to(logits.dtype), lists)[0], mask, reduction)

    return loss


_LOSSES: dict[str, Loss] = {
    "single_label_classification": _by_row(cross_entropy),
    "multi_label_classification": _by_row(binary_cross_entropy),
    "regression": _by_row(squared_error),
    "ranking": _by_list(softmax_cross_entropy),
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
    "softmax_cross_entropy",
    "squared_error",
    "to_lists",
]
