"""`python -m gemma_encoder.benchmark FOLDER TASK ARM SEED`: one trial of a planned benchmark, by itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from ..errors import ConfigError, GemmaEncoderError
from ..memory import keep_freed_memory
from .locks import locked
from .plan import Arm, Plan, Trial
from .trial import run_trial


def main(arguments: list[str]) -> int:
    """Run the trial; a user's mistake is one line and exit status 2."""
    root, task, arm, seed = arguments
    keep_freed_memory()
    try:
        if arm not in get_args(Arm):
            raise ConfigError(f"there is no arm {arm!r}", fix=f"use one of {', '.join(get_args(Arm))}")
        trial = Trial(task, arm, int(seed))  # type: ignore[arg-type]
        with locked(Path(root) / trial.folder):  # a benchmark that was killed may have left one that trains
            run_trial(Plan.read(Path(root)), trial, Path(root))
    except GemmaEncoderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
