"""Trials of a benchmark of accuracy: run what is missing, keep a line of JSON of each, put seeds together."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gemma_encoder.evaluation import mean_interval


class Trial(Protocol):
    """One training run with what comes behind it."""

    __dataclass_fields__: Mapping[str, Any]

    @property
    def name(self) -> str:
        """A file name."""


T = TypeVar("T", bound=Trial)

ARMS = {
    "bidirectional + mean": ["--attention", "bidirectional", "--pooling.kind", "mean"],
    "causal + last token": ["--attention", "causal", "--pooling.kind", "last_k"],
}
"""What is compared with what, as options of `gemma-encoder train`."""

PROGRAM = ("-m", "gemma_encoder")


def file_name(parts: Sequence[object]) -> str:
    """A trial's parts in a word that can be a folder."""
    return "-".join(str(part).replace(" ", "_").replace("/", "_") for part in parts)


def add_trial_options(parser: argparse.ArgumentParser, results: str, work: str) -> None:
    """The options that all benchmarks of accuracy have, with where results and work are by default."""
    parser.add_argument("--results", type=Path, default=Path(results))
    parser.add_argument("--table", action="store_true", help="print the table of --results and run nothing")
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path(work), help="for lists, logs and weights")


def read_records(path: Path, kind: type[T]) -> dict[T, dict[str, Any]]:
    """The lines of a results file, by trial; fields that an older line lacks have their defaults."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records = [json.loads(line) for line in lines]
    names = kind.__dataclass_fields__
    return {kind(**{key: record[key] for key in names if key in record}): record for record in records}


def run_missing(
    trials: Sequence[T],
    done: dict[T, dict[str, Any]],
    run: Callable[[T], dict[str, Any]],
    results: Path,
    jobs: int,
    summary: Callable[[dict[str, Any]], str],
) -> None:
    """Run the trials that have no record; each adds its line to the file and its record to `done`.

    Args:
        trials: All that are wanted.
        done: Records by trial.
        run: Runs one and returns its record.
        results: The file.
        jobs: Trials at once, which share the cores.
        summary: A record in words, for the log.
    """
    missing = [trial for trial in trials if trial not in done]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    results.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(run, trial): trial for trial in missing}
        for number, future in enumerate(as_completed(running), start=1):
            if future.exception():
                pool.shutdown(wait=False, cancel_futures=True)
            record = done[running[future]] = future.result()
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{number}/{len(missing)} {running[future].name}: {summary(record)}", flush=True)


def gemma_encoder(arguments: Sequence[str], log: Path, program: Sequence[str] = PROGRAM) -> None:
    """Run a verb of the command line; what it prints goes behind what is in `log`.

    Args:
        arguments: The verb and its options.
        log: Where to.
        program: What Python runs.

    Raises:
        RuntimeError: It failed; names the log.
    """
    with log.open("a") as file:
        command = [sys.executable, *program, *arguments]
        code = subprocess.run(command, stdout=file, stderr=file).returncode
    if code:
        raise RuntimeError(f"{' '.join(arguments)} failed with exit code {code}; see {log}")


def trained(
    arguments: Sequence[str],
    output: Path,
    log: Path,
    keys: Sequence[str],
    program: Sequence[str] = PROGRAM,
) -> dict[str, Any]:
    """Train, and keep of the folder what it says of the run under `keys`, and its task's main metric.

    Raises:
        RuntimeError: It failed; names the log.
    """
    gemma_encoder(arguments, log, program)
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    shutil.rmtree(output)  # a gigabyte of weights
    return {"main_metric": record["task"]["main_metric"]} | {key: record[key] for key in keys}


def in_words(values: Sequence[float], form: str = ".1f") -> str:
    """`86.1 ± 1.2`, or the value alone where there is one seed."""
    mean, half_width = mean_interval(values)
    return f"{mean:{form}}" if half_width is None else f"{mean:{form}} ± {half_width:{form.lstrip('+')}}"


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
