"""Rows laid out by the list they belong to, and what losses over lists have in common."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum"]


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


def unpadded(scores: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and labels in float32 at least, and 0 where there is no document, whatever stood there."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return scores.to(dtype).masked_fill(~mask, 0.0), labels.to(dtype).masked_fill(~mask, 0.0)


def log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Log-softmax over the documents of each list `[lists, docs]`, 0 where there is none."""
    # A finite number, not -inf: a list without documents would be NaN. What it leaves would be masked, but
    # torch's anomaly detection stops at any NaN in the backward pass.
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).log_softmax(dim=1).masked_fill(~mask, 0.0)


def grades(labels: Tensor) -> Tensor:
    """How relevant each document is: labels, but no less than 0, which is not relevant at all.

    Below 0 (judges' "spam", -2 in TREC Web) a label would turn its term of a loss around, and the loss would
    fall without end as the document's score does.
    """
    return labels.clamp(min=0)


def shares(labels: Tensor) -> Tensor:
    """Grades that sum to 1 in each list `[lists, docs]`, or are all 0 if nothing is relevant."""
    graded = grades(labels)
    total = graded.sum(dim=1, keepdim=True)
    return graded / total.where(total > 0, 1.0)


def pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides of each pair (i, j) of a list's documents, `[lists, i, 1]` and `[lists, 1, j]`."""
    return values[:, :, None], values[:, None, :]


def mean_where(terms: Tensor, counted: Tensor) -> Tensor:
    """Mean of each list's terms `[lists, ...]` where they count, `[lists]`; 0 if none does."""
    total = terms.masked_fill(~counted, 0.0).flatten(1).sum(dim=1)
    return total / counted.flatten(1).sum(dim=1).clamp(min=1)


def reduced(per_list: Tensor, reduction: Reduction) -> Tensor:
    """Mean or sum over the lists."""
    return per_list.mean() if reduction == "mean" else per_list.sum()
