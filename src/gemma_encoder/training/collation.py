"""Tokenised rows, lists of them, and batches of either."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from datasets import Dataset
from torch import Tensor

from ..encoder import Encoder
from ..tasks.base import CANDIDATE, GROUP, by_group

Item = dict[str, Any]


class TrainingItems(Protocol):
    """What training draws batches from: rows, or (in ranking) whole lists."""

    @property
    def truncated(self) -> int:
        """How many rows are known to be cut to the maximal length."""
        ...

    @property
    def no_room(self) -> int:
        """How many first texts of pairs (queries) are known to leave nothing of a second one."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item | list[Item]: ...

    def fingerprint(self) -> str:
        """A text that differs for other items."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Draw what is drawn anew in each epoch, from 0."""
        ...


class TokenizedRows(torch.utils.data.Dataset):
    """A split's rows as token ids, made once.

    Attributes:
        input_ids: Token ids of each row.
        labels: Labels of all rows, int64 `[N]`, or float64 `[N]` or `[N, num_labels]`.
        rows: Each row's number in its source, for messages.
        groups: Which rows are judged together, int64 `[N]`, or None.
        candidates: What each row stands for, or None.
        truncated: How many rows were cut to the maximal length.
        no_room: How many first texts of pairs left nothing of a second one.
    """

    def __init__(self, encoder: Encoder, rows: Dataset) -> None:
        texts: list[Any] = list(rows["text"])
        if "text_pair" in rows.column_names:
            texts = list(zip(texts, rows["text_pair"], strict=True))
        tokenized = encoder.tokenize(texts)
        self.input_ids = tokenized.input_ids
        self.truncated = sum(tokenized.truncated)
        self.no_room = len({row[0] for row, none in zip(texts, tokenized.no_room, strict=True) if none})
        kind = torch.int64 if encoder.config.problem_type == "single_label_classification" else torch.float64
        self.labels = torch.as_tensor(list(rows["label"]), dtype=kind)
        self.rows = list(rows["row"])
        columns = rows.column_names
        self.groups = torch.as_tensor(list(rows[GROUP])) if GROUP in columns else None
        self.candidates = list(rows[CANDIDATE]) if CANDIDATE in columns else None

    def together(self) -> dict[str, Any]:
        """Groups and candidates, as metrics take them."""
        return {
            "groups": None if self.groups is None else self.groups.numpy(),
            "candidates": self.candidates,
        }

    def in_lists(self) -> Lists:
        """The rows of a ranking task by the list they compete in."""
        assert self.groups is not None  # which every ranking task has
        return Lists(self, self.groups.tolist())

    def fingerprint(self) -> str:
        """A text that differs for other rows, labels or lists."""
        hashed = hashlib.sha256(self.labels.numpy().tobytes())
        if self.groups is not None:
            hashed.update(self.groups.numpy().tobytes())
        for ids in self.input_ids:
            hashed.update(torch.as_tensor(ids, dtype=torch.int32).numpy().tobytes() + b"|")
        return hashed.hexdigest()[:16]

    def set_epoch(self, epoch: int) -> None:
        """All rows are seen in every epoch."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> Item:
        return {"input_ids": self.input_ids[index], "labels": self.labels[index], "rows": self.rows[index]}


class Lists(torch.utils.data.Dataset):
    """Rows by the list they belong to: an item is a whole list.

    Args:
        rows: Items by their number.
        groups: The list of each.
    """

    def __init__(self, rows: Any, groups: Iterable[int]) -> None:
        self.rows, self.members = rows, by_group(groups)

    @property
    def truncated(self) -> int:
        """Of the rows."""
        return int(self.rows.truncated)

    @property
    def no_room(self) -> int:
        """Of the rows."""
        return int(self.rows.no_room)

    def fingerprint(self) -> str:
        """Of the rows."""
        return str(self.rows.fingerprint())

    def set_epoch(self, epoch: int) -> None:
        """All lists are seen whole in every epoch."""

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> list[Item]:
        return [self.rows[row] for row in self.members[index]]


class Collator:
    """Rows, or lists of them, to a batch, padded on the right.

    Args:
        pad_token_id: Fills padding; it is masked, so any token will do.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: Sequence[Item | list[Item]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` `[B, S]`, `labels` (int64 or float32) `[B, ...]`, `rows` `[B]`,
        `lists` `[B]`: the number of each row's item."""
        lists = [item if isinstance(item, list) else [item] for item in items]
        rows = [row for each in lists for row in each]
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
            "lists": torch.arange(len(lists)).repeat_interleave(
                torch.as_tensor([len(each) for each in lists])
            ),
        }
