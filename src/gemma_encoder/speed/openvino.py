"""OpenVINO on the exported model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import ConfigError
from .batches import Scorer, Tuned, sorted_batches
from .exporting import onnx_file, require

if TYPE_CHECKING:
    from .contenders import Settings

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's names."""


def open_openvino(folder: str, settings: Settings) -> Scorer:
    """The padded model in OpenVINO, with the fastest batch size.

    Raises:
        ConfigError: A package isn't installed, the model can't be exported, or it is asked for a precision
            or device that it does not have.
    """
    require("openvino", "onnx", "onnxscript")
    if settings.device != "cpu":
        raise ConfigError("OpenVINO is measured on a CPU only", fix="use the device cpu")
    import openvino

    core, threads = openvino.Core(), torch.get_num_threads()
    if settings.dtype == "bfloat16":
        if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ConfigError(
                "OpenVINO has no bfloat16 products for this processor", fix="take its float32 rate"
            )
        if min(threads, _processors()) < 2:
            # openvino 2026.4: its fused feed-forward deals half of the threads out to each half of a
            # product, and one thread ends the process in a division by zero.
            raise ConfigError(
                "OpenVINO needs two threads and processors in bfloat16", fix="set OMP_NUM_THREADS=2"
            )
    with onnx_file(folder, settings) as path:
        saved = path.with_suffix(".xml")
        if not saved.exists():
            openvino.save_model(openvino.convert_model(path), saved, compress_to_fp16=False)
        model = core.compile_model(
            saved,
            "CPU",
            {"INFERENCE_PRECISION_HINT": PRECISIONS[settings.dtype], "INFERENCE_NUM_THREADS": threads},
        )
    request = model.create_infer_request()

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        scores: np.ndarray = request.infer({"input_ids": ids, "attention_mask": mask})["logits"]
        return scores.copy()

    return Tuned(sorted_batches(folder, run), settings.device, settings.tuned_batch_size)


def _processors() -> int:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
