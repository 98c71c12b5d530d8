"""Padded to packed and back, and how rows are cut into forward passes. Pure functions, no model.

The packed layout lays all real tokens of a batch in one row, text after text, without padding. Its offsets
(`cu_seqlens`) are what variable-length attention kernels read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .errors import ConfigError, DataError


@dataclass(frozen=True)
class PackedLayout:
    """Where every token of a padded batch `[B, S]` lies in the packed row of `T` tokens.

    Attributes:
        cu_seqlens: Offsets of the texts in the packed row, int32 `[B + 1]`, first 0, last `T`.
        position_ids: Position of every token within its own text, int64 `[T]`.
        indices: Position of every token in the flattened padded batch, int64 `[T]`.
        lengths: Real tokens of each text.
        padded_shape: `(B, S)` of the batch it came from.
    """

    cu_seqlens: Tensor
    position_ids: Tensor
    indices: Tensor
    lengths: tuple[int, ...]
    padded_shape: tuple[int, int]

    @property
    def tokens(self) -> int:
        """Tokens in the packed row, `T`."""
        return self.position_ids.numel()

    @property
    def max_length(self) -> int:
        """Length of the longest text."""
        return max(self.lengths)

    def filled(self, tokens: int) -> PackedLayout:
        """The same with texts of no meaning behind the others, so that the row has `tokens` tokens.

        They are no longer than the longest text, and have no place in the padded batch: `repad` takes the
        tokens before them.
        """
        more, longest = tokens - self.tokens, self.max_length
        if more == 0:
            return self
        lengths = [min(longest, more - start) for start in range(0, more, longest)]
        offsets = self.cu_seqlens.new_tensor(lengths).cumsum(0, dtype=self.cu_seqlens.dtype) + self.tokens
        positions = torch.arange(more, device=self.position_ids.device) % longest
        return replace(
            self,
            cu_seqlens=torch.cat([self.cu_seqlens, offsets]),
            position_ids=torch.cat([self.position_ids, positions]),
            lengths=(*self.lengths, *lengths),
        )

    def to(self, device: torch.device) -> PackedLayout:
        """The same on a device; see `moved`."""
        tensors = (self.cu_seqlens, self.position_ids, self.indices)
        offsets, positions, indices = (moved(each, device) for each in tensors)
        return replace(self, cu_seqlens=offsets, position_ids=positions, indices=indices)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. From the CPU to a GPU this doesn't wait for what the GPU has still to do."""
    if tensor.device == device:
        return tensor
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def rounded(tokens: int, parts: int) -> int:
    """The next of few numbers of tokens: at most one in `parts`, or 7 tokens, more.

    oneDNN compiles matrix products for each shape that it meets and keeps a thousand of them, a megabyte or
    more each.
    """
    step = max(8, 2 ** (tokens.bit_length() - 1) // parts)
    return -(-tokens // step) * step


def pack(attention_mask: Tensor) -> PackedLayout:
    """Read the layout off an attention mask `[B, S]` (non-zero = real token, padding on either side).

    Raises:
        DataError: A row has no real token, or padding between real tokens.
    """
    mask = attention_mask.bool()
    batch_size, padded_length = mask.shape
    indices = mask.flatten().nonzero().flatten()
    counts = mask.sum(dim=1)
    lengths = tuple(counts.tolist())
    if 0 in lengths:
        raise DataError(
            "A text has no token",
            where=f"row {lengths.index(0)} of the batch",
            fix="give every text a BOS or EOS token",
        )
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    positions = torch.arange(len(indices), device=mask.device) - offsets[:-1].repeat_interleave(
        counts, output_size=len(indices)
    )
    column = indices % padded_length
    starts = column[offsets[:-1]]
    gaps = (column[offsets[1:] - 1] - starts + 1) != counts
    if gaps.any():
        raise DataError(
            "The attention mask has padding between real tokens",
            where=f"row {int(gaps.nonzero()[0])} of the batch",
            fix="pad on the left or on the right only",
        )
    return PackedLayout(offsets.to(torch.int32), positions, indices, lengths, (batch_size, padded_length))


def aligned(attention_mask: Tensor, side: Literal["right", "left"]) -> Tensor:
    """Where in its row each place takes its token from so that all padding is on one side, int64 `[B, S]`.

    Tokens keep their order, and padding its own. Each row names every place once.
    """
    kept = attention_mask if side == "right" else 1 - attention_mask
    return kept.argsort(dim=1, descending=True, stable=True)


def unpad(padded: Tensor, layout: PackedLayout) -> Tensor:
    """Take the real tokens out of a padded `[B, S, ...]`, as `[T, ...]`."""
    return padded.flatten(0, 1)[layout.indices]


def repad(packed: Tensor, layout: PackedLayout) -> Tensor:
    """Put packed states `[T, ...]` back to where they stood in `[B, S, ...]`; padding is zero."""
    batch_size, padded_length = layout.padded_shape
    padded = packed.new_zeros((batch_size * padded_length, *packed.shape[1:]))
    padded = padded.index_copy(0, layout.indices, packed)
    return padded.unflatten(0, (batch_size, padded_length))


def plan_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut rows into forward passes of at most `max_tokens` tokens, longest rows first.

    Longest first, a pass that doesn't fit into memory fails at once and not after an hour; and rows of one
    pass are of similar length, so that the padded layout loses little too.

    Args:
        lengths: Tokens of each row.
        max_tokens: Most tokens in one pass. A row that is longer gets a pass of its own.

    Returns:
        Row indices of each pass. Every row stands in exactly one.
    """
    if max_tokens < 1:
        raise ConfigError(f"max_tokens is {max_tokens}", fix="give a number of tokens of at least 1")
    batches: list[list[int]] = []
    tokens = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or tokens + lengths[row] > max_tokens:
            batches.append([])
            tokens = 0
        batches[-1].append(row)
        tokens += lengths[row]
    return batches
