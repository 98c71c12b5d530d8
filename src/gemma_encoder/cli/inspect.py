"""`gemma-encoder inspect`: what is in this folder."""

from __future__ import annotations

import json

from .common import quiet_libraries
from .options import InspectOptions


def run(options: InspectOptions) -> None:
    """Load, measure, print."""
    quiet_libraries()
    from ..inspection import describe, render

    description = describe(options.model)
    print(json.dumps(description, indent=2, ensure_ascii=False) if options.json else render(description))
