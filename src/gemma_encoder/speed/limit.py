"""The limit of a model's speed: the time that its matrix products take by themselves."""

from __future__ import annotations

from collections.abc import Sequence

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
