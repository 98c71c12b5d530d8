"""Classification losses."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Softmax cross-entropy, `-log softmax(logits)[label]`, for one class per row.

    Args:
        logits: `[B, num_labels]`.
        labels: Class of each row, int `[B]`.
        reduction: Mean or sum over the rows.
    """
    return F.cross_entropy(logits, labels, reduction=reduction)


def binary_cross_entropy(
    logits: Tensor, labels: Tensor, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Sigmoid cross-entropy, averaged over the labels of a row, for any number of labels per row.

    Args:
        logits: `[B, num_labels]`.
        labels: 1 for each label a row has, else 0, `[B, num_labels]`.
        reduction: Mean or sum over the rows.
    """
    per_row = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(
        dim=1
    )
    return per_row.mean() if reduction == "mean" else per_row.sum()
