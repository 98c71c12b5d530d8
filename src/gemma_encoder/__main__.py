"""`python -m gemma_encoder` is the command `gemma-encoder`."""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
