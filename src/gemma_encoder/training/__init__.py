"""Fine-tuning: rows in, a trained folder out."""

from .arguments import EncoderTrainingArguments
from .recipes import recipe_for
from .recommendations import Recommendation, recommended
from .trainer import EncoderTrainer
from .training import TrainResult, train

__all__ = [
    "EncoderTrainer",
    "EncoderTrainingArguments",
    "Recommendation",
    "TrainResult",
    "recipe_for",
    "recommended",
    "train",
]
