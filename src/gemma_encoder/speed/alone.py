"""A contender in a process of its own: how long until it has scored a row, and the most memory it takes.

python -m gemma_encoder.speed.alone      reads a JSON object on standard input, writes one
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    given = {
        "folder": folder,
        "name": name,
        "rows": list(rows),
        "settings": asdict(settings),
        "at": time.time(),
    }
    process = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps({**given, "at": time.time()}),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        said = process.stderr.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise ConfigError(
            f"{name} failed in a process of its own: {said[0]}", fix="try fewer or shorter rows"
        )
    return Alone(**json.loads(process.stdout.splitlines()[-1]))


def main() -> None:
    """The new process."""
    from ..memory import keep_freed_memory

    keep_freed_memory()
    given = json.load(sys.stdin)
    from .contenders import CONTENDERS, Settings

    rows = [row if isinstance(row, str) else tuple(row) for row in given["rows"]]
    score = CONTENDERS[given["name"]](given["folder"], Settings(**given["settings"]))
    score(rows[:1])
    start_up = time.time() - given["at"]
    score(rows)
    print(json.dumps(asdict(Alone(start_up, _peak_mib(given["settings"]["device"])))))


def _peak_mib(device: str) -> float:
    import torch

    peak = _resident_peak() / 2**20
    if torch.device(device).type == "cuda":
        peak += torch.cuda.max_memory_allocated(device) / 2**20
    return peak


def _resident_peak() -> int:
    """The most memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux's `getrusage` counts what the parent had, too
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        sys.exit(first_line(error))
