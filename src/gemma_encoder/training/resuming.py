"""What must be the same for an interrupted run to go on, so that it can't end as a mixture of two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..backbone_files import digest
from ..encoder import Encoder
from ..errors import CheckpointError
from .arguments import EncoderTrainingArguments
from .collation import TrainingItems

# Options that decide what is learnt and which of it is kept. The token budget, and how often to log or save,
# may change.
_DECISIVE = (
    "learning_rate",
    "head_learning_rate",
    "layer_decay",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "tune",
    "layout",
    "padding_side",
    "padded_positions",
    "ranking_loss",
    "attention_ramp",
    "average_last",
    "train_embeddings",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "metric_for_best_model",
    "load_best_model_at_end",
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "early_stopping_patience",
)


def decisive_settings(
    encoder: Encoder,
    args: EncoderTrainingArguments,
    metrics: Sequence[str],
    train_rows: TrainingItems,
    validation_rows: TrainingItems,
) -> dict[str, str]:
    """All that decides a run but the weights that train: options, model, metrics, rows, frozen weights."""
    options = {name: str(getattr(args, name)) for name in _DECISIVE if hasattr(args, name)}
    config = encoder.config.to_dict()
    config.pop("decoder")  # a path may change; the frozen weights say what it was
    model = {f"encoder.{name}": json.dumps(value) for name, value in config.items()}
    frozen = {name: tensor.data for name, tensor in encoder.named_parameters() if not tensor.requires_grad}
    return {
        **options,
        **model,
        "metrics": ", ".join(metrics),
        "training rows": train_rows.fingerprint(),
        "validation rows": validation_rows.fingerprint(),
        "decoder (the weights that don't train)": digest(frozen),
    }


def check_same(saved: Mapping[str, str], current: Mapping[str, str], checkpoint: str) -> None:
    """Compare the settings that a checkpoint was written under with those of now.

    Raises:
        CheckpointError: Names the first that differs, with both values.
    """
    for name, value in current.items():
        if name in saved and saved[name] != value:
            raise CheckpointError(
                f"The run can't be resumed with other options: {name} was {saved[name]} and is {value}",
                where=checkpoint,
                fix="give what the run was started with, or start again",
            )
