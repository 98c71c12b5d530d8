"""Hyper-parameters of every task: `recipes.yaml` says which, and what was tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from ..dropout import DropoutConfig
from ..errors import ConfigError, first_line
from ..tasks import TASKS
from .arguments import in_words, is_a


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters that an option on the command line overrides.

    Attributes:
        learning_rate: Of the backbone.
        head_learning_rate: Of pooler and head, which start from random weights.
        num_train_epochs: Passes over the training rows.
        batch_size: Rows per optimiser step; of tasks with lists of candidates, lists.
        dropout: Rates while training.
        max_length: Most tokens of a text.
        tokens: Mean tokens of an official training row with Gemma 3's tokenizer; None for unknown rows.
        encoder_learning_rate: Of a benchmark's established encoder, whose backbone is of another kind.
        max_train_rows: Rows (lists) that a benchmark trains on, drawn with the trial's seed; None is all.
        max_validation_rows: Rows of each split that it judges by, drawn with seed 0; None is all.
    """

    learning_rate: float
    head_learning_rate: float
    num_train_epochs: float
    batch_size: int
    dropout: DropoutConfig
    max_length: int
    encoder_learning_rate: float
    tokens: float | None = None
    max_train_rows: int | None = None
    max_validation_rows: int | None = None


def recipe_for(task: str, file: Path | None = None) -> Recipe:
    """The recipe of a task; that of any other rows for an unknown one.

    Args:
        task: Name of a task.
        file: YAML file in the form of `recipes.yaml`; what it says comes before what that says, for a task
            and for `defaults`.

    Raises:
        ConfigError: The file can't be read, or says something that is not allowed.
    """
    values: dict[str, Any] = {}
    for known in (_built_in(), *([_read(file)] if file else [])):
        values |= known.get("defaults", {}) | known.get("tasks", {}).get(task, {})
    return Recipe(**{**values, "dropout": DropoutConfig(**values["dropout"])})


@cache
def _built_in() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("recipes.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table


@cache
def _read(file: Path) -> dict[str, Any]:
    """A user's recipes, checked."""
    try:
        table = yaml.safe_load(file.read_text(encoding="utf-8-sig")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"The recipe {file} can't be read: {first_line(error)}", fix="mend the file"
        ) from error
    _check_mapping(table, "the file", ("defaults", "tasks"), file)
    table = {name: part or {} for name, part in table.items()}
    _check_mapping(table.get("tasks", {}), "tasks", TASKS, file)
    sections = {"defaults": table.get("defaults", {})}
    sections |= {f"tasks: {task}": part for task, part in table.get("tasks", {}).items()}
    for where, section in sections.items():
        _check_values(section, where, file)
    return table


def _check_mapping(part: Any, where: str, known: Any, file: Path) -> None:
    if not isinstance(part, Mapping):
        raise ConfigError(f"The recipe {file} has no names with values in {where}", fix="see recipes.yaml")
    for name in part:
        if name not in known:
            raise ConfigError(
                f"The recipe {file} has an unknown name in {where}: {name!r}", fix=f"use {', '.join(known)}"
            )


def _check_values(section: Any, where: str, file: Path) -> None:
    kinds = get_type_hints(Recipe) | {"dropout": dict}
    _check_mapping(section, where, [field.name for field in fields(Recipe)], file)
    for name, value in section.items():
        if isinstance(value, str):  # YAML reads 2e-5 as a text, 2.0e-5 as a number
            with suppress(ValueError):
                section[name] = value = float(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_a(value, kinds[name]) or (number and not 0 < value < math.inf):
            raise ConfigError(
                f"The recipe {file} has {name}: {value!r} in {where}",
                fix=f"use {in_words(kinds[name])}{' above 0' if name != 'dropout' else ''}",
            )
        if name == "dropout":
            _check_mapping(value, f"{where}: dropout", [field.name for field in fields(DropoutConfig)], file)
            DropoutConfig(**value)
