"""Pairwise logistic loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .lists import Reduction, mean_where, pairs, reduced, unpadded


def pairwise_logistic(scores: Tensor, labels: Tensor, mask: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Logistic loss of each pair in the right order, `log(1 + exp(s_j - s_i))` for `y_i > y_j`.

    RankNet (Burges et al. 2005), the second of RankT5's losses (arXiv 2210.10634), which sums over the
    pairs; here each list is their mean. For graded labels and for lists with several relevant documents,
    where every pair matters as much, at the bottom of the list as at its top.

    A list whose labels are all equal has no such pair and a loss of 0.

    Args:
        scores: `[lists, docs]`.
        labels: Relevance of each document, any numbers, `[lists, docs]`.
        mask: Where there is a document, bool `[lists, docs]`.
        reduction: Mean or sum over the lists.
    """
    scores, labels = unpadded(scores, labels, mask)
    (s_i, s_j), (y_i, y_j), (mask_i, mask_j) = pairs(scores), pairs(labels), pairs(mask)
    return reduced(mean_where(-F.logsigmoid(s_i - s_j), (y_i > y_j) & mask_i & mask_j), reduction)
