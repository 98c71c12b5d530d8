"""Runs what is missing of a benchmark: trials side by side, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import ConfigError, DataError, TrainingError
from .locks import locked
from .plan import PLAN_FILE, Plan, Trial
from .trial import MODEL, RESULT_FILE, remove_model
from .workload import train_rows, train_tokens

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

    A trial that fails doesn't stop the others. When this process is stopped, also by SIGTERM or SIGHUP, so
    are its trials; each goes on from its last checkpoint the next time.

    Args:
        plan: What to run.
        root: Folder of the benchmark; of the same plan, or of one with fewer tasks, arms or seeds.
        jobs: Trials at once. They share the cores.
        budget_minutes: Begin no trial that would probably end later than this, judged by the finished ones of
            the same task, or by their tokens.
        keep_models: Keep the trained models (a gigabyte each for Gemma 3 270M).
        show: Called when something has changed, and now and then.
        poll_seconds: How often to look.

    Raises:
        ConfigError: The folder holds another benchmark, or another process runs this one.
        SystemExit: SIGTERM or SIGHUP came.
    """
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}", fix="give a number of at least 1")
    with locked(root), _signals() as received:
        begun = {
            path.relative_to(root).parts[1]
            for trace in (f"trials/*/*/*/{RESULT_FILE}", "trials/*/*/*/*/checkpoint-*")
            for path in root.glob(trace)
        }
        if (root / PLAN_FILE).is_file() and begun:  # of a plan that never got so far nothing can be mixed in
            plan.check_continues(Plan.read(root), begun)
        plan.write(root)
        progress = _begin(plan, root)
        tokens = _tokens(plan) if budget_minutes is not None else {}
        began = time.monotonic()
        processes: dict[Trial, subprocess.Popen[bytes]] = {}
        threads = max(1, (os.cpu_count() or 1) // jobs)
        try:
            while (progress.waiting or processes) and not received:
                spent = (time.monotonic() - began) / 60
                left = None if budget_minutes is None else budget_minutes - spent
                while len(processes) < jobs and (following := _next(plan, progress, left, tokens)):
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


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGHUP, which would end this process at once and leave its trials alone; leave with
    the exit status that they give. Who ignores or handles one (nohup does) keeps that. Handlers can be set in
    the main thread only."""
    received: list[int] = []
    known = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    if threading.current_thread() is not threading.main_thread():
        known = []
    ours = [number for number in known if number is not None and signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
    if received:
        raise SystemExit(128 + received[0])


def _begin(plan: Plan, root: Path) -> Progress:
    """What has been done before, and what is left."""
    progress = Progress()
    for trial in plan.trials():
        record = finished(root, trial)
        if record is not None:
            progress.done[trial] = record
        else:
            progress.waiting.append(trial)
    for parent in reversed(dict.fromkeys(plan.parent(trial) for trial in progress.waiting)):
        if parent in progress.done and not has_model(root, parent):  # deleted when nothing waited for it
            del progress.done[parent]
            progress.waiting.insert(0, parent)
    return progress


def has_model(root: Path, trial: Trial) -> bool:
    """Whether a finished trial's weights are there for others to begin from."""
    return (root / trial.folder / MODEL).is_dir()


def _tokens(plan: Plan) -> dict[str, float]:
    """What a trial of each task computes, in tokens; without tasks of which that can't be told."""
    tokens = {}
    for task in dict.fromkeys(trial.task for trial in plan.trials()):
        with suppress(DataError):  # its trials will fail, and say why
            tokens[task] = train_tokens(plan, task, train_rows(plan, task)[0])
    return {task: number for task, number in tokens.items() if number}


def _next(
    plan: Plan, progress: Progress, minutes_left: float | None, tokens: Mapping[str, float]
) -> Trial | None:
    """The first waiting trial whose parent has ended and for which there is time."""
    for trial in progress.waiting:
        parent = plan.parent(trial)
        if parent is not None and parent not in progress.done:
            continue
        if minutes_left is None or expected_minutes(trial, progress, tokens) <= minutes_left:
            return trial
    return None


def expected_minutes(trial: Trial, progress: Progress, tokens: Mapping[str, float]) -> float:
    """By finished trials of the same task and model; else by what those of the same model, or of all, took
    for each token; 0 (just try) if there is none. A resumed trial's minutes are not all of it."""
    minutes = {done: each["minutes"] for done, each in progress.done.items() if not each["resumed"]}
    same = [taken for done, taken in minutes.items() if (done.task, done.arm) == (trial.task, trial.arm)]
    if same:
        return median(same)
    others = {done: taken for done, taken in minutes.items() if done.arm == trial.arm} or minutes
    paces = [taken / tokens[done.task] for done, taken in others.items() if done.task in tokens]
    if paces and trial.task in tokens:
        return median(paces) * tokens[trial.task]
    return median(others.values() or [0.0])


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
    """Delete the models of finished trials that no other trial starts from any more; the next run tries again
    what has failed."""
    wanted = {plan.parent(trial) for trial in (*progress.waiting, *progress.running, *progress.failed)}
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
