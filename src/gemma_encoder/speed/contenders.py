"""Programs that score the rows of a trained folder; each is opened by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..compiling import why_not_compiled
from ..encoder import Encoder
from ..errors import ConfigError, first_line
from ..scoring import DEFAULT_MAX_TOKENS, Row, score_all
from .batches import Scorer, SizedScorer, Tuned
from .onnx_runtime import open_onnx_runtime
from .openvino import open_openvino


@dataclass(frozen=True)
class Settings:
    """How the contenders run.

    Attributes:
        dtype: Type of the backbone's weights, `float32` or `bfloat16`.
        device: Where.
        max_tokens: Token budget of a pass of ours.
        batch_size: Rows of a batch of the padded ones.
        tuned_batch_size: Rows of a batch of those that look for the fastest; if None they look.
        compile_layers: Ours compiles its layers, where it can, as it does in a long stream.
        exports: Folder in which the model is kept that other programs take, for one encoder; if None it is
            exported anew each time.

    Raises:
        ConfigError: A value is not allowed.
    """

    dtype: str = "float32"
    device: str = "cpu"
    max_tokens: int = DEFAULT_MAX_TOKENS
    batch_size: int = 32
    tuned_batch_size: int | None = None
    compile_layers: bool = True
    exports: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype is {self.dtype!r}", fix="use float32 or bfloat16")
        for name, number in (("max_tokens", self.max_tokens), ("batch_size", self.batch_size)):
            if number < 1:
                raise ConfigError(f"{name} is {number}", fix="give a number of at least 1")

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch's own."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found


def open_packed(folder: str, settings: Settings) -> Scorer:
    """This package as it is used: packed, by token budget."""
    encoder = Encoder.from_pretrained(
        folder,
        dtype=settings.torch_dtype,
        device=settings.device,
        compile_layers=settings.compile_layers and why_not_compiled(settings.device) is None,
    )
    return lambda rows: score_all(encoder, rows, max_tokens=settings.max_tokens)


def open_uncompiled(folder: str, settings: Settings) -> Scorer:
    """The same without compiled layers, as short streams are scored."""
    return open_packed(folder, replace(settings, compile_layers=False))


def open_padded(folder: str, settings: Settings) -> Scorer:
    """The stock backbone, padded, in batches of the rows as they come: the plain loop of many scripts."""
    encoder = Encoder.from_pretrained(
        folder, dtype=settings.torch_dtype, device=settings.device, layout="padded"
    )

    def score(rows: Sequence[Row]) -> np.ndarray:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(rows), settings.batch_size):
                ids = encoder.tokenize(rows[start : start + settings.batch_size]).input_ids
                parts.append(encoder(**encoder.collate(ids)).logits.float().cpu().numpy())
        return np.concatenate(parts)

    return score


def open_cross_encoder(folder: str, settings: Settings) -> Scorer:
    """`sentence_transformers.CrossEncoder.predict`, which sorts by length and pads.

    Raises:
        ConfigError: sentence-transformers isn't installed, or the folder is not for it.
    """
    return partial(_cross_encoder(folder, settings), settings.batch_size)


def open_tuned_cross_encoder(folder: str, settings: Settings) -> Scorer:
    """The same with the fastest batch size for the rows that it is given first.

    Raises:
        ConfigError: sentence-transformers isn't installed, or the folder is not for it.
    """
    return Tuned(_cross_encoder(folder, settings), settings.device, settings.tuned_batch_size)


def _cross_encoder(folder: str, settings: Settings) -> SizedScorer:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ConfigError("sentence-transformers is not installed", fix='pip install "gemma-encoder[st]"')
    if not (Path(folder) / "modules.json").is_file():
        raise ConfigError(
            "The folder is not one that sentence-transformers opens: modules.json is missing",
            where=folder,
            fix="leave this contender out",
        )
    from sentence_transformers import CrossEncoder

    try:
        model = CrossEncoder(folder, device=settings.device, model_kwargs={"dtype": settings.torch_dtype})
    except Exception as error:  # a pooler of this package, which it would have to trust, for one
        raise ConfigError(
            f"sentence-transformers can't open the folder: {first_line(error)}",
            where=folder,
            fix="leave this contender out",
        ) from error

    def score(batch_size: int, rows: Sequence[Row]) -> np.ndarray:
        # A list of strings would be one pair: single texts go in as messages.
        inputs: list[Any] = [
            [{"role": "user", "content": row}] if isinstance(row, str) else row for row in rows
        ]
        scores = model.predict(
            inputs,
            batch_size=batch_size,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
        return np.asarray(scores, dtype=np.float32).reshape(len(rows), -1)

    return score


OURS = "gemma-encoder"
CONTENDERS: dict[str, Callable[[str, Settings], Scorer]] = {
    OURS: open_packed,
    "not compiled": open_uncompiled,
    "padded": open_padded,
    "CrossEncoder": open_cross_encoder,
    "CrossEncoder tuned": open_tuned_cross_encoder,
    "ONNX Runtime": open_onnx_runtime,
    "OpenVINO": open_openvino,
}
ON_REQUEST = ("ONNX Runtime", "OpenVINO")
"""Not run unless named: the model must be exported for them, which takes minutes."""
USUAL = tuple(name for name in CONTENDERS if name not in ON_REQUEST)
