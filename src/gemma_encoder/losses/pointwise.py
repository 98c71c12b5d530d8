"""Pointwise sigmoid cross-entropy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .lists import Reduction, mean_where, reduced, unpadded


def pointwise_cross_entropy(
    scores: Tensor, labels: Tensor, mask: Tensor, reduction: Reduction = "mean"
) -> Tensor:
    """Sigmoid cross-entropy of each document by itself, `-log σ(s)` if it is relevant, else `-log(1 - σ(s))`.

    RankT5's PointCE (arXiv 2210.10634), which sums over the documents; here each list is their mean.
    For scores that must mean the same for every query, such as a threshold on relevance. For the order
    alone, a loss that compares documents is usually better.

    A list in which nothing is relevant counts: it says that none of its documents is.

    Args:
        scores: `[lists, docs]`.
        labels: Relevance of each document, `[lists, docs]`; relevant is what is above 0.
        mask: Where there is a document, bool `[lists, docs]`.
        reduction: Mean or sum over the lists.
    """
    scores, labels = unpadded(scores, labels, mask)
    relevant = (labels > 0).to(scores.dtype)
    per_document = F.binary_cross_entropy_with_logits(scores, relevant, reduction="none")
    return reduced(mean_where(per_document, mask), reduction)
