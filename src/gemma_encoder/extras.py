"""Libraries of the package's extras, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .errors import ConfigError


def library(name: str, *, extra: str) -> Any:
    """Import a library of an extra.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name} can't be imported: {error}", fix=f'pip install "gemma-encoder[{extra}]"'
        ) from error
