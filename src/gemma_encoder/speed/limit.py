"""The limit of a model's speed: the time that its matrix products take by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
        found = _linear_layers(encoder)
        self.layers, self.passes = nn.ModuleList(found), passes
        self.states = _states([each.weight for each in found], passes, {each.in_features for each in found})

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

    Of each layer and step three: the output, and the gradients of the states and of the weight.

    Args:
        encoder: Whose backbone, all of its layers trained.
        steps: Tokens of each step.
        dtype: Type they are multiplied in.
    """

    def __init__(self, encoder: Encoder, steps: Sequence[int], dtype: torch.dtype) -> None:
        self.weights = [layer.weight.detach().to(dtype) for layer in _linear_layers(encoder)]
        self.steps = steps
        self.states = _states(self.weights, steps, {width for each in self.weights for width in each.shape})

    @torch.no_grad()
    def __call__(self) -> None:
        """Multiply."""
        for weight in self.weights:
            outputs, inputs = weight.shape
            for tokens in self.steps:
                states, gradient = self.states[inputs][:tokens], self.states[outputs][:tokens]
                states @ weight.T, gradient @ weight, gradient.T @ states


def _linear_layers(encoder: Encoder) -> list[nn.Linear]:
    return [module for module in encoder.stock_backbone.modules() if isinstance(module, nn.Linear)]


def _states(weights: Sequence[Tensor], passes: Sequence[int], widths: set[int]) -> dict[int, Tensor]:
    """Random states of the longest pass, by their width, on the device and in the type of the weights."""
    dtype, device = weights[0].dtype, weights[0].device
    return {width: torch.randn(max(passes), width, dtype=dtype, device=device) for width in widths}
