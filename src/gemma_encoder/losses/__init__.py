"""Losses by problem type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, get_args

from torch import Tensor

from ..errors import ConfigError
from .classification import binary_cross_entropy, cross_entropy
from .distillation import kl_divergence, margin_mse
from .lambda_loss import lambda_loss
from .listmle import list_mle
from .lists import Reduction, to_lists
from .pairwise import pairwise_logistic
from .pointwise import pointwise_cross_entropy
from .poly1 import poly1_softmax
from .regression import squared_error
from .softmax import softmax_cross_entropy

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression", "ranking"]
RankingLoss = Literal["pointwise", "pairwise", "softmax", "poly1", "listmle", "lambda", "margin_mse", "kl"]


class Loss(Protocol):
    """Scores `[B, num_labels]` and labels to one number: mean or sum over the rows (ranking: the lists).

    `lists` says which list each row belongs to, int `[B]`; only ranking looks at it.
    """

    def __call__(
        self, logits: Tensor, labels: Tensor, reduction: Reduction = "mean", lists: Tensor | None = None
    ) -> Tensor: ...


class ListLoss(Protocol):
    """Scores, labels and where there is a document, all `[lists, docs]`, to one number over the lists.

    A list that says nothing, such as one without documents, has a loss and a gradient of 0.
    """

    def __call__(
        self, scores: Tensor, labels: Tensor, mask: Tensor, reduction: Reduction = "mean"
    ) -> Tensor: ...


RANKING_LOSSES: dict[RankingLoss, ListLoss] = {
    "pointwise": pointwise_cross_entropy,
    "pairwise": pairwise_logistic,
    "softmax": softmax_cross_entropy,
    "poly1": poly1_softmax,
    "listmle": list_mle,
    "lambda": lambda_loss,
    "margin_mse": margin_mse,
    "kl": kl_divergence,
}


def _by_row(function: Callable[[Tensor, Tensor, Reduction], Tensor]) -> Loss:
    def loss(
        logits: Tensor, labels: Tensor, reduction: Reduction = "mean", lists: Tensor | None = None
    ) -> Tensor:
        return function(logits, labels, reduction)

    return loss


def _by_list(function: ListLoss) -> Loss:
    def loss(
        logits: Tensor, labels: Tensor, reduction: Reduction = "mean", lists: Tensor | None = None
    ) -> Tensor:
        if lists is None:
            raise ConfigError(
                "A ranking loss compares the rows of a list", fix="say which list each row belongs to (lists)"
            )
        scores, mask = to_lists(logits.squeeze(1), lists)
        # Labels in their own type: a teacher's scores would be rounded by bfloat16 logits.
        return function(scores, to_lists(labels, lists)[0], mask, reduction)

    return loss


_ROW_LOSSES: dict[str, Loss] = {
    "single_label_classification": _by_row(cross_entropy),
    "multi_label_classification": _by_row(binary_cross_entropy),
    "regression": _by_row(squared_error),
}


def loss_for(problem_type: ProblemType, ranking_loss: RankingLoss = "softmax") -> Loss:
    """The loss that trains a problem type.

    Args:
        problem_type: What the scores are for.
        ranking_loss: Which loss over lists, a key of `RANKING_LOSSES`; only ranking looks at it.

    Raises:
        ConfigError: Unknown problem type or ranking loss.
    """
    if problem_type not in get_args(ProblemType):
        raise ConfigError(
            f"problem_type is {problem_type!r}", fix=f"use one of {', '.join(get_args(ProblemType))}"
        )
    if ranking_loss not in RANKING_LOSSES:
        raise ConfigError(f"ranking_loss is {ranking_loss!r}", fix=f"use one of {', '.join(RANKING_LOSSES)}")
    if problem_type == "ranking":
        return _by_list(RANKING_LOSSES[ranking_loss])
    return _ROW_LOSSES[problem_type]


__all__ = [
    "RANKING_LOSSES",
    "ListLoss",
    "Loss",
    "ProblemType",
    "RankingLoss",
    "Reduction",
    "binary_cross_entropy",
    "cross_entropy",
    "loss_for",
    "squared_error",
    "to_lists",
]
