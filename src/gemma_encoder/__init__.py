"""Gemma Encoder: turns decoder language models into encoders for classification and regression.

The names below are the public API; anything else may move between releases. They are imported on first use,
so that `import gemma_encoder` and `gemma-encoder --help` don't wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .decoders import load_decoder
    from .dropout import DropoutConfig
    from .encoder import Encoder
    from .encoder_config import EncoderConfig
    from .errors import GemmaEncoderError
    from .evaluation.evaluate import evaluate
    from .heads import HeadConfig
    from .inspection import assert_bidirectional
    from .pooling import PoolingConfig
    from .ranking import Reranker
    from .scoring import score, score_all
    from .tasks import load_task
    from .text import TextConfig
    from .training import EncoderTrainingArguments, train

__version__ = "0.1.0"

__all__ = [
    "DropoutConfig",
    "Encoder",
    "EncoderConfig",
    "EncoderTrainingArguments",
    "GemmaEncoderError",
    "HeadConfig",
    "PoolingConfig",
    "Reranker",
    "TextConfig",
    "assert_bidirectional",
    "evaluate",
    "load_decoder",
    "load_task",
    "score",
    "score_all",
    "train",
]

_HOMES = {
    "DropoutConfig": "dropout",
    "Encoder": "encoder",
    "EncoderConfig": "encoder_config",
    "EncoderTrainingArguments": "training",
    "GemmaEncoderError": "errors",
    "HeadConfig": "heads",
    "PoolingConfig": "pooling",
    "Reranker": "ranking",
    "TextConfig": "text",
    "assert_bidirectional": "inspection",
    "evaluate": "evaluation.evaluate",
    "load_decoder": "decoders",
    "load_task": "tasks",
    "score": "scoring",
    "score_all": "scoring",
    "train": "training",
}


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
