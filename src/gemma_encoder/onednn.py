"""Scoring on a CPU through oneDNN: linear layers, and gated feed-forwards in three operators instead of five.

The activation of the gate and its product with the other half are passes over memory of their own, which
oneDNN makes part of the matrix products. In float32 torch multiplies by MKL, which is slower than oneDNN on
some processors and faster on others: that is tried. torch's compiler uses the same operators. They have no
gradient.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

Forward = Callable[[Tensor], Tensor]

_ACTIVATIONS = {
    type(ACT2FN["gelu_pytorch_tanh"]): ("gelu", "tanh"),
    type(ACT2FN["silu"]): ("swish", ""),
}
"""Activations by class, as oneDNN calls them."""


@contextmanager
def through_onednn(model: nn.Module) -> Iterator[None]:
    """Inside, linear layers and gated feed-forwards of a model compute by oneDNN where that is possible.

    Nothing about the model is changed but the `forward` of some of its modules, until the end. It is possible
    on an x86 processor, in bfloat16, or float32 where it is faster, and without autocast; elsewhere nothing
    happens. A feed-forward that doesn't compute what the names of its parts promise is left as it is.

    Args:
        model: In eval mode, and called without gradients inside.
    """
    replaced: list[nn.Module] = []
    try:
        if _available(model):
            for module in model.modules():
                forward = _linear(module) or _gated(module)
                if forward is not None and "forward" not in vars(module):  # accelerate sets one too
                    module.forward = forward
                    replaced.append(module)
        yield
    finally:
        for module in replaced:
            vars(module).pop("forward", None)  # another thread that scores may have been faster


def _available(model: nn.Module) -> bool:
    weight = next(model.parameters(), None)
    return (
        weight is not None
        and weight.device.type == "cpu"
        and platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not torch.is_autocast_enabled("cpu")
        and (_has_bfloat16(weight.dtype) or (weight.dtype == torch.float32 and faster_in_float32()))
    )


@cache
def faster_in_float32() -> bool:
    """Whether oneDNN multiplies float32 matrices faster than torch does by itself; tried once, tens of
    milliseconds."""
    generator = torch.Generator().manual_seed(0)  # a training draws from torch's own
    states = torch.randn(512, 640, generator=generator)
    layer = SimpleNamespace(weight=torch.randn(2048, 640, generator=generator), bias=None)

    def least(multiply: Forward) -> float:
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            multiply(states)
            taken.append(time.perf_counter() - start)
        return min(taken)

    with torch.inference_mode():
        return least(lambda states: _product(states, layer)) < least(
            lambda states: F.linear(states, layer.weight)
        )


def _has_bfloat16(dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _product(states: Tensor, linear: Any, activation: tuple[str, str] = ("none", "")) -> Tensor:
    """The layer's output, then the activation."""
    kind, variant = activation
    return torch.ops.mkldnn._linear_pointwise(states, linear.weight, linear.bias, kind, [], variant)


def _product_times(states: Tensor, linear: Any, factor: Tensor) -> Tensor:
    """The layer's output times a tensor."""
    return torch.ops.mkldnn._linear_pointwise.binary(states, factor, linear.weight, linear.bias, "mul")


def _linear(module: nn.Module) -> Forward | None:
    """What replaces the forward of a linear layer."""
    return (lambda states: _product(states, module)) if _is_plain(module) else None


def _is_plain(module: Any) -> bool:
    """Whether a module is a linear layer as torch has it; PEFT's are of other classes, and the weights of
    quantised ones may be."""
    return type(module) is nn.Linear and type(module.weight.data) is Tensor


def _gated(module: nn.Module) -> Forward | None:
    """What replaces the forward of a gated feed-forward, `down(act(gate(x)) * up(x))`."""
    gate, up, down = (getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down"))
    activation = _ACTIVATIONS.get(type(getattr(module, "act_fn", None)))
    if activation is None or not all(map(_is_plain, (gate, up, down))):
        return None

    def forward(states: Tensor) -> Tensor:
        return _product(_product_times(states, up, _product(states, gate, activation)), down)

    if module not in _SAME:
        _SAME[module] = _same(module.forward, forward, gate)
    return forward if _SAME[module] else None


_SAME: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Of each gated feed-forward that was met, whether it is one; to look takes a few milliseconds."""


@torch.no_grad()
def _same(stock: Forward, ours: Forward, first: Any) -> bool:
    """Whether two functions agree on some states: a family may do more than its modules' names tell."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, first.in_features, generator=generator).to(first.weight.dtype)
    expected = stock(states).float()
    rounding = torch.finfo(first.weight.dtype).eps * first.out_features**0.5
    return bool((ours(states).float() - expected).abs().max() <= rounding * expected.abs().max())
