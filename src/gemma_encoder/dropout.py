"""Dropout on a stock backbone by hooks: no module is replaced, so state-dict names stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from .errors import ConfigError, DecoderError


@dataclass(frozen=True)
class DropoutConfig:
    """Dropout rates, each in [0, 1); active in training only.

    Attributes:
        attention: On attention probabilities.
        feed_forward: On the output of every feed-forward block, where it joins the residual stream.
        embedding: On token embeddings.
        head: Before every linear layer of the head; given to `MLPHead`.

    Raises:
        ConfigError: A rate is not in [0, 1).
    """

    attention: float = 0.0
    feed_forward: float = 0.0
    embedding: float = 0.0
    head: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            rate = getattr(self, field.name)
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
                raise ConfigError(
                    f"dropout.{field.name} is {rate!r}", fix="use a number of at least 0 and below 1"
                )

    @classmethod
    def uniform(cls, rate: float) -> DropoutConfig:
        """The same rate everywhere."""
        return cls(rate, rate, rate, rate)


def decoder_layers(backbone: nn.Module) -> Sequence[nn.Module]:
    """The transformer layers of a stock backbone, in order; also of one wrapped by PEFT.

    Raises:
        DecoderError: No list of `num_hidden_layers` layers was found.
    """
    base = base_model(backbone)
    count = getattr(base.config, "num_hidden_layers", None)
    layers = getattr(base, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        lists = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
        layers = next((candidate for candidate in lists if len(candidate) == count), None)
    if layers is None or not len(layers):
        raise DecoderError(
            f"No list of {count} transformer layers in {type(base).__name__}", fix="use a text decoder"
        )
    return list(layers)


def base_model(backbone: nn.Module) -> Any:
    """The stock backbone inside a PEFT wrapper, or the backbone itself."""
    unwrap = getattr(backbone, "get_base_model", None)
    return backbone if unwrap is None else unwrap()


class _Dropout:
    """Forward hook that drops out the output of a module that trains. A class, so that it can be pickled."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return F.dropout(output, self.rate) if module.training else output


def _attention_modules(layer: nn.Module, index: int, *, required: bool) -> list[Any]:
    """The modules with a rate of attention dropout; Persimmon and Bloom have a module of that name."""
    modules = [
        module
        for module in layer.modules()
        if isinstance(getattr(module, "attention_dropout", None), int | float)
    ]
    if required and not modules:
        raise DecoderError(
            f"{type(layer).__name__} has no attention module with `attention_dropout`",
            where=f"layer {index}",
            fix="set dropout.attention to 0",
        )
    return modules


def _feed_forward(layer: nn.Module, index: int) -> nn.Module:
    """The module whose output joins the residual stream.

    Gemma 2 and 3 normalise the feed-forward output before they add it. Dropout ahead of that RMS norm would
    not keep the expectation: the norm divides out what dropout's rescaling put in. So it goes behind the
    norm.
    """
    for name in ("post_feedforward_layernorm", "mlp"):
        module = getattr(layer, name, None)
        if isinstance(module, nn.Module):
            return module
    raise DecoderError(
        f"{type(layer).__name__} has no feed-forward block called `mlp`",
        where=f"layer {index}",
        fix="set dropout.feed_forward to 0",
    )


def install_dropout(backbone: PreTrainedModel, config: DropoutConfig) -> None:
    """Install attention, feed-forward and embedding dropout on a stock backbone, in place.

    Stock attention modules pass their own `attention_dropout` to the attention function while training; that
    rate is set to `config.attention` (0 included). The other two are forward hooks: two calls add theirs up.
    `config.head` is not used here.

    Args:
        backbone: Stock text backbone, or one wrapped by PEFT.
        config: The rates.

    Raises:
        DecoderError: A layer has no place for a rate above 0.
    """
    layers = decoder_layers(backbone)
    attention_modules: list[Any] = []
    targets: list[tuple[nn.Module, float]] = []
    for index, layer in enumerate(layers):
        attention_modules += _attention_modules(layer, index, required=config.attention > 0)
        if config.feed_forward > 0:
            targets.append((_feed_forward(layer, index), config.feed_forward))
    if config.embedding > 0:
        targets.append((base_model(backbone).get_input_embeddings(), config.embedding))
    # Everything was found: from here on nothing fails half-way.
    for module in attention_modules:
        module.attention_dropout = config.attention
    for target, rate in targets:
        target.register_forward_hook(_Dropout(rate))
