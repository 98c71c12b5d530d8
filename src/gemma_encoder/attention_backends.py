"""What computes packed attention, and which of them a forward pass takes.

`resolve_backend` chooses by device, precision and what the pass needs, and says why. Each back end is one
function of the same signature; `eager` is written out text by text and is the reference for the others.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import AttentionError, ConfigError
from .packing import PackedLayout, moved, rounded

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
        dims_future: Whether later tokens count less than earlier ones.
    """

    device: str
    dtype: torch.dtype
    head_dim: int
    softcap: bool
    dropout: bool
    gradients: bool
    longest: int
    dims_future: bool = False


MATMUL_TOKENS = 512
"""Longest text that `matmul` is taken for rather than SDPA, which goes text by text: it keeps all
probabilities, which grow with the square. On a CPU in half precision only."""


@cache
def _flash_capable() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


@cache
def _varlen_keywords() -> frozenset[str]:
    """What `varlen_attn` of this version of torch takes: windows since 2.11, fewer key heads since 2.12."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def _objection(name: BackendName, needs: AttentionNeeds) -> str | None:
    """Why a back end can't do what is needed, or None if it can."""
    if name in ("eager", "matmul"):
        return None
    if needs.dims_future:
        return f"{name} weighs all tokens alike"
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
        if needs.softcap and needs.dropout:
            return "flash-attn has no dropout with a soft-cap"
        return None if importlib.util.find_spec("flash_attn") else "the flash-attn package is not installed"
    if "window_size" not in _varlen_keywords():
        return "this version of torch has no varlen with windows"
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
        rest: tuple[BackendName, ...] = ("sdpa", "matmul") if needs.longest > MATMUL_TOKENS else ("matmul",)
        preference = ("varlen", "flash_attn", "flex", *rest)
    elif needs.dtype != torch.float32 and needs.longest <= MATMUL_TOKENS:
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
        causal: Whether all layers are causal.
        backend: Back end to insist on, or `auto`.
        future: What later tokens count in attention, from 0 (as if causal) to 1 (as much as earlier ones).
        causal_layers: Indices of the layers that are causal where others are not.
        halves_windows: Whether bidirectional layers see half of the window that they ask for.
        block_masks: FlexAttention masks of this batch by reach, filled on first use.
        batches: Texts that `matmul` takes together, filled on first use.
    """

    layout: PackedLayout
    causal: bool
    backend: BackendName | Literal["auto"] = "auto"
    future: float = 1.0
    causal_layers: frozenset[int] = frozenset()
    halves_windows: bool = False
    block_masks: dict[tuple[int, int], Any] = field(default_factory=dict)
    batches: _Batches | None = None


@dataclass(frozen=True)
class ScoreRule:
    """How attention scores become probabilities; the same in every layer of a kind."""

    causal: bool
    window: int | None
    scaling: float
    softcap: float | None
    dropout: float
    future: float = 1.0

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
        mask = distance >= 0 if self.future == 0 else None
        if 0 <= back < length - 1:
            near = distance <= back
            mask = near if mask is None else mask & near
        if 0 <= forward < length - 1:
            ahead = -distance <= forward
            mask = ahead if mask is None else mask & ahead
        return mask

    def bias(self, length: int, device: torch.device) -> Tensor | None:
        """Added to a text's scores so that later tokens count less: `[length, length]`; None = nothing."""
        if self.causal or not 0 < self.future < 1:
            return None
        return torch.full((length, length), math.log(self.future), device=device).triu(1)

    def probabilities(self, products: Tensor, mask: Tensor | None, bias: Tensor | None = None) -> Tensor:
        """Products of queries and keys `[..., queries, keys]` to probabilities, dropped out at the rate.

        Softmax runs in float32. `mask` is bool `[..., queries, keys]`, True = seen; None = all. `bias` is of
        the same shape and added.
        """
        weights = products * self.scaling
        if self.softcap is not None:
            weights = self.softcap * torch.tanh(weights / self.softcap)
        if bias is not None:
            weights = weights + bias.to(weights.dtype)
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
        length, device = query.shape[2], query.device
        mask, bias = scores.allowed(length, device), scores.bias(length, device)
        return scores.probabilities(query @ key.transpose(2, 3), mask, bias) @ value

    return _per_text(query, key, value, packed, attend)


def _matmul(query: Tensor, key: Tensor, value: Tensor, packed: PackedContext, scores: ScoreRule) -> Tensor:
    """As eager, in few large products of few shapes: neighbours of about the same length are a batch, padded
    to a rounded length, and the query heads that share a key head are one matrix.
    """
    key_heads, groups = key.shape[1], query.shape[1] // key.shape[1]

    def attend(batch: _Batch, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # [texts * length, heads, D] -> [texts, key heads, length * heads of a key head, D]
        query, key, value = (
            states.unflatten(0, (-1, batch.length))
            .unflatten(2, (key_heads, -1))
            .transpose(1, 2)
            .flatten(2, 3)
            for states in (query, key, value)
        )
        reach = scores.reach()
        if reach not in batch.masks:
            batch.masks[reach] = batch.mask(scores, groups, query.device)
        bias = scores.bias(batch.length, query.device)
        if bias is not None:
            bias = bias.repeat_interleave(groups, dim=-2)
        output = scores.probabilities(query @ key.transpose(2, 3), batch.masks[reach], bias) @ value
        # [texts, key heads, length * heads of a key head, D] -> [texts * length, heads, D]
        output = output.unflatten(2, (batch.length, groups)).transpose(1, 2)
        return output.flatten(2, 3).flatten(0, 1)

    if packed.batches is None:
        packed.batches = _Batches.of(packed.layout.lengths, query.device)
    batches = packed.batches
    padded = [batches.pad(states.squeeze(0).transpose(0, 1)) for states in (query, key, value)]
    pieces = zip(batches.each, *(states.split(batches.places) for states in padded), strict=True)
    return batches.unpad(torch.cat([attend(*piece) for piece in pieces])).unsqueeze(0)


@dataclass(frozen=True)
class _Batch:
    """Neighbouring texts of a packed row as a padded batch.

    Attributes:
        length: What each text is padded to.
        real: Which places are real, bool `[texts, length]`; None if all are.
        masks: Which keys a query sees, by reach, filled on first use.
    """

    length: int
    real: Tensor | None
    masks: dict[tuple[int, int], Tensor | None] = field(default_factory=dict)

    def mask(self, scores: ScoreRule, groups: int, device: torch.device) -> Tensor | None:
        """Bool `[texts, 1, length * groups, length]` or `[length * groups, length]`; None = all.

        Padding sees padding too, for a query that sees nothing would have no probabilities.
        """
        mask = scores.allowed(self.length, device)
        if self.real is not None:
            real = (~self.real[:, :, None] | self.real[:, None, :])[:, None]
            mask = real if mask is None else real & mask
        return None if mask is None else mask.repeat_interleave(groups, dim=-2)


LENGTH_PARTS = 16
"""A text is padded by one token in so many at most, or by 7."""


@dataclass(frozen=True)
class _Batches:
    """All texts of a packed row in padded batches, one behind the other.

    Attributes:
        each: The batches.
        places: Places of each, real and padding.
        sources: Which token stands at each place, int64 `[sum of places]`; None if no text is padded. Padding
            repeats the last token of its text, so that what is not finite stays in its text.
        slots: At which place each token stands, int64 `[T]`; None if no text is padded.
    """

    each: list[_Batch]
    places: list[int]
    sources: Tensor | None
    slots: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> _Batches:
        """Neighbours of the same rounded length together, as many as a power of two."""
        reals: list[Tensor] = []
        sources, slots = [], []
        token = place = 0
        # On the CPU: on a GPU every one of these small steps would wait for those before it.
        for length, run in itertools.groupby(lengths, lambda length: rounded(length, LENGTH_PARTS)):
            texts = list(run)
            while texts:
                count = 2 ** (len(texts).bit_length() - 1)
                counts, texts = torch.tensor(texts[:count]), texts[count:]
                within = torch.arange(length)
                real = within < counts[:, None]
                reals.append(real)
                starts = token + counts.cumsum(0) - counts
                sources.append((starts[:, None] + within.minimum(counts[:, None] - 1)).flatten())
                slots.append(place + real.flatten().nonzero().flatten())
                token, place = token + int(counts.sum()), place + real.numel()
        places = [real.numel() for real in reals]
        if token == place:
            return cls([_Batch(real.shape[1], None) for real in reals], places, None, None)
        on_device = moved(torch.cat([real.flatten() for real in reals]), device).split(places)
        each = [
            _Batch(real.shape[1], None if bool(real.all()) else there.view_as(real))
            for real, there in zip(reals, on_device, strict=True)
        ]
        return cls(each, places, moved(torch.cat(sources), device), moved(torch.cat(slots), device))

    def pad(self, states: Tensor) -> Tensor:
        """`[T, ...]` -> `[sum of places, ...]`."""
        if self.sources is None:
            return states
        return _Padded.apply(states, self.sources, self.slots)

    def unpad(self, states: Tensor) -> Tensor:
        """`[sum of places, ...]` -> `[T, ...]`."""
        return states if self.slots is None else _Unpadded.apply(states, self.slots)


class _Padded(torch.autograd.Function):
    """`index_select` of rows, some of them twice, where the gradient of all but their own place is zero."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, sources: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        return states.index_select(0, sources)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return gradient.index_select(0, slots), None, None


class _Unpadded(torch.autograd.Function):
    """`index_select` of distinct rows. Its own backward adds them up one by one, as if any came twice."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = states.shape
        return states.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_copy(0, rows, gradient), None


def _varlen(query: Tensor, key: Tensor, value: Tensor, packed: PackedContext, scores: ScoreRule) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    layout = packed.layout
    query, key, value = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    options: dict[str, Any] = {}
    groups = query.shape[1] // key.shape[1]
    if "enable_gqa" in _varlen_keywords():
        options["enable_gqa"] = groups > 1
    else:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
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
        **options,
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


_NO_DECODING: Any = {"FORCE_USE_FLEX_ATTENTION": True}
"""Below 128 tokens FlexAttention takes its decoding kernel, which has no room for heads of 256 in float32."""


FLEX_VERSIONS = 64
"""Of compiled FlexAttention in a process: one for each type, soft-cap and number of heads."""


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=True)

    def attend(*states: Tensor, **options: Any) -> Tensor:
        # With dynamic shapes a soft-cap would be a number known only at run time, which FlexAttention's
        # kernels can't be made for. Beyond the limit of versions it would compute unfused, T x T numbers.
        with torch._dynamo.config.patch(specialize_float=True, recompile_limit=FLEX_VERSIONS):
            return compiled(*states, **options)

    return attend


def _flex(query: Tensor, key: Tensor, value: Tensor, packed: PackedContext, scores: ScoreRule) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    layout, on_cuda = packed.layout, query.device.type == "cuda"
    seen = scores.reach()
    if seen not in packed.block_masks:
        counts = layout.cu_seqlens.diff()
        text = torch.arange(len(counts), device=query.device).repeat_interleave(
            counts, output_size=layout.tokens
        )
        back, forward = (layout.tokens if reach < 0 else reach for reach in seen)

        def visible(batch: Tensor, head: Tensor, query_index: Tensor, key_index: Tensor) -> Tensor:
            distance = query_index - key_index
            return (text[query_index] == text[key_index]) & (distance <= back) & (-distance <= forward)

        packed.block_masks[seen] = create_block_mask(
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
        block_mask=packed.block_masks[seen],
        scale=scores.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        kernel_options=_NO_DECODING,
    ).transpose(1, 2)


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor, PackedContext, ScoreRule], Tensor]] = {
    "sdpa": _sdpa,
    "eager": _eager,
    "matmul": _matmul,
    "varlen": _varlen,
    "flash_attn": _flash_attn,
    "flex": _flex,
}
