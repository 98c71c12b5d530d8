"""Losses that bring a model's scores near to those of a teacher."""

from __future__ import annotations

from torch import Tensor

from .lists import Reduction, log_softmax, mean_where, pairs, reduced, unpadded


def margin_mse(scores: Tensor, labels: Tensor, mask: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Squared error of the score differences, `((s_i - s_j) - (t_i - t_j))^2`, mean over a list's pairs.

    Hofstätter et al. 2020 (arXiv 2010.02666), who take one pair of a relevant and an irrelevant document
    for each query; here all pairs of a list. For teachers whose scores have a scale worth keeping.

    Equal scores of a teacher are targets like others; a list of one document has no pair and a loss of 0.

    Args:
        scores: `[lists, docs]`.
        labels: Scores of the teacher, `[lists, docs]`.
        mask: Where there is a document, bool `[lists, docs]`.
        reduction: Mean or sum over the lists.
    """
    scores, labels = unpadded(scores, labels, mask)
    # The difference of differences is that of the errors, and a document and itself are no pair.
    (error_i, error_j), (mask_i, mask_j) = pairs(scores - labels), pairs(mask)
    pair = (mask_i & mask_j).triu(diagonal=1)
    return reduced(mean_where((error_i - error_j).square(), pair), reduction)


def kl_divergence(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor,
    reduction: Reduction = "mean",
    temperature: float = 1.0,
) -> Tensor:
    """Kullback-Leibler divergence of two softmaxes over a list, `T^2 sum_j p_j (log p_j - log q_j)`.

    `p = softmax(t / T)` is the teacher's and `q = softmax(s / T)` the model's; `T^2` keeps gradients of one
    size at any temperature (Hinton et al. 2015, arXiv 1503.02531). For teachers whose best documents matter
    most; the higher the temperature, the more the others do.

    Args:
        scores: `[lists, docs]`.
        labels: Scores of the teacher, `[lists, docs]`.
        mask: Where there is a document, bool `[lists, docs]`.
        reduction: Mean or sum over the lists.
        temperature: What both scores are divided by, above 0.
    """
    scores, labels = unpadded(scores, labels, mask)
    log_p, log_q = log_softmax(labels / temperature, mask), log_softmax(scores / temperature, mask)
    per_list = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    return reduced(temperature**2 * per_list, reduction)
