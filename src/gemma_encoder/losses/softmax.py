"""Listwise softmax cross-entropy."""

from __future__ import annotations

from torch import Tensor

from .lists import Reduction, log_softmax, reduced, shares, unpadded


def softmax_cross_entropy(
    scores: Tensor, labels: Tensor, mask: Tensor, reduction: Reduction = "mean"
) -> Tensor:
    """Listwise softmax cross-entropy, `-sum_j y_j log softmax(s)_j` with labels that sum to 1 in each list.

    The third of RankT5's losses (arXiv 2210.10634), which leaves the labels as they are: there a list with
    two relevant documents weighs twice as much. The one to start with, and the best with one relevant
    document among many.

    A list in which nothing is relevant has a loss of 0: it says nothing of the order.

    Args:
        scores: `[lists, docs]`.
        labels: Relevance of each document, `[lists, docs]`; 0 and below is not relevant.
        mask: Where there is a document, bool `[lists, docs]`.
        reduction: Mean or sum over the lists.
    """
    scores, labels = unpadded(scores, labels, mask)
    return reduced(-(shares(labels) * log_softmax(scores, mask)).sum(dim=1), reduction)
