"""Runs what is missing of a benchmark: trials side by side, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import ConfigError, TrainingError
from .plan import PLAN_FILE, Plan, Trial
from .trial import RESULT_FILE, remove_model

LOG_FILE = "log.txt"


@dataclass
class Progress:
    """Where a benchmark stands.

    Attributes:
        done: Records of finished trials.
        running: Trials that run, with the time they began.
        failed: Trials that ended with an error, with the error.
        waiting: Trials that haven't begun.
    """

    done: dict[Trial, dict[str, Any]] = field(default_factory=dict)
    running: dict[Trial, float] = field(default_factory=dict)
    failed: dict[Trial, str] = field(default_factory=dict)
    waiting: list[Trial] = field(default_factory=list)


def finished(root: Path, trial: Trial) -> dict[str, Any] | None:
    """The record of a trial that has ended, None otherwise."""
    path = root / trial.folder / RESULT_FILE
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not there, or never written to its end
        return None
    return record


def run_plan(
    plan: Plan,
    root: Path,
    *,
    jobs: int = 1,
    budget_minutes: float | None = None,
    keep_models: bool = False,
    show: Callable[[Progress], None] = lambda progress: None,
    poll_seconds: float = 1.0,
) -> Progress:
    """Run the trials that have no record yet.

    A trial that fails doesn't stop the others. When this process is stopped, so are its trials; each goes on
    from its last checkpoint the next time.

    Args:
        plan: What to run.
        root: Folder of the benchmark; of the same plan, or of one with fewer tasks, arms or seeds.
        jobs: Trials at once. They share the cores.
        budget_minutes: Begin no trial that would probably end later than this, judged by the finished ones of
            the same task, or of all.
        keep_models: Keep the trained models (a gigabyte each for Gemma 3 270M).
        show: Called when something has changed, and now and then.
        poll_seconds: How often to look.

    Raises:
        ConfigError: The folder holds another benchmark.
    """
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}", fix="give a number of at least 1")
    begun = any(root.glob(f"trials/*/*/*/{RESULT_FILE}")) or any(root.glob("trials/*/*/*/*/checkpoint-*"))
    if (root / PLAN_FILE).is_file() and begun:  # of a plan that never got so far nothing can be mixed in
        plan.check_continues(Plan.read(root))
    plan.write(root)
    progress = Progress()
    for trial in plan.trials():
        record = finished(root, trial)
        if record is not None:
            progress.done[trial] = record
        else:
            progress.waiting.append(trial)
    began = time.monotonic()
    processes: dict[Trial, subprocess.Popen[bytes]] = {}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    try:
        while progress.waiting or processes:
            spent = (time.monotonic() - began) / 60
            left = None if budget_minutes is None else budget_minutes - spent
            while len(processes) < jobs and (following := _next(plan, progress, left)):
                progress.waiting.remove(following)
                progress.running[following] = time.time()
                processes[following] = _start(root, following, threads)
            if not processes:
                break  # what waits has no time left, or waits for a trial that failed
            for trial in [trial for trial, process in processes.items() if process.poll() is not None]:
                _collect(root, trial, processes.pop(trial).returncode, progress)
                if not keep_models:
                    _remove_unneeded(plan, root, progress)
            show(progress)
            time.sleep(poll_seconds)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()
    show(progress)
    return progress


def _next(plan: Plan, progress: Progress, minutes_left: float | None) -> Trial | None:
    """The first waiting trial whose parent has ended and for which there is time."""
    for trial in progress.waiting:
        parent = plan.parent(trial)
        if parent is not None and parent not in progress.done:
            continue
        if minutes_left is None or _expected_minutes(trial, progress) <= minutes_left:
            return trial
    return None


def _expected_minutes(trial: Trial, progress: Progress) -> float:
    """By finished trials of the same task, or of any; 0 (just try) if there is none."""
    minutes = {done: record["minutes"] for done, record in progress.done.items()}
    same = [taken for done, taken in minutes.items() if done.task == trial.task]
    return median(same or minutes.values() or [0.0])


def _start(root: Path, trial: Trial, threads: int) -> subprocess.Popen[bytes]:
    folder = root / trial.folder
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "gemma_encoder.benchmark"]
    command += [str(root), trial.task, trial.arm, str(trial.seed)]
    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", **os.environ}
    with (folder / LOG_FILE).open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def _collect(root: Path, trial: Trial, code: int, progress: Progress) -> None:
    del progress.running[trial]
    record = finished(root, trial)
    if code == 0 and record is not None:
        progress.done[trial] = record
        return
    log = root / trial.folder / LOG_FILE
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    progress.failed[trial] = reason.removeprefix("error: ") or f"exit status {code}, see {log}"


def _remove_unneeded(plan: Plan, root: Path, progress: Progress) -> None:
    """Delete the models of finished trials that no other trial starts from any more."""
    wanted = {plan.parent(trial) for trial in (*progress.waiting, *progress.running)}
    for trial in progress.done:
        if trial not in wanted:
            remove_model(root, trial)


def raise_failures(progress: Progress) -> None:
    """Report trials that failed, as one error.

    Raises:
        TrainingError: Names the first, and how many there are.
    """
    for trial, reason in progress.failed.items():
        more = f" (and {len(progress.failed) - 1} more)" if len(progress.failed) > 1 else ""
        raise TrainingError(
            f"The trial {trial} failed{more}; finished trials are kept, the same command goes on: {reason}"
        )
