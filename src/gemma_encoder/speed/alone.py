"""A contender in a process of its own: how long until it has scored a row, and the most memory it takes.

The process is `python -m gemma_encoder.speed.alone`: a JSON object on standard input, one on standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, first_line

if TYPE_CHECKING:
    from ..scoring import Row
    from .contenders import Settings


@dataclass(frozen=True)
class Alone:
    """What a contender takes by itself.

    Attributes:
        start_up_seconds: From the start of the process to the score of its first row.
        peak_mib: The most memory of the process, and of the GPU if it runs there.
    """

    start_up_seconds: float
    peak_mib: float


def run_alone(folder: str, name: str, rows: Sequence[Row], settings: Settings) -> Alone:
    """Score all rows once in a new process.

    Raises:
        ConfigError: The process failed, memory for one.
    """
    given = {"folder": folder, "name": name, "rows": list(rows), "settings": asdict(settings)}
    command = [sys.executable, "-m", __name__]
    found = answer_of(command, name, "try fewer or shorter rows", json.dumps({**given, "at": time.time()}))
    return Alone(**found)


def answer_of(command: Sequence[str], name: str, fix: str, given: str = "") -> dict[str, Any]:
    """Run a contender's process, and read the JSON object in its last line.

    Args:
        command: What is run.
        name: The contender, for the message.
        fix: What to try if it fails.
        given: Its standard input.

    Raises:
        ConfigError: The process failed.
    """
    process = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if process.returncode:
        said = process.stderr.strip().splitlines()[-1:]
        if process.returncode < 0:  # killed, so that its last words may be about something else
            said = [f"signal {-process.returncode}", *said]
        raise ConfigError(
            f"{name} failed in a process of its own: {', '.join(said) or process.returncode}", fix=fix
        )
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def main() -> None:
    """The new process."""
    from ..memory import keep_freed_memory

    keep_freed_memory()
    given = json.load(sys.stdin)
    from ..machine import peak_memory
    from .contenders import CONTENDERS, Settings

    rows = [row if isinstance(row, str) else tuple(row) for row in given["rows"]]
    score = CONTENDERS[given["name"]](given["folder"], Settings(**given["settings"]))
    score(rows[:1])
    start_up = time.time() - given["at"]
    score(rows)
    print(json.dumps(asdict(Alone(start_up, sum(peak_memory().values()) / 2**20))))


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        sys.exit(first_line(error))
