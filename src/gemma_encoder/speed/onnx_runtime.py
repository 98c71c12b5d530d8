"""ONNX Runtime on the exported model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import ConfigError
from .batches import Scorer, Tuned, sorted_batches
from .exporting import onnx_file, require

if TYPE_CHECKING:
    from .contenders import Settings


def open_onnx_runtime(folder: str, settings: Settings) -> Scorer:
    """The padded model in ONNX Runtime, with the fastest batch size.

    Raises:
        ConfigError: A package isn't installed, the model can't be exported, or it is asked for another
            precision or device than it has.
    """
    require("onnxruntime", "onnx", "onnxscript")
    if settings.dtype != "float32":
        # onnxruntime 1.32: NOT_IMPLEMENTED for a bfloat16 Mul, Add or MatMul.
        raise ConfigError("ONNX Runtime does not compute in bfloat16 on a CPU", fix="take its float32 rate")
    if settings.device != "cpu":
        raise ConfigError("ONNX Runtime is measured on a CPU only", fix="use the device cpu")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with onnx_file(folder, settings) as path:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        scores: np.ndarray = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
        return scores

    return Tuned(sorted_batches(folder, run), settings.device, settings.tuned_batch_size)
