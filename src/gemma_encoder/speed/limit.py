"""The limit of a model's speed: the time that its matrix products take by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import nn

from ..encoder import Encoder
from ..onednn import through_onednn


class Products:
    """The products of a backbone's linear layers with states of some passes, and nothing else.

    Of each layer and pass one product of the shape that scoring has, with the model's own weights.
    Attention's own products are not among them.

    Args:
        encoder: Whose backbone.
        passes: Tokens of each forward pass.
    """

    def __init__(self, encoder: Encoder, passes: Sequence[int]) -> None:
        found = [module for module in encoder.stock_backbone.modules() if isinstance(module, nn.Linear)]
        self.layers, self.passes = nn.ModuleList(found), passes
        weight = found[0].weight
        self.states = {
            width: torch.randn(max(passes), width, dtype=weight.dtype, device=weight.device)
            for width in {layer.in_features for layer in found}
        }

    def stock(self) -> None:
        """Multiply as torch does."""
        self._multiply()

    def fused(self) -> None:
        """Multiply as scoring does; the same where `through_onednn` does nothing."""
        with through_onednn(self.layers):
            self._multiply()

    @torch.inference_mode()
    def _multiply(self) -> None:
        for tokens in self.passes:
            for layer in self.layers:
                layer(self.states[int(layer.in_features)][:tokens])  # type: ignore[arg-type]


class TrainingProducts:
    """The products of training steps in a backbone's linear layers, and nothing else.

    Of each layer and step three: the output, and the gradients of the states and of the weight. The
    matrices are random ones of the same sizes.

    Args:
        encoder: Whose backbone, all of its layers trained.
        steps: Tokens of each step.
        dtype: Type they are multiplied in.
    """

    def __init__(self, encoder: Encoder, steps: Sequence[int], dtype: torch.dtype) -> None:
        found = [module for module in encoder.stock_backbone.modules() if isinstance(module, nn.Linear)]
        self.sizes = [(layer.out_features, layer.in_features) for layer in found]
        self.steps, self.dtype, self.device = steps, dtype, found[0].weight.device

    @torch.no_grad()
    def __call__(self) -> None:
        """Multiply."""
        for outputs, inputs in self.sizes:
            weight = _random(outputs, inputs, self.dtype, self.device)
            for tokens in self.steps:
                states = _random(tokens, inputs, self.dtype, self.device)
                gradient = _random(tokens, outputs, self.dtype, self.device)
                states @ weight.T, gradient @ weight, gradient.T @ states


@cache
def _random(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=dtype, device=device)
