"""What computes packed attention, and which of them a forward pass takes.

`resolve_backend` chooses by device, precision and what the pass needs, and says why. Each back end is one
function of the same signature; `eager` is written out text by text and is the reference for the others.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import AttentionError, ConfigError
from .packing import PackedLayout

BackendName = Literal["sdpa", "eager", "matmul", "varlen", "flash_attn", "flex"]


# ------------------------------------------------------------------------------------------------ choosing


@dataclass(frozen=True)
class Backend:
    """The back end that computes packed attention, and why it was chosen."""

    name: BackendName
    reason: str


@dataclass(frozen=True)
class AttentionNeeds:
    """What a back end must be able to do for one forward pass.

    Attributes:
        device: `cpu`, `cuda`, ...
        dtype: Compute type of queries, keys and values (autocast's, if on).
        head_dim: Size of one attention head.
        softcap: Whether scores are soft-capped (Gemma 2).
        dropout: Whether attention probabilities are dropped out in this pass.
        gradients: Whether this pass is differentiated.
        longest: Tokens of the longest text.
    """

    device: str
    dtype: torch.dtype
    head_dim: int
    softcap: bool
    dropout: bool
    gradients: bool
    longest: int


MATMUL_TOKENS = 512
"""Longest text that a CPU takes `matmul` for: it keeps all probabilities, which grow with the square."""


@cache
def _flash_capable() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def _objection(name: BackendName, needs: AttentionNeeds) -> str | None:
    """Why a back end can't do what is needed, or None if it can."""
    if name in ("eager", "matmul"):
        return None
    if name == "sdpa":
        return "SDPA has no soft-cap" if needs.softcap else None
    if name == "flex":
        if needs.dropout:
            return "FlexAttention has no dropout"
        return "FlexAttention has no backward on CPU" if needs.device == "cpu" and needs.gradients else None
    if needs.device != "cuda" or not _flash_capable():
        return f"{name} needs a CUDA device of compute capability 8.0 or newer"
    if needs.dtype not in (torch.float16, torch.bfloat16):
        return f"{name} needs float16 or bfloat16, not {str(needs.dtype).removeprefix('torch.')}"
    if needs.head_dim > 256:
        return f"{name} supports heads of at most 256, not {needs.head_dim}"
    if name == "flash_attn":
        return None if importlib.util.find_spec("flash_attn") else "the flash-attn package is not installed"
    if needs.softcap:
        return "varlen has no soft-cap"
    return "varlen has no dropout" if needs.dropout else None


def check_backend_name(requested: str) -> None:
    """Refuse an unknown back end.

    Raises:
        ConfigError: It is neither a back end nor `auto`.
    """
    names = get_args(BackendName)
    if requested != "auto" and requested not in names:
        raise ConfigError(f"attention back end is {requested!r}", fix=f"use auto, {', '.join(names)}")


def resolve_backend(needs: AttentionNeeds, requested: BackendName | Literal["auto"] = "auto") -> Backend:
    """Choose the back end for packed attention.

    Args:
        needs: What one forward pass asks for.
        requested: A back end to insist on, or `auto`: the fastest one that can do everything needed.

    Raises:
        AttentionError: The requested back end can't do what is needed. Nothing is dropped silently.
        ConfigError: Unknown back end.
    """
    check_backend_name(requested)
    if requested != "auto":
        if objection := _objection(requested, needs):
            raise AttentionError(
                f"Back end {requested} can't be used: {objection}", fix="use the back end `auto`"
            )
        return Backend(requested, "asked for")
    preference: tuple[BackendName, ...]
    if needs.device == "cuda":
        preference = ("varlen", "flash_attn", "flex", "sdpa", "matmul")
    elif needs.longest <= MATMUL_TOKENS:
        preference = ("matmul",)
    else:
        preference = ("sdpa", "matmul")
    objections: list[str] = []
    for name in preference:
        objection = _objection(name, needs)
        if objection is None:
            return Backend(name, "; ".join(objections) or f"fastest on {needs.device}")
        objections.append(objection)
    raise AssertionError("matmul can do everything")


# --------------------------------------------------------------------------------------------- computing


@dataclass
class PackedContext:
    """What packed attention must know besides queries, keys and values; handed to the backbone as a keyword.

    Attributes:
        layout: Where each text lies.
        causal: The attention policy.
        backend: Back end to insist on, or `auto`.
        block_masks: FlexAttention masks of this batch by window, filled on first use.
    """

    layout: PackedLayout
    causal: bool
    backend: BackendName | Literal["auto"] = "auto"
    block_masks: dict[int | None, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreRule:
    """How attention scores become probabilities; the same in every layer of a kind."""

    causal: bool
    window: int | None
    scaling: float
    softcap: float | None
    dropout: float

    def reach(self) -> tuple[int, int]:
        """Tokens seen before and after; -1 = all."""
        if self.causal:
            return (-1 if self.window is None else self.window - 1), 0
        return (-1, -1) if self.window is None else (self.window, self.window)

    def allowed(self, length: int, device: torch.device) -> Tensor | None:
        """Which key `j` a query `i` of one text sees, bool `[length, length]`; None = all."""
        back, forward = self.reach()
        position = torch.arange(length, device=device)
        distance = position[:, None] - position[None, :]
        mask = None
        if 0 <= back < length - 1:
            mask = distance <= back
        if 0 <= forward < length - 1:
            ahead = -distance <= forward
            mask = ahead if mask is None else mask & ahead
        return mask

    def probabilities(self, products: Tensor, mask: Tensor | None) -> Tensor:
        """Products of queries and keys `[..., queries, keys]` to probabilities, dropped out at the rate.

        Softmax runs in float32. `mask` is bool `[queries, keys]`, True = seen; None = all.
        """
        weights = products * self.scaling
        if self.softcap is not None:
            weights = self.softcap * torch.tanh(weights / self.softcap)
        if mask is not None:
            weights = weights.masked_fill(~mask, float("-inf"))
        return F.dropout(weights.softmax(dim=-1, dtype=torch.float32).to(products.dtype), self.dropout)


def _per_text(
    query: Tensor, key: Tensor, value: Tensor, packed: PackedContext, attend: Callable[..., Tensor]
) -> Tensor:
    """Run `attend` on each text by itself and lay the results out as `[1, T, heads, head_dim]`."""
    lengths = packed.layout.lengths
    pieces = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    return torch.cat([attend(*piece) for piece in pieces], dim=2).transpose(1, 2)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, packed: PackedContext, scores: ScoreRule) -> Tensor:
    masks = {length: scores.allowed(length, query.device) for length in set(packed.layout.lengths)}

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=masks[query.shape[2]],
            dropout_p=scores.dropout,
            scale=scores.scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )

    return _per_text(query, key, value, packed, attend)


def _eager(query: Tensor, key: Tensor, value: Tensor, packed: PackedContext, scores: ScoreRule) -> Tensor:
    """Written out, with everything stock eager attention does; the reference for the others."""
    groups = query.shape[1] // key.shape[1]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        mask = scores.allowed(query.shape[2], query.device)
        return scores.probabilities(query @ key.transpose(2, 3), mask) @ value

    return _per_text(query, key, value, packed, attend)


def _matmul(query: Tensor, key: Tensor, value: Tensor, packed: PackedContext, scores: ScoreRule) -> Tensor:
    """As eager, in few large products: neighbours of the same length are a batch, and the query heads that
    share a key head are one matrix.
    """
    key_heads, groups = key.shape[1], query.shape[1] // key.shape[1]

    def by_text(states: Tensor, texts: int) -> Tensor:
        """`[1, heads, texts * tokens, D]` -> `[texts, key heads, tokens * heads of a key head, D]`."""
        split = states[0].unflatten(0, (key_heads, -1)).unflatten(2, (texts, -1))
        return split.permute(2, 0, 3, 1, 4).flatten(2, 3)

    def attend(length: int, texts: int, states: tuple[Tensor, ...]) -> Tensor:
        query, key, value = (by_text(each, texts) for each in states)
        mask = scores.allowed(length, query.device)
        if mask is not None:
            mask = mask.repeat_interleave(groups, dim=0)
        output = scores.probabilities(query @ key.transpose(2, 3), mask) @ value
        return output.unflatten(2, (length, groups)).transpose(1, 2).flatten(2, 3).flatten(0, 1)

    runs = [(length, len(list(run))) for length, run in itertools.groupby(packed.layout.lengths)]
    tokens = [length * texts for length, texts in runs]
    pieces = zip(*(states.split(tokens, dim=2) for states in (query, key, value)), strict=True)
    return torch.cat([attend(*run, piece) for run, piece in zip(runs, pieces, strict=True)]).unsqueeze(0)


def _varlen(query: Tensor, key: Tensor, value: Tensor, packed: PackedContext, scores: ScoreRule) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    layout = packed.layout
    query, key, value = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    output: Any = varlen_attn(
        query,
        key,
        value,
        layout.cu_seqlens,
        layout.cu_seqlens,
        layout.max_length,
        layout.max_length,
        scale=scores.scaling,
        window_size=scores.reach(),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.unsqueeze(0)


def _flash_attn(
    query: Tensor, key: Tensor, value: Tensor, packed: PackedContext, scores: ScoreRule
) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    layout = packed.layout
    output = flash_attn_varlen_func(
        *(states.squeeze(0).transpose(0, 1) for states in (query, key, value)),
        cu_seqlens_q=layout.cu_seqlens,
        cu_seqlens_k=layout.cu_seqlens,
        max_seqlen_q=layout.max_length,
        max_seqlen_k=layout.max_length,
        dropout_p=scores.dropout,
        softmax_scale=scores.scaling,
        causal=scores.causal,
        window_size=scores.reach(),
        softcap=scores.softcap or 0.0,
    )
    return output.unsqueeze(0)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def _flex(query: Tensor, key: Tensor, value: Tensor, packed: PackedContext, scores: ScoreRule) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    layout, on_cuda = packed.layout, query.device.type == "cuda"
    if scores.window not in packed.block_masks:
        counts = layout.cu_seqlens.diff()
        text = torch.arange(len(counts), device=query.device).repeat_interleave(
            counts, output_size=layout.tokens
        )
        back, forward = (layout.tokens if reach < 0 else reach for reach in scores.reach())

        def visible(batch: Tensor, head: Tensor, query_index: Tensor, key_index: Tensor) -> Tensor:
            distance = query_index - key_index
            return (text[query_index] == text[key_index]) & (distance <= back) & (-distance <= forward)

        packed.block_masks[scores.window] = create_block_mask(
            visible, None, None, layout.tokens, layout.tokens, device=query.device, _compile=on_cuda
        )
    cap = scores.softcap

    def soft_cap(
        score: Tensor, batch: Tensor, head: Tensor, query_index: Tensor, key_index: Tensor
    ) -> Tensor:
        return score if cap is None else cap * torch.tanh(score / cap)

    attend: Any = (
        _compiled_flex() if on_cuda else flex_attention
    )  # uncompiled on CPU: a reference, not a fast path
    return attend(
        query,
        key,
        value,
        score_mod=None if cap is None else soft_cap,
        block_mask=packed.block_masks[scores.window],
        scale=scores.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    ).transpose(1, 2)


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor, PackedContext, ScoreRule], Tensor]] = {
    "sdpa": _sdpa,
    "eager": _eager,
    "matmul": _matmul,
    "varlen": _varlen,
    "flash_attn": _flash_attn,
    "flex": _flex,
}
