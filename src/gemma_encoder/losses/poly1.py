"""Poly-1 softmax loss."""

from __future__ import annotations

from torch import Tensor

from .lists import Reduction, log_softmax, reduced, shares, unpadded


def poly1_softmax(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor,
    reduction: Reduction = "mean",
    epsilon: float = 1.0,
) -> Tensor:
    """Softmax cross-entropy and its first term once more, `sum_j y_j (-log p_j + epsilon (1 - p_j))`.

    `p` is the softmax of a list's scores, and its labels sum to 1. PolyLoss (arXiv 2204.12511), the fourth
    of RankT5's losses (arXiv 2210.10634), which leaves the labels as they are. For what the softmax loss is
    for; it presses harder on relevant documents that already have a good part of the softmax.

    A list in which nothing is relevant has a loss of 0.

    Args:
        scores: `[lists, docs]`.
        labels: Relevance of each document, `[lists, docs]`; 0 and below is not relevant.
        mask: Where there is a document, bool `[lists, docs]`.
        reduction: Mean or sum over the lists.
        epsilon: How much the first term weighs besides its part in the cross-entropy; 0 is the softmax loss.
    """
    scores, labels = unpadded(scores, labels, mask)
    log_p = log_softmax(scores, mask)
    # -expm1, not 1 - exp: precise where p is nearly 1, as it is late in training.
    per_list = (shares(labels) * (-log_p - epsilon * log_p.expm1())).sum(dim=1)
    return reduced(per_list, reduction)
