"""Poolers that sentence-transformers has no module for, as modules of its kind; needs sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sentence_transformers.base.modules import Module
from torch import Tensor

from .pooling import PoolingConfig, build_pooler


class EncoderPooling(Module):
    """Any pooler of this package between a `Transformer` and a head in a sentence-transformers stack.

    Args:
        pooling: Fields of `PoolingConfig`.
        hidden_size: Size of a token state.
    """

    config_keys = ["pooling", "hidden_size"]

    def __init__(self, pooling: Mapping[str, Any], hidden_size: int) -> None:
        super().__init__()
        self.pooling, self.hidden_size = dict(pooling), hidden_size
        self.pooler = build_pooler(PoolingConfig(**pooling), hidden_size)

    def forward(self, features: dict[str, Tensor | Any], **kwargs: Any) -> dict[str, Tensor | Any]:
        """Read `token_embeddings` and `attention_mask`, write `sentence_embedding`."""
        features["sentence_embedding"] = self.pooler(features["token_embeddings"], features["attention_mask"])
        return features

    def get_embedding_dimension(self) -> int:
        """Size of the pooled vector."""
        return self.pooler.output_size

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write config and weights."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> EncoderPooling:
        """Read config and weights."""
        hub = {key: kwargs[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in kwargs}
        module = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **hub))
        if any(True for _ in module.pooler.parameters()):
            cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=module, **hub)
        return module
