"""Tokenised rows and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from ..encoder import Encoder


class TokenizedRows(torch.utils.data.Dataset):
    """A split's rows as token ids, made once.

    Attributes:
        input_ids: Token ids of each row.
        labels: Labels of all rows, int64 `[N]`, or float64 `[N]` or `[N, num_labels]`.
        rows: Each row's number in its source, for messages.
        truncated: How many rows were cut to the maximal length.
    """

    def __init__(self, encoder: Encoder, rows: Dataset) -> None:
        texts: list[Any] = list(rows["text"])
        if "text_pair" in rows.column_names:
            texts = list(zip(texts, rows["text_pair"], strict=True))
        tokenized = encoder.tokenize(texts)
        self.input_ids = tokenized.input_ids
        self.truncated = sum(tokenized.truncated)
        kind = torch.int64 if encoder.config.problem_type == "single_label_classification" else torch.float64
        self.labels = torch.as_tensor(list(rows["label"]), dtype=kind)
        self.rows = list(rows["row"])

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.input_ids[index], "labels": self.labels[index], "rows": self.rows[index]}


class Collator:
    """Rows to a batch, padded on the right.

    Args:
        pad_token_id: Fills padding; it is masked, so any token will do.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` `[B, S]`, `labels` (int64 or float32) `[B, ...]`, `rows` `[B]`."""
        labels = torch.stack([row["labels"] for row in rows])
        tokens = [torch.as_tensor(row["input_ids"]) for row in rows]
        return {
            "input_ids": torch.nn.utils.rnn.pad_sequence(
                tokens, batch_first=True, padding_value=self.pad_token_id
            ),
            "attention_mask": torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(row) for row in tokens], batch_first=True, padding_value=0
            ),
            "labels": labels.float() if labels.is_floating_point() else labels,
            "rows": torch.as_tensor([row["rows"] for row in rows]),
        }
