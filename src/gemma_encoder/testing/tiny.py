"""Tiny random decoders of every family that is held to work, made in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModel,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from ..decoders import Decoder
from ..errors import ConfigError
from .tokenizer import tiny_tokenizer

_WINDOW = 4
_LOCAL_AND_GLOBAL = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

_CONFIGS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "gemma": (GemmaConfig, {}),
    "gemma2": (
        Gemma2Config,
        {
            "sliding_window": _WINDOW,
            "layer_types": _LOCAL_AND_GLOBAL,
            "attn_logit_softcapping": 2.0,  # low, so that a cap left out shows
            "query_pre_attn_scalar": 8,
        },
    ),
    "gemma3": (
        Gemma3TextConfig,
        {"sliding_window": _WINDOW, "layer_types": _LOCAL_AND_GLOBAL, "query_pre_attn_scalar": 8},
    ),
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": _WINDOW}),
    "qwen3": (Qwen3Config, {}),
}

FAMILIES: tuple[str, ...] = tuple(_CONFIGS)
"""Families of `tiny_decoder`."""


def tiny_decoder(family: str, *, seed: int = 0, **overrides: Any) -> Decoder:
    """A random decoder of four layers, hidden size 32, whose outputs depend strongly on what each token
    attends to.

    Local layers (gemma2, gemma3: every other one; mistral: all) have a window of 4 tokens.

    Args:
        family: One of `FAMILIES`.
        seed: Of the weights.
        **overrides: Fields of the family's transformers config.

    Raises:
        ConfigError: Unknown family.
    """
    if family not in _CONFIGS:
        raise ConfigError(f"family is {family!r}", fix=f"use one of {', '.join(FAMILIES)}")
    tokenizer = tiny_tokenizer()
    kind, particular = _CONFIGS[family]
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = kind(**{**common, **particular, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = AutoModel.from_config(config, dtype=torch.float32)
        for parameter in backbone.parameters():
            if parameter.ndim > 1:  # the families' own 0.02 would leave attention nearly uniform
                torch.nn.init.normal_(parameter, std=0.3)
    return Decoder(backbone.eval(), tokenizer, f"tiny-{family}")
