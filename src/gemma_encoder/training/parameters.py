"""Which parameters train, and at which learning rate and weight decay."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ..dropout import decoder_layers
from ..encoder import Encoder
from ..errors import ConfigError, first_line
from .arguments import EncoderTrainingArguments, Tune


def set_trainable(encoder: Encoder, tune: Tune, *, train_embeddings: bool = False, head: bool = True) -> None:
    """Freeze and unfreeze an encoder's parameters.

    Args:
        encoder: Changed in place. For `lora` its backbone must carry an adapter already, see `add_lora`.
        tune: `full`, `lora` or `head`.
        train_embeddings: Whether `full` trains the token embeddings.
        head: Whether pooler and head train.
    """
    for name, parameter in encoder.backbone.named_parameters():
        parameter.requires_grad_(tune == "full" or (tune == "lora" and ".lora_" in name))
    if tune == "full" and not train_embeddings:
        encoder.stock_backbone.get_input_embeddings().requires_grad_(False)
    encoder.pooler.requires_grad_(head)
    encoder.head.requires_grad_(head)


def add_lora(encoder: Encoder, args: EncoderTrainingArguments) -> None:
    """Put a LoRA adapter on an encoder's backbone, in place; one that is there already is trained on.

    Raises:
        ConfigError: No layer has a name of `lora_target_modules`, or the adapter that is there is another.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets: Any = args.lora_target_modules
    if targets != "all-linear":  # PEFT would take a single name for a regular expression
        targets = [name.strip() for name in targets.split(",")]
    if hasattr(encoder.backbone, "peft_config"):
        _check_adapter(encoder, args, targets)
        return
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
        raise ConfigError(
            f"lora_target_modules is {args.lora_target_modules!r}: {first_line(error)}",
            fix=f"use all-linear, or some of {', '.join(sorted(_linear_layers(encoder)))}",
        ) from error


def _check_adapter(encoder: Encoder, args: EncoderTrainingArguments, targets: Any) -> None:
    """Refuse options that differ from those of the adapter that is there."""
    there: Any = encoder.backbone.peft_config["default"]  # type: ignore[index]
    wanted = _linear_layers(encoder) if targets == "all-linear" else targets
    for option, found, given in (
        ("lora_r", there.r, args.lora_r),
        ("lora_alpha", there.lora_alpha, args.lora_alpha),
        ("lora_dropout", there.lora_dropout, args.lora_dropout),
        ("lora_target_modules", ",".join(sorted(there.target_modules)), ",".join(sorted(wanted))),
    ):
        if found != given:
            raise ConfigError(
                f"The encoder has a LoRA adapter with {option}={found}, not {given}",
                fix=f"give {option}={found} to train it on, or save the encoder with the adapter merged",
            )


def _linear_layers(encoder: Encoder) -> set[str]:
    """Names of the backbone's linear layers, also of those that carry an adapter."""
    return {
        name.removesuffix(".base_layer").rpartition(".")[2]
        for name, module in encoder.stock_backbone.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    }


def parameter_groups(encoder: Encoder, args: EncoderTrainingArguments) -> list[dict[str, Any]]:
    """Optimiser groups: backbone and new modules each at their rate; vectors (norms, biases) don't decay.

    With `layer_decay` a layer's rate is that of the layer above it times the decay: the lowest, which hold
    what every task needs, change least.
    """
    head_rate = args.learning_rate if args.head_learning_rate is None else args.head_learning_rate
    layers = len(decoder_layers(encoder.backbone))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            rate = head_rate
            if name.startswith("backbone."):
                rate = args.learning_rate * args.layer_decay ** _depth(name, layers)
            decay = args.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _depth(name: str, layers: int) -> int:
    """How many layers are above a parameter of the backbone; embeddings are below all of them."""
    if layer := re.search(r"\.layers\.(\d+)\.", name):
        return layers - 1 - int(layer[1])
    return layers if "embed" in name else 0
