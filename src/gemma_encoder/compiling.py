"""A decoder's layers through torch's compiler, which fuses what lies between their matrix products.

Norms, rotary embeddings, activations, casts and residual sums are passes over memory of their own in stock
code; where matrix products are fast they take longer than those. The layers of a stack are alike, so they
share what is compiled; any number of tokens takes the same code. Attention stays outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention import PACKED_ATTENTION, packed_attention
from .dropout import decoder_layers
from .errors import first_line

MODELS_OF_A_PROCESS = 64
"""torch gives up compiling a function after so many versions of it (by default 8), and the layers of all
models have some functions in common."""


class CompiledLayers:
    """Compiled code for a decoder's layers, made when a layer first needs it: seconds, kept on disk by torch.

    It draws the random numbers of stock code, so dropout has the same masks.

    Args:
        backbone: Stock backbone, or one wrapped by PEFT. Nothing about it is changed outside `in_use`.
    """

    def __init__(self, backbone: nn.Module) -> None:
        ALL_ATTENTION_FUNCTIONS[PACKED_ATTENTION] = _opaque_attention()
        # torch's own tanh takes more than half the time of a GELU and the product after it.
        options: Any = {"fallback_random": True, "cpp.use_decompose_tanh": True}
        self._forwards = [
            (layer, torch.compile(layer.forward, dynamic=True, options=options))
            for layer in decoder_layers(backbone)
        ]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the layers compute by the compiled code; what can't be compiled by stock code, with a
        warning."""
        before = [(vars(layer), vars(layer).get("forward")) for layer, _ in self._forwards]
        try:
            for layer, forward in self._forwards:
                layer.forward = forward
            with torch._dynamo.config.patch(
                suppress_errors=True,
                recompile_limit=MODELS_OF_A_PROCESS,
                # Dropout is a hook: without this, code made for a model that has none serves one that has.
                skip_nnmodule_hook_guards=False,
            ):
                yield
        finally:
            for attributes, own in before:
                attributes.pop("forward", None)
                if own is not None:  # accelerate sets one
                    attributes["forward"] = own


@cache
def _opaque_attention() -> Callable[..., Any]:
    """Packed attention, which ends a graph and begins the next. It is the same but for that, so it may stay
    registered; and one for all, since code is compiled for the very function."""
    opaque: Callable[..., Any] = torch.compiler.disable(packed_attention)
    return opaque


_OF: WeakKeyDictionary[nn.Module, CompiledLayers] = WeakKeyDictionary()


def compiled_layers(backbone: nn.Module) -> CompiledLayers:
    """Those of a backbone, the same each time."""
    if backbone not in _OF:
        _OF[backbone] = CompiledLayers(backbone)
    return _OF[backbone]


WORTH_COMPILING_ON_GPU = 2e16
"""Floating-point operations from which it pays there: compiling takes half a minute, and for so many stock
layers of Gemma 3 270M and of Gemma 2 2B took 5 and 1 minutes of an H100, compiled ones 0.6 of that."""


def pays(backbone: nn.Module, tokens: float, least: float, *, backward: bool) -> bool:
    """Whether the layers of a backbone are worth compiling for so many tokens, and can be compiled.

    Args:
        backbone: Stock backbone, or one wrapped by PEFT.
        tokens: That are computed.
        least: Floating-point operations from which it pays on a CPU.
        backward: Whether gradients are computed too: a parameter takes about two operations of each token
            forward, and four backward.
    """
    operations = (6 if backward else 2) * parameters_of_layers(backbone) * tokens
    kind = next(backbone.parameters()).device.type
    if kind not in ("cpu", "cuda"):
        return False
    least = least if kind == "cpu" else WORTH_COMPILING_ON_GPU
    return operations >= least and why_not_compiled(kind) is None


def parameters_of_layers(backbone: nn.Module) -> int:
    """Parameters of all layers."""
    return sum(parameter.numel() for layer in decoder_layers(backbone) for parameter in layer.parameters())


@cache
def why_not_compiled(device: str = "cpu") -> str | None:
    """Why nothing can be compiled here (most often there is no C++ compiler), or None. Tries it: seconds."""
    try:
        torch.compile(_probe)(torch.ones(64, device=device))
    except Exception as error:  # of torch's many kinds
        return first_line(error)
    return None


def _probe(values: Tensor) -> Tensor:
    return values.tanh() + values
