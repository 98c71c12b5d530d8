"""Regression loss."""

from __future__ import annotations

from typing import Literal

from torch import Tensor


def squared_error(logits: Tensor, labels: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Squared error, averaged over the targets of a row.

    Args:
        logits: `[B, targets]`.
        labels: `[B]` for one target, or `[B, targets]`.
        reduction: Mean or sum over the rows.
    """
    per_row = (logits - labels.to(logits.dtype).view_as(logits)).square().mean(dim=1)
    return per_row.mean() if reduction == "mean" else per_row.sum()
