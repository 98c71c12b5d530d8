"""Fixtures of the training tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma_encoder.training import EncoderTrainingArguments


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., EncoderTrainingArguments]:
    """Arguments for a short run on the CPU in float32, in `tmp_path/run`."""

    def make(**options: Any) -> EncoderTrainingArguments:
        defaults: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "bf16": False,
            "learning_rate": 1e-3,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
        }
        return EncoderTrainingArguments(**{**defaults, **options})

    return make
