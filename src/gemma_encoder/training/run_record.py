"""`run.json`: what a run was, on what machine, and what came out. Tables are made from these alone."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..errors import TrainingError
from ..json_files import write_json
from .arguments import EncoderTrainingArguments

RUN_FILE = "run.json"
_NOT_RECORDED = ("output_dir", "report_to", "disable_tqdm", "hub_token")
"""Arguments that say where a run writes and shows things, not what it does."""


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
