"""The MLP head: pooled vector to logits, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from .errors import ConfigError
from .precision import Float32Module, autocast_off

ActivationName = Literal["tanh", "gelu", "relu", "silu"]
NormName = Literal["layer_norm", "none"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}
"""Module class of each activation."""


@dataclass(frozen=True)
class HeadConfig:
    """Shape of the head.

    Attributes:
        depth: Hidden layers; 0 = a linear head.
        width: Size of a hidden layer, that of the pooled vector if None.
        activation: After each hidden layer; `tanh`, `gelu` (exact), `relu` or `silu`.
        norm: Normalisation of the pooled vector, `layer_norm` or `none`. Pooled states of Gemma 3 270M reach
            several hundred in magnitude: without a norm tanh saturates and hardly learns.

    Raises:
        ConfigError: A value is not allowed.
    """

    depth: int = 1
    width: int | None = None
    activation: ActivationName = "tanh"
    norm: NormName = "layer_norm"

    def __post_init__(self) -> None:
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or self.depth < 0:
            raise ConfigError(f"head.depth is {self.depth!r}", fix="use a whole number of at least 0")
        if self.width is not None and (
            isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1
        ):
            raise ConfigError(
                f"head.width is {self.width!r}", fix="use a whole number of at least 1, or none"
            )
        for name, value, allowed in (
            ("activation", self.activation, get_args(ActivationName)),
            ("norm", self.norm, get_args(NormName)),
        ):
            if value not in allowed:
                raise ConfigError(f"head.{name} is {value!r}", fix=f"use one of {', '.join(allowed)}")


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.bias)
    return linear


class MLPHead(Float32Module):
    """Norm, hidden layers with activation, output layer; dropout before every linear layer.

    Computes in float32 with autocast off, and its parameters stay float32 when the model around it is cast.

    Args:
        config: Shape of the head.
        input_size: Size `D` of the pooled vector.
        num_labels: Number of outputs.
        dropout: Rate before every linear layer while training.

    Attributes:
        norm: `LayerNorm` or `Identity`.
        layers: The hidden `Linear` layers.
        output: The last `Linear`.
        output_scale: Logits are `output(x) * output_scale + output_shift`, so that a regression head can
            learn a standardised target and answer in the units of the labels. Not part of the state dict.
        output_shift: See `output_scale`.
    """

    def __init__(self, config: HeadConfig, input_size: int, num_labels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.input_size, self.num_labels = config, input_size, num_labels
        self.norm = nn.LayerNorm(input_size) if config.norm == "layer_norm" else nn.Identity()
        width = input_size if config.width is None else config.width
        sizes = [input_size] + [width] * config.depth
        self.layers = nn.ModuleList(_linear(a, b) for a, b in pairwise(sizes))
        self.output = _linear(sizes[-1], num_labels)
        self.activation = ACTIVATIONS[config.activation]()
        self.dropout = nn.Dropout(dropout)
        self.output_scale = 1.0
        self.output_shift = 0.0

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled vectors `[B, D]` of any floating type to float32 logits `[B, num_labels]`."""
        with autocast_off(pooled.device.type):
            states = self.norm(pooled.float())
            for layer in self.layers:
                states = self.activation(layer(self.dropout(states)))
            return self.output(self.dropout(states)) * self.output_scale + self.output_shift
