"""LambdaLoss for nDCG."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError
from .lists import Reduction, grades, pairs, reduced, unpadded

LARGEST_GRADE = 120
"""Labels above have gains that float32, which ends below `2^128`, can't add up over a list."""
INSTEAD = "give grades of relevance, such as 0 to 4; for a teacher's scores use margin_mse or kl"
"""What to do about them."""


def lambda_loss(scores: Tensor, labels: Tensor, mask: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Logistic loss of pairs by their weight in nDCG, `sum w_ij log(1 + exp(s_j - s_i))` for `y_i > y_j`.

    nDCG-Loss2 of Wang et al. 2018, "The LambdaLoss framework for ranking metric optimization":
    `w_ij = |G_i - G_j| (1/log2(1 + d) - 1/log2(2 + d))` with `G = (2^y - 1) / ideal DCG` and `d` the
    difference of the two ranks by score. For nDCG with graded labels, where the top of the list matters most.

    Each list is the sum of its pairs, as in the paper (which takes the logarithm to base 2). Gains are over
    the ideal DCG and discounts add up to 1 at most on either side of a document, so long lists weigh a few
    times what short ones do, much as in the softmax loss; in a mean over the pairs they would vanish.

    Documents with the same score are ranked the least relevant first, so that their places in the list
    don't matter. Weights have no gradient.

    A list whose labels are all equal has a loss of 0.

    Args:
        scores: `[lists, docs]`.
        labels: Relevance of each document, `[lists, docs]`; 0 and below is not relevant.
        mask: Where there is a document, bool `[lists, docs]`.
        reduction: Mean or sum over the lists.

    Raises:
        DataError: A label is above `LARGEST_GRADE`.
    """
    scores, labels = unpadded(scores, labels, mask)
    labels = grades(labels)
    if (labels > LARGEST_GRADE).any():
        raise DataError(
            f"the lambda loss takes 2^label as gain, which overflows: a label is {labels.max().item():g}",
            fix=INSTEAD,
        )
    (s_i, s_j), (y_i, y_j), (mask_i, mask_j) = pairs(scores), pairs(labels), pairs(mask)
    terms = _weights(scores, labels, mask) * -F.logsigmoid(s_i - s_j)
    per_list = terms.masked_fill(~((y_i > y_j) & mask_i & mask_j), 0.0).flatten(1).sum(dim=1)
    return reduced(per_list, reduction)


def _weights(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """How much each pair matters for nDCG at the present ranks, `[lists, docs, docs]`."""
    gains = torch.exp2(labels) - 1  # 0 where there is no document
    places = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    ideal = (gains.sort(dim=1, descending=True).values / (1 + places).log2()).sum(dim=1)
    gain_i, gain_j = pairs(gains / ideal.where(ideal > 0, 1.0)[:, None])
    rank_i, rank_j = pairs(_ranks(scores, labels, mask))
    apart = (rank_i - rank_j).abs().clamp(min=1).to(scores.dtype)  # 0 is a document and itself: no pair
    return (gain_i - gain_j).abs() * (1 / (1 + apart).log2() - 1 / (2 + apart).log2())


def _ranks(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Ranks from 0 by score, ties the least relevant first, and what is no document behind all that are."""
    order = labels.argsort(dim=1, stable=True)
    by_score = scores.masked_fill(~mask, -torch.inf).gather(1, order)
    return order.gather(1, by_score.argsort(dim=1, descending=True, stable=True)).argsort(dim=1)
