"""`run.json`: what a run was, on what machine, and what came out. Tables are made from these alone."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from dataclasses import MISSING, Field, fields
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..errors import TrainingError
from ..json_files import write_json
from .arguments import EncoderTrainingArguments

RUN_FILE = "run.json"
_PACKAGES = ("gemma-encoder", "torch", "transformers", "peft", "accelerate", "datasets", "numpy")
_NOT_RECORDED = ("output_dir", "report_to", "disable_tqdm", "hub_token")
"""Arguments that say where a run writes and shows things, not what it does."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
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
    if sys.platform == "win32":  # which has no module `resource`
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resolved_arguments(args: EncoderTrainingArguments) -> dict[str, Any]:
    """Our own options and all others that are not transformers' defaults."""
    # Read off the fields: to construct a second TrainingArguments resets accelerate's state, and a
    # distributed run goes on as so many single processes.
    defaults = {field.name: _default(field) for field in fields(TrainingArguments)}
    return {
        name: value
        for name, value in args.to_dict().items()
        if name not in defaults or (name not in _NOT_RECORDED and not _same(value, defaults[name]))
    }


def _same(value: Any, default: Any) -> bool:
    return value == default or (not value and not default)  # unset is None, "", [] or False by turns


def _default(field: Field[Any]) -> Any:
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return value.value if isinstance(value, Enum) else value


def now() -> str:
    """The time, as ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_run(folder: str | Path, run: dict[str, Any]) -> Path:
    """Write `run.json` into a folder, whole or not at all.

    Raises:
        TrainingError: It can't be written; one that was there stays.
    """
    try:
        return write_json(Path(folder) / RUN_FILE, run)
    except OSError as error:
        raise TrainingError(
            f"{RUN_FILE} can't be written: {error.strerror or error}",
            where=str(folder),
            fix="free disk space or permit writing, then go on with --resume",
        ) from error
