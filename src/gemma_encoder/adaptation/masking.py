"""Which tokens of a document are hidden, and which state has to say what they were."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import ConfigError

Objective = Literal["mntp", "mlm"]
NO_TARGET = -100

_NAMED_MASK = ("<mask>", "[MASK]", "<|mask|>")
_RESERVED = re.compile(r"[<\[]\|?(unused|reserved|extra)[\w\-]*\|?[>\]]", re.IGNORECASE)
_LAST_RESORT = "_"


@dataclass(frozen=True)
class Masking:
    """How documents are masked.

    Attributes:
        objective: `mlm` asks the state at a masked place for the token; `mntp` (masked next-token prediction,
            LLM2Vec, arXiv 2404.05961) the state before it, as the decoder's head has always done.
        rate: Share of a document's tokens that are masked, special tokens not counted; one at least.
        token: Stands in their place.

    Raises:
        ConfigError: The objective is unknown, or the rate not between 0 and 1.
    """

    objective: Objective
    rate: float
    token: int

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise ConfigError(
                f"objective is {self.objective!r}", fix=f"use {' or '.join(get_args(Objective))}"
            )
        if not 0 < self.rate < 1:
            raise ConfigError(f"mask_rate is {self.rate}", fix="use a share above 0 and below 1")

    def places(self, ids: np.ndarray, special: frozenset[int]) -> np.ndarray:
        """Indices of the tokens that can be masked, and asked for, in a document `[L]`."""
        places = np.flatnonzero(~np.isin(ids, list(special)))
        if self.objective == "mntp":  # what has no token before it can't be predicted from there
            places = places[places > 0]
        return places

    def apply(
        self, ids: np.ndarray, special: frozenset[int], draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mask a document.

        Args:
            ids: Token ids `[L]`.
            special: Tokens that are never masked (BOS, EOS, ...).
            draw: Draws the places.

        Returns:
            The ids with masks, and what the state at each place has to say, `NO_TARGET` if nothing: `[L]`.
        """
        places = self.places(ids, special)
        masked, targets = ids.copy(), np.full(len(ids), NO_TARGET, dtype=np.int64)
        if len(places):
            count = max(1, round(self.rate * len(places)))
            chosen = draw.choice(places, size=count, replace=False)
            masked[chosen] = self.token
            targets[chosen - (self.objective == "mntp")] = ids[chosen]
        return masked, targets


def mask_token(tokenizer: PreTrainedTokenizerBase, wanted: str | None = None) -> int:
    """The token that stands for a masked one.

    Decoders are seldom trained with one. Taken is the tokenizer's mask token; else a token of that name; else
    one that its makers reserved and left unused; else `_`, as LLM2Vec does. The token's embedding is not
    changed, so nothing has to be restored afterwards.

    Args:
        tokenizer: The decoder's.
        wanted: A token to take instead.

    Raises:
        ConfigError: That is not one token of the vocabulary.
    """
    vocabulary = tokenizer.get_vocab()
    if wanted is not None:
        if wanted in vocabulary:
            return vocabulary[wanted]
        ids: Any = tokenizer(wanted, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ConfigError(f"mask_token {wanted!r} is {len(ids)} tokens", fix="name one token")
        return int(ids[0])
    if tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    named = [vocabulary[name] for name in _NAMED_MASK if name in vocabulary]
    reserved = [token for name, token in vocabulary.items() if _RESERVED.fullmatch(name)]
    if named or reserved:
        return named[0] if named else min(reserved)
    ids = tokenizer(_LAST_RESORT, add_special_tokens=False)["input_ids"]
    return int(ids[-1])


class MaskedDocuments(torch.utils.data.Dataset):
    """Documents in batches of about as many tokens, masked anew in every epoch; an item is a batch.

    In an epoch every document stands in one batch, in an order of the epoch's own. The same seed gives the
    same, so a run that goes on sees what it would have seen.

    Args:
        documents: Token ids `[L]` each.
        masking: How they are masked.
        special: Tokens that are never masked.
        batch_tokens: Least tokens of a batch on average; no document may be longer.
        seed: Of order and masks.
    """

    truncated = 0
    no_room = 0

    def __init__(
        self,
        documents: Sequence[np.ndarray],
        masking: Masking,
        special: frozenset[int],
        *,
        batch_tokens: int,
        seed: int,
    ) -> None:
        self.documents, self.masking, self.special, self.seed = documents, masking, special, seed
        lengths = np.array([len(document) for document in documents])
        if len(lengths) and lengths.max() > batch_tokens:
            raise ConfigError(
                f"batch_tokens is {batch_tokens}, and a document has {lengths.max()} tokens",
                fix="raise batch_tokens, or lower max_length",
            )
        self.lengths, self.batches = lengths, max(1, int(lengths.sum()) // batch_tokens)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Another order and other masks in each epoch, from 0."""
        self.epoch = epoch
        self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.documents))
        before = self.lengths[self.order].cumsum() - self.lengths[self.order]
        width = self.lengths.sum() / self.batches  # at least as long as any document, so no batch is empty
        self.batch_of = np.minimum(before // width, self.batches - 1).astype(int)

    @property
    def tokens(self) -> int:
        """Of all documents."""
        return int(self.lengths.sum())

    def fingerprint(self) -> str:
        """A text that differs for other documents or masks, however they are cut into batches."""
        hashed = hashlib.sha256(f"{self.masking} {sorted(self.special)} {self.seed}".encode())
        for document in self.documents:
            hashed.update(document.tobytes() + b"|")
        return hashed.hexdigest()[:16]

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        """The documents of a batch: `input_ids` and `labels` `[L]`, and `rows`, the document's number."""
        start, end = np.searchsorted(self.batch_of, [index, index + 1])
        found = []
        for number in self.order[start:end].tolist():
            draw = np.random.default_rng((self.seed, self.epoch, number))
            masked, targets = self.masking.apply(self.documents[number], self.special, draw)
            found.append({"input_ids": masked, "labels": targets, "rows": number})
        return found


class MaskedCollator:
    """Batches of masked documents, padded on the right.

    Args:
        pad_token_id: Fills padding; it is masked, so any token will do.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: Sequence[list[dict[str, Any]]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and `labels` `[B, S]`, `rows` and `lists` `[B]`, each document by
        itself."""
        rows = [row for item in items for row in item]

        def padded(tensors: list[Tensor], value: int) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

        ids = [torch.as_tensor(row["input_ids"], dtype=torch.int64) for row in rows]
        return {
            "input_ids": padded(ids, self.pad_token_id),
            "attention_mask": padded([torch.ones_like(each) for each in ids], 0),
            "labels": padded([torch.as_tensor(row["labels"]) for row in rows], NO_TARGET),
            "rows": torch.as_tensor([row["rows"] for row in rows]),
            "lists": torch.arange(len(rows)),
        }
