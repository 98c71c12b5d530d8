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
    # ASCII: what a terminal can't show is escaped as Python does, which is no JSON.
    print(json.dumps(description, indent=2) if options.json else render(description))
