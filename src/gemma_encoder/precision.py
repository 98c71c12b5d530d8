"""Float32 islands: the pooler and the head compute in float32 whatever the backbone computes in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


def bf16_is_native(device_type: str | None = None) -> bool:
    """Whether bfloat16 is multiplied in hardware, and so faster than float32.

    Args:
        device_type: `cpu` or `cuda`; if not given, `cuda` where there is a GPU.
    """
    if (device_type or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def autocast_off(device_type: str) -> AbstractContextManager[object]:
    """Context in which autocast does nothing on a device type (`cpu`, `cuda`, ...)."""
    if not torch.amp.is_autocast_available(device_type):
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


class Float32Module(nn.Module):
    """A module whose floating-point parameters and buffers stay float32 under `.to(dtype)`, `.half()`,
    `.bfloat16()`.

    Moving to another device works as usual.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)
