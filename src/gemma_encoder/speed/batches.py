"""Rows in padded batches, sorted by length, of the fastest size: how the other programs are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from transformers import AutoTokenizer

from ..checkpoint import saved_config
from ..scoring import Row
from ..text import TextTokenizer
from .clock import seconds

Scorer = Callable[[Sequence[Row]], np.ndarray]
"""Rows to scores `[N, num_labels]`, tokenisation included."""

SizedScorer = Callable[[int, Sequence[Row]], np.ndarray]
"""The same in batches of so many rows."""

BATCH_SIZES = (4, 8, 16, 32, 64)


class Tuned:
    """Scores in batches of the fastest of `BATCH_SIZES` for the rows that are given first.

    Attributes:
        batch_size: Rows of a batch; None until that is known.
    """

    def __init__(self, score: SizedScorer, device: str, batch_size: int | None = None) -> None:
        self.score, self.device, self.batch_size = score, device, batch_size

    def __call__(self, rows: Sequence[Row]) -> np.ndarray:
        """Scores of rows, `[N, num_labels]`."""
        if self.batch_size is None:
            self.score(BATCH_SIZES[0], rows[: BATCH_SIZES[0]])  # what only the first call takes
            taken = {size: seconds(partial(self.score, size, rows), self.device) for size in BATCH_SIZES}
            self.batch_size = min(taken, key=lambda size: taken[size])
        return self.score(self.batch_size, rows)


def sorted_batches(folder: str, run: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> SizedScorer:
    """Score by a function of a batch: token ids and mask, int64 `[B, S]`, to scores `[B, num_labels]`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = TextTokenizer(tokenizer, saved_config(folder).text)

    def score(size: int, rows: Sequence[Row]) -> np.ndarray:
        ids = text.encode(rows).input_ids
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        parts = []
        for start in range(0, len(order), size):
            batch = [ids[row] for row in order[start : start + size]]
            parts.append(run(*_padded(batch, int(tokenizer.pad_token_id or 0))))
        return np.concatenate(parts)[np.argsort(order)]

    return score


def _padded(ids: Sequence[Sequence[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, padded on the right."""
    lengths = np.array([len(row) for row in ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.full(mask.shape, pad, dtype=np.int64)
    tokens[mask] = np.concatenate([np.asarray(row, dtype=np.int64) for row in ids])
    return tokens, mask.astype(np.int64)
