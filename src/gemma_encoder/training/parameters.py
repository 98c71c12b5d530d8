"""Which parameters train, and at which learning rate and weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..encoder import Encoder
from ..errors import ConfigError, first_line
from .arguments import EncoderTrainingArguments, Tune


def set_trainable(encoder: Encoder, tune: Tune, *, train_embeddings: bool = False) -> None:
    """Freeze and unfreeze an encoder's parameters. Pooler and head always train.

    Args:
        encoder: Changed in place. For `lora` its backbone must carry an adapter already, see `add_lora`.
        tune: `full`, `lora` or `head`.
        train_embeddings: Whether `full` trains the token embeddings.
    """
    for name, parameter in encoder.backbone.named_parameters():
        parameter.requires_grad_(tune == "full" or (tune == "lora" and ".lora_" in name))
    if tune == "full" and not train_embeddings:
        encoder.stock_backbone.get_input_embeddings().requires_grad_(False)
    encoder.pooler.requires_grad_(True)
    encoder.head.requires_grad_(True)


def add_lora(encoder: Encoder, args: EncoderTrainingArguments) -> None:
    """Put a LoRA adapter on an encoder's backbone, in place; one that is there already is trained on.

    Raises:
        ConfigError: No layer has a name of `lora_target_modules`, or the adapter that is there is another.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    if hasattr(encoder.backbone, "peft_config"):
        there: Any = encoder.backbone.peft_config["default"]  # type: ignore[index]
        for option, value in (("lora_r", there.r), ("lora_alpha", there.lora_alpha)):
            if getattr(args, option) != value:
                raise ConfigError(
                    f"The encoder has a LoRA adapter with {option}={value}, not {getattr(args, option)}",
                    fix=f"give {option}={value} to train it on, or save the encoder with the adapter merged",
                )
        return
    targets: Any = args.lora_target_modules
    if targets != "all-linear":  # PEFT would take a single name for a regular expression
        targets = [name.strip() for name in targets.split(",")]
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=targets,
    )
    try:
        encoder.backbone = get_peft_model(encoder.backbone, config)
    except ValueError as error:
        linear = {
            name.rpartition(".")[2]
            for name, module in encoder.stock_backbone.named_modules()
            if isinstance(module, nn.Linear)
        }
        raise ConfigError(
            f"lora_target_modules is {args.lora_target_modules!r}: {first_line(error)}",
            fix=f"use all-linear, or some of {', '.join(sorted(linear))}",
        ) from error


def parameter_groups(encoder: nn.Module, args: EncoderTrainingArguments) -> list[dict[str, Any]]:
    """Optimiser groups: backbone and new modules each at their rate; vectors (norms, biases) don't decay."""
    head_rate = args.learning_rate if args.head_learning_rate is None else args.head_learning_rate
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            rate = args.learning_rate if name.startswith("backbone.") else head_rate
            decay = args.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]
