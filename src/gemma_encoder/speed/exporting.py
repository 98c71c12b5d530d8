"""An encoder as an ONNX file, for programs that compute without torch."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..encoder import Encoder
from ..errors import ConfigError, first_line

if TYPE_CHECKING:
    from .contenders import Settings


class PaddedScores(nn.Module):
    """Backbone, pooler and head in the padded layout, without the checks that read values.

    Args:
        encoder: Whose layout becomes `padded`.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        encoder.layout = "padded"
        self.backbone, self.pooler, self.head = encoder.stock_backbone, encoder.pooler, encoder.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask, int64 `[B, S]`, to scores `[B, num_labels]`."""
        states = self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        scores: Tensor = self.head(self.pooler(states, attention_mask))
        return scores


def write_onnx(encoder: Encoder, path: Path) -> None:
    """Write a model with inputs `input_ids` and `attention_mask` and the output `logits`.

    Any number of rows of any length; weights beside it in a file of their own.

    Raises:
        ConfigError: torch can't export the family, or the encoder can't have the padded layout.
    """
    model = PaddedScores(encoder).eval()
    ids = torch.arange(1, 10).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with torch.no_grad(), _quietly():
            torch.onnx.export(
                model,
                (ids, mask),
                path,
                dynamo=True,
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes=(free, free),
                external_data=True,
                verbose=False,
            )
    except Exception as error:  # torch's exporter, onnxscript and onnx raise many kinds
        raise ConfigError(
            f"torch can't export {encoder.stock_backbone.config.model_type} to ONNX: {first_line(error)}",
            fix="leave this contender out",
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """No word of torchvision, which isn't needed, nor of what the exporter will call its axes."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def onnx_file(folder: str, settings: Settings) -> Iterator[Path]:
    """A folder's encoder as an ONNX file, written unless it is in `settings.exports` already.

    Raises:
        ConfigError: What exports isn't installed, or the family can't be exported.
    """
    require("onnx", "onnxscript")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        whole = Path(settings.exports or scratch) / "onnx"
        if not whole.exists():
            part = Path(scratch) / "part"
            part.mkdir()
            write_onnx(Encoder.from_pretrained(folder), part / "model.onnx")
            shutil.move(part, whole)  # an export that was cut off is none
        yield whole / "model.onnx"


def require(*packages: str) -> None:
    """Say how to install what is missing.

    Raises:
        ConfigError: A package isn't installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package} is not installed", fix=f"pip install {' '.join(packages)}")
