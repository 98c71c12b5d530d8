"""Poolers: token states `[B, S, H]` and a mask `[B, S]` to one float32 vector per text.

Tokens are found by the mask, never by position, so the side and the amount of padding cannot matter. Padding
positions may hold anything, NaN included: they are selected away, not multiplied by zero. Sums run in
float32, because the last states of Gemma 3 270M reach several hundred, where bfloat16 steps by 2 or 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .errors import ConfigError, DataError
from .packing import moved
from .precision import Float32Module, autocast_off

PoolingKind = Literal["mean", "first_k", "last_k", "mean_last", "attention"]
ProbeKind = Literal["query", "kv"]

KV_PROBES = 64
"""Latents of `attention(probe="kv")` when none are asked for."""


@dataclass(frozen=True)
class PoolingConfig:
    """Which pooler, and its sizes; `mean()`, `first_k()`, `last_k()`, `mean_last()`, `attention()` make one.

    Attributes:
        kind: `mean` of all tokens, of the first k, of the last k, `mean_last` (that of all beside the last
            one), or learned `attention`.
        k: Tokens averaged by `first_k` and `last_k`; all there are in a shorter text.
        skip_bos: `first_k` leaves out the first token (BOS, an attention sink) unless the text has no other.
        probe: In `attention`, learned probes are the `query`, or the keys and values (`kv`).
        probes: Number of learned probes in `attention`.
        heads: Attention heads in `attention`; must divide the hidden size.

    Raises:
        ConfigError: A value is not allowed.
    """

    kind: PoolingKind = "mean"
    k: int = 1
    skip_bos: bool = False
    probe: ProbeKind = "query"
    probes: int = 1
    heads: int = 4

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("kind", self.kind, get_args(PoolingKind)),
            ("probe", self.probe, get_args(ProbeKind)),
        ):
            if value not in allowed:
                raise ConfigError(f"pooling.{name} is {value!r}", fix=f"use one of {', '.join(allowed)}")
        for name, number in (("k", self.k), ("probes", self.probes), ("heads", self.heads)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ConfigError(f"pooling.{name} is {number!r}", fix="use a whole number of at least 1")
        if not isinstance(self.skip_bos, bool):
            raise ConfigError(f"pooling.skip_bos is {self.skip_bos!r}", fix="use true or false")
        if self.kind == "attention" and self.probe == "kv" and self.probes < 2:
            raise ConfigError(
                f"pooling.probes is {self.probes} with probe='kv': attention to one latent ignores the text",
                fix=f"use at least 2 ({KV_PROBES} is usual)",
            )


def mean() -> PoolingConfig:
    """Mean of all tokens."""
    return PoolingConfig("mean")


def first_k(k: int = 1, skip_bos: bool = False) -> PoolingConfig:
    """Mean of the first `k` tokens, or of those after the first one with `skip_bos`."""
    return PoolingConfig("first_k", k=k, skip_bos=skip_bos)


def last_k(k: int = 1) -> PoolingConfig:
    """Mean of the last `k` tokens."""
    return PoolingConfig("last_k", k=k)


def mean_last() -> PoolingConfig:
    """Mean of all tokens, and beside it the last token."""
    return PoolingConfig("mean_last")


def attention(probe: ProbeKind = "query", probes: int | None = None, heads: int = 4) -> PoolingConfig:
    """Attention with learned probes; 1 probe by default for `query`, `KV_PROBES` for `kv`."""
    if probes is None:
        probes = KV_PROBES if probe == "kv" else 1
    return PoolingConfig("attention", probe=probe, probes=probes, heads=heads)


def build_pooler(config: PoolingConfig, hidden_size: int) -> Pooler:
    """Make the pooler of a config.

    Args:
        config: What to build.
        hidden_size: Size `H` of a token state.

    Returns:
        A module `forward(hidden [B, S, H], mask [B, S]) -> [B, output_size]`, float32.

    Raises:
        ConfigError: The hidden size is not a multiple of the attention heads.
    """
    if config.kind == "mean":
        return MeanPooler(hidden_size)
    if config.kind == "first_k":
        return FirstKPooler(hidden_size, config.k, config.skip_bos)
    if config.kind == "last_k":
        return LastKPooler(hidden_size, config.k)
    if config.kind == "mean_last":
        return MeanLastPooler(hidden_size)
    if hidden_size % config.heads:
        fitting = [heads for heads in range(1, 33) if hidden_size % heads == 0]
        raise ConfigError(
            f"pooling.heads is {config.heads}, which does not divide the hidden size {hidden_size}",
            fix=f"use one of {', '.join(map(str, fitting))}",
        )
    kind = QueryProbePooler if config.probe == "query" else KVProbePooler
    return kind(hidden_size, config.probes, config.heads)


class Pooler(Float32Module):
    """Base of the poolers.

    Args:
        hidden_size: Size `H` of a token state.
        output_size: Size of the pooled vector, `H` if None.
    """

    def __init__(self, hidden_size: int, output_size: int | None = None) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.output_size = hidden_size if output_size is None else output_size

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool token states.

        Args:
            hidden: `[B, S, H]`, any floating type. Values under padding don't matter.
            mask: `[B, S]`, bool or integer, non-zero = real token; padding on any side. On the CPU or where
                the token states are.

        Returns:
            `[B, output_size]`, float32.

        Raises:
            DataError: A text has no token. Looked for in a mask on the CPU only, where it costs nothing; on a
                GPU the check would wait for the queue, and in an exported model there is no place for it. The
                result of such a row means nothing.
        """
        mask = mask.bool()
        looked_for = mask.device.type == "cpu" and not torch.compiler.is_exporting()
        if looked_for and not bool(mask.any(dim=1).all()):
            row = int((~mask.any(dim=1)).nonzero()[0])
            raise DataError(
                "A text has no token",
                where=f"row {row} of the batch",
                fix="give every text a BOS or EOS token",
            )
        with autocast_off(hidden.device.type):
            return self._pool(hidden, moved(mask, hidden.device))

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError


def _masked_mean(hidden: Tensor, selected: Tensor) -> Tensor:
    """Mean of the selected tokens in float32: `[B, S, H]`, bool `[B, S]` -> `[B, H]`."""
    total = hidden.masked_fill(~selected[:, :, None], 0.0).sum(dim=1, dtype=torch.float32)
    return total / selected.sum(dim=1, keepdim=True).clamp(min=1)


class MeanPooler(Pooler):
    """Mean of all tokens."""

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return _masked_mean(hidden, mask)


class FirstKPooler(Pooler):
    """Mean of the first `k` tokens (all there are in a shorter text).

    Args:
        hidden_size: Size `H` of a token state.
        k: Tokens to average.
        skip_bos: Start at the second token, unless the text has one only.
    """

    def __init__(self, hidden_size: int, k: int = 1, skip_bos: bool = False) -> None:
        super().__init__(hidden_size)
        self.k, self.skip_bos = k, skip_bos

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        rank = mask.cumsum(dim=1)  # 1 for the first token
        skipped = (rank[:, -1:] > 1).long() if self.skip_bos else 0
        return _masked_mean(hidden, mask & (rank > skipped) & (rank <= skipped + self.k))


class LastKPooler(Pooler):
    """Mean of the last `k` tokens (all there are in a shorter text).

    Args:
        hidden_size: Size `H` of a token state.
        k: Tokens to average.
    """

    def __init__(self, hidden_size: int, k: int = 1) -> None:
        super().__init__(hidden_size)
        self.k = k

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        rank = mask.cumsum(dim=1)
        return _masked_mean(hidden, mask & (rank > rank[:, -1:] - self.k))


def _linear(size: int) -> nn.Linear:
    """A square projection that keeps the variance of its input."""
    linear = nn.Linear(size, size)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class MeanLastPooler(Pooler):
    """Mean of all tokens and the last one side by side: what bidirectional and what causal attention is best
    read by.

    Args:
        hidden_size: Size `H` of a token state; the pooled vector has `2 H`.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 2 * hidden_size)
        self.mean, self.last = MeanPooler(hidden_size), LastKPooler(hidden_size)

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([self.mean._pool(hidden, mask), self.last._pool(hidden, mask)], dim=-1)


class _ProbePooler(Pooler):
    """What both kinds of attention pooling share.

    Tokens are layer-normalised before the projections: they reach several hundred in magnitude, so raw scores
    would make the softmax one-hot and its gradient zero from the first step.
    """

    def __init__(self, hidden_size: int, probes: int, heads: int, output_size: int) -> None:
        super().__init__(hidden_size, output_size)
        self.heads = heads
        self.norm = nn.LayerNorm(hidden_size)
        self.probes = nn.Parameter(torch.empty(probes, hidden_size))

    def _tokens(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Normalised float32 tokens `[B, S, H]`, finite under padding."""
        return self.norm(hidden.masked_fill(~mask[:, :, None], 0.0).float())

    def _split(self, states: Tensor) -> Tensor:
        """`[..., N, H]` -> `[..., heads, N, H / heads]`."""
        return states.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Multi-head `softmax(Q Kᵀ / sqrt(d)) V` of `[..., N, H]` states; `mask` is one of the scores."""
        query, key, value = self._split(query), self._split(key), self._split(value)
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return (scores.softmax(dim=-1) @ value).transpose(-3, -2).flatten(-2)


class QueryProbePooler(_ProbePooler):
    """Learned probes are the queries, tokens the keys and values (Set Transformer's PMA, arXiv 1810.00825,
    eq. 11).

    The vectors of several probes are concatenated, not averaged: what one probe finds would be lost in the
    mean. So `output_size = probes * H`. Probes start near zero, where attention is uniform over the text.

    Args:
        hidden_size: Size `H` of a token state.
        probes: Number of learned queries.
        heads: Attention heads; divides `H`.
    """

    def __init__(self, hidden_size: int, probes: int = 1, heads: int = 4) -> None:
        super().__init__(hidden_size, probes, heads, output_size=probes * hidden_size)
        self.key, self.value, self.output = (_linear(hidden_size) for _ in range(3))
        nn.init.normal_(self.probes, std=0.02)

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        tokens = self._tokens(hidden, mask)
        found = self._attend(self.probes, self.key(tokens), self.value(tokens), mask[:, None, None, :])
        return self.output(found).flatten(1)


class KVProbePooler(_ProbePooler):
    """Tokens are the queries, learned latents the keys and values; then the mean over tokens.

    After NV-Embed's latent attention (arXiv 2405.17428, section 3.1). What a token reads from the latents is
    added to the normalised token, as a residual: without it all texts start with nearly the same vector,
    since every token reads a mixture of the same few latents. The output projection starts at zero, so
    pooling starts as the mean of the normalised tokens. `output_size = H`.

    Args:
        hidden_size: Size `H` of a token state.
        probes: Number of latents, at least 2.
        heads: Attention heads; divides `H`.
    """

    def __init__(self, hidden_size: int, probes: int = KV_PROBES, heads: int = 4) -> None:
        super().__init__(hidden_size, probes, heads, output_size=hidden_size)
        self.query, self.key, self.value, self.output = (_linear(hidden_size) for _ in range(4))
        nn.init.normal_(self.probes)
        nn.init.zeros_(self.output.weight)

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        tokens = self._tokens(hidden, mask)
        read = self._attend(self.query(tokens), self.key(self.probes), self.value(self.probes))
        return _masked_mean(tokens + self.output(read), mask)
