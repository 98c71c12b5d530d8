"""ListMLE."""

from __future__ import annotations

import torch
from torch import Tensor

from .lists import Reduction, mean_where, pairs, reduced, unpadded


def list_mle(scores: Tensor, labels: Tensor, mask: Tensor, reduction: Reduction = "mean") -> Tensor:
    """How unlikely the right order is, `-sum_i log(exp(s_i) / sum of exp(s_j) for j = i and all after it)`.

    The documents are drawn one after another by the softmax of those left (Plackett-Luce); Xia et al. 2008,
    "Listwise approach to learning to rank", who sum over the documents; here each list is their mean.
    For labels that are a whole order, with few ties.

    Documents with the same label are taken in the order of their places in the list, so among them it
    learns that order: with one relevant document and the rest in a retriever's order, the retriever's.
    A list whose labels are all equal says nothing of the order and has a loss of 0.

    Args:
        scores: `[lists, docs]`.
        labels: Relevance of each document, any numbers, `[lists, docs]`.
        mask: Where there is a document, bool `[lists, docs]`.
        reduction: Mean or sum over the lists.
    """
    scores, labels = unpadded(scores, labels, mask)
    (y_i, y_j), (mask_i, mask_j) = pairs(labels), pairs(mask)
    place = torch.arange(scores.shape[1], device=scores.device)
    left = (y_i > y_j) | ((y_i == y_j) & (place[:, None] <= place))
    # Not a sort and logcumsumexp: the gradient of the latter takes logarithms, and rounds.
    lowest = torch.finfo(scores.dtype).min  # finite, so that no gradient is NaN
    log_sum = scores[:, None, :].masked_fill(~(left & mask_j), lowest).logsumexp(dim=2)
    informative = ((y_i > y_j) & mask_i & mask_j).flatten(1).any(dim=1)
    return reduced(mean_where(log_sum - scores, mask & informative[:, None]), reduction)
