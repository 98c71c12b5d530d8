"""The machine that a process runs on, what is installed there, and the memory that was taken."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("gemma-encoder", "torch", "transformers", "peft", "accelerate", "datasets", "numpy")


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Versions of Python and of packages, by default of those that decide results."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    """Processor, threads and GPU."""
    cpu = platform.processor() or platform.machine()
    if sys.platform == "linux":
        names = [
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def peak_memory() -> dict[str, int]:
    """Largest memory of this process so far, and of the GPU, in bytes."""
    peak = {"host_bytes": _peak_of_process()}
    if torch.cuda.is_available():
        peak["gpu_bytes"] = torch.cuda.max_memory_allocated()
    return peak


def _peak_of_process() -> int:
    status = Path("/proc/self/status")
    if status.is_file():  # Linux's `getrusage` counts what the parent had when it started this process, too
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":  # which has no module `resource`
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
