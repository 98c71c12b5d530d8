"""Losses over lists of candidates that compete: choices of a question, documents of a query."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def to_lists(values: Tensor, lists: Tensor) -> tuple[Tensor, Tensor]:
    """Lay rows out by the list they belong to.

    Args:
        values: `[N]`.
        lists: Which list each row belongs to, any int, `[N]`. Rows of a list need not be neighbours.

    Returns:
        `[L, D]`, lists in the order of their numbers, each row's candidates in their order and 0 behind them;
        and where there is a candidate, bool `[L, D]`.
    """
    numbers, counts = lists.unique(return_inverse=True, return_counts=True)[1:]
    order = numbers.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(lists), device=lists.device) - starts[numbers[order]]
    shape = len(counts), int(counts.max())
    mask = torch.zeros(shape, dtype=torch.bool, device=values.device)
    mask[numbers[order], place] = True
    laid_out = values.new_zeros(shape).index_put((numbers[order], place), values[order])
    return laid_out, mask


def softmax_cross_entropy(
    scores: Tensor, labels: Tensor, mask: Tensor, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Listwise softmax cross-entropy, `-sum_j y_j log softmax(s)_j` with labels that sum to 1 in each list.

    One of RankT5's losses (arXiv 2210.10634). A list in which nothing is relevant has a loss of 0: it says
    nothing of the order.

    Args:
        scores: `[lists, docs]`.
        labels: Relevance of each candidate, 0 or more, `[lists, docs]`.
        mask: Where there is a candidate, `[lists, docs]`.
        reduction: Mean or sum over the lists.
    """
    labels = labels.to(scores.dtype).masked_fill(~mask, 0.0)
    total = labels.sum(dim=1, keepdim=True)
    targets = labels / total.where(total > 0, 1.0)
    # A finite number, not -inf: a list without candidates would be NaN, and so would its gradient.
    lowest = torch.finfo(scores.dtype).min
    log_probabilities = scores.masked_fill(~mask, lowest).log_softmax(dim=1).masked_fill(~mask, 0.0)
    per_list = -(targets * log_probabilities).sum(dim=1)
    return per_list.mean() if reduction == "mean" else per_list.sum()
