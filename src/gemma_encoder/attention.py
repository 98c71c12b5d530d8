"""Who may attend to whom: the attention and window policy on a stock backbone, and packed attention.

transformers lets a caller register an attention function by name. Ours computes attention over the packed
layout (`packing.py`): every text sees itself only, within its window, causal or not as the policy says. It
never looks at a module's own `is_causal`, so no family can turn causal behind our back. What does the
arithmetic is chosen in `attention_backends.py`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention_backends import BACKENDS, AttentionNeeds, PackedContext, ScoreRule, resolve_backend
from .errors import AttentionError, ConfigError

AttentionPolicy = Literal["bidirectional", "causal"]
WindowPolicy = Literal["radius", "width", "full"]

PACKED_ATTENTION = "gemma_encoder_packed"
"""Name under which packed attention is registered with transformers."""


def apply_policy(
    backbone: PreTrainedModel, attention: AttentionPolicy, window: WindowPolicy, *, mixed: bool = False
) -> None:
    """Set the attention and window policy of a freshly loaded decoder, in place.

    The policy is written into the stock config (`is_causal`, `sliding_window`), so whoever loads the saved
    folder computes the same. A backbone takes one policy: `width` would halve the window once more.

    Args:
        backbone: Stock text backbone.
        attention: `bidirectional` or `causal`.
        window: What a local layer of window `W` sees once attention is bidirectional: `radius` = `W` tokens
            on each side, `width` = `W // 2` on each side, `full` = everything. A causal local layer keeps its
            `W` tokens (itself and `W - 1` before it) unless `full`.
        mixed: Some layers stay causal, which no stock config can say. Windows then stay whole in it too, and
            packed attention halves those of bidirectional layers if the policy is `width`.

    Raises:
        ConfigError: Unknown policy, or the backbone has one already.
    """
    if attention not in get_args(AttentionPolicy):
        raise ConfigError(
            f"attention is {attention!r}", fix=f"use one of {', '.join(get_args(AttentionPolicy))}"
        )
    if window not in get_args(WindowPolicy):
        raise ConfigError(f"window is {window!r}", fix=f"use one of {', '.join(get_args(WindowPolicy))}")
    if getattr(backbone, "_has_attention_policy", False):
        raise ConfigError(
            "This decoder was adapted before",
            fix="load it again: every encoder has a backbone of its own, with one attention policy",
        )
    backbone._has_attention_policy = True  # type: ignore[assignment]
    config: Any = backbone.config
    config.is_causal = attention == "causal"
    # The neighbouring flag leaves Gemma 1 and 2 causal without a word and halves the window of Gemma 3.
    if getattr(config, "use_bidirectional_attention", None):
        config.use_bidirectional_attention = False
    width = getattr(config, "sliding_window", None)
    if width is None:
        return
    if window == "full":
        width = max(width, config.max_position_embeddings)
    elif window == "width" and attention == "bidirectional" and not mixed:
        width //= 2
    config.sliding_window = width
    for module in backbone.modules():
        if getattr(module, "sliding_window", None) is not None:
            module.sliding_window = width


_HARMLESS_KEYWORDS = frozenset(
    {
        "cache_position",
        "is_causal",  # the policy decides instead
        "output_attentions",
        "output_hidden_states",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)
"""What transformers passes to every attention function and what changes nothing here."""


def _refuse_unknown_keywords(module: nn.Module, keywords: dict[str, Any]) -> None:
    """Refuse what may change attention (`s_aux`: attention sinks) rather than leave it out."""
    for name, value in keywords.items():
        if value is not None and name not in _HARMLESS_KEYWORDS:
            family = getattr(getattr(module, "config", None), "model_type", type(module).__name__)
            raise AttentionError(
                f"Attention of the family {family} passes {name!r}, which packed attention does not compute",
                fix="use another decoder family",
            )


def _is_causal(module: nn.Module, packed: PackedContext) -> bool:
    """Whether the layer that a module belongs to is causal."""
    if packed.causal or not packed.causal_layers:
        return packed.causal
    layer = getattr(module, "layer_idx", None)
    if layer is None:
        raise AttentionError(
            f"{type(module).__name__} does not tell which layer it is in",
            fix="leave bidirectional_layers out, or use another decoder family",
        )
    return layer in packed.causal_layers


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedContext | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention over the packed layout, with the signature transformers asks of an attention function.

    Args:
        module: The stock attention module that calls.
        query: `[1, heads, T, head_dim]`.
        key: `[1, key_value_heads, T, head_dim]`.
        value: `[1, key_value_heads, T, head_dim]`.
        attention_mask: None; the layout says it all.
        packed: Layout and policy. Required.
        dropout: Rate on attention probabilities, 0 in eval.
        scaling: Factor on scores, `head_dim ** -0.5` if None.
        sliding_window: The layer's window in tokens, None for a global layer.
        softcap: Scores become `softcap * tanh(scores / softcap)` (Gemma 2).
        **others: What else a family passes. Only what does not change attention is taken.

    Returns:
        `[1, T, heads, head_dim]`, and None for the probabilities.

    Raises:
        AttentionError: There is no layout, or the family passes a mask or a keyword that changes attention,
            or it does not tell layers apart that attend differently.
    """
    if packed is None:
        raise AttentionError(
            "Packed attention was called without a layout",
            fix="call the Encoder, not its backbone, or use layout='padded'",
        )
    _refuse_unknown_keywords(module, {"attention_mask": attention_mask, **others})
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    head_dim = query.shape[-1]
    causal = _is_causal(module, packed)
    if sliding_window is not None and packed.halves_windows and not causal:
        sliding_window //= 2
    needs = AttentionNeeds(
        device,
        dtype,
        head_dim,
        softcap=softcap is not None,
        dropout=dropout > 0,
        gradients=torch.is_grad_enabled() and query.requires_grad,
        longest=packed.layout.max_length,
        dims_future=packed.future < 1 and not causal,
    )
    backend = resolve_backend(needs, packed.backend)
    scaling = head_dim**-0.5 if scaling is None else scaling
    scores = ScoreRule(causal, sliding_window, scaling, softcap, dropout, packed.future)
    return BACKENDS[backend.name](query, key, value, packed, scores).contiguous(), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The mask function of packed attention: the layout replaces the mask."""


ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, packed_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, _no_mask)
