"""Poolers that sentence-transformers has no module for, as modules of its kind.

The one file that imports sentence-transformers; it names this class in `modules.json` and imports it itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor

from .pooling import PoolingConfig, build_pooler


class EncoderPooling(Module):
    """Any pooler of this package between a `Transformer` and a head in a sentence-transformers stack.

    Args:
        pooling: Fields of `PoolingConfig`.
        hidden_size: Size of a token state.
    """

    config_keys: ClassVar[list[str]] = ["pooling", "hidden_size"]  # type: ignore[misc]

    def __init__(self, pooling: Mapping[str, Any], hidden_size: int) -> None:
        super().__init__()
        self.pooling, self.hidden_size = dict(pooling), hidden_size
        self.pooler = build_pooler(PoolingConfig(**pooling), hidden_size)

    def forward(self, features: dict[str, Tensor | Any], **kwargs: Any) -> dict[str, Tensor | Any]:
        """Read `token_embeddings` and `attention_mask`, write `sentence_embedding` in the tokens' type.

        Raises:
            ValueError: The tokens come without padding (flash attention's flat layout).
        """
        if "cu_seq_lens_q" in features:
            raise ValueError(
                "EncoderPooling needs padded tokens: set unpad_inputs=False on the Transformer module"
            )
        tokens = features["token_embeddings"]
        for parameter in self.parameters():
            # sentence-transformers casts every module to the backbone's type, and poolers compute in float32.
            if parameter.dtype != torch.float32:
                parameter.data = parameter.data.float()
        features["sentence_embedding"] = self.pooler(tokens, features["attention_mask"]).to(tokens.dtype)
        return features

    def get_embedding_dimension(self) -> int:
        """Size of the pooled vector."""
        return self.pooler.output_size

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write config and weights."""
        self.save_config(output_path)
        if self.state_dict():
            self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> EncoderPooling:
        """Read config and weights."""
        where: dict[str, Any] = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        module = cls(**cls.load_config(model_name_or_path, **where))
        if module.state_dict():
            cls.load_torch_weights(model_name_or_path, model=module, **where)
        return module
