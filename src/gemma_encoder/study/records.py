"""What a trial leaves, as a study's storage keeps it."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np

from .plan import TrialKey

State = Literal["waiting", "running", "complete", "failed", "pruned"]

INTERRUPTED, DIED = "interrupted", "its worker died"
"""Errors that say nothing about the trial. One without any missed its heartbeats."""


@dataclass(frozen=True)
class TrialResult:
    """What came out of a trial.

    Attributes:
        selection: The task's metrics on the selection rows.
        report: The same on the report rows; None in trials that only choose something.
        scores: Scores of the report rows, float32 `[N, C]`, or None.
        learning_rate: Of the backbone.
        head_learning_rate: Of pooler and head.
        train_rows: Rows trained on.
        steps: Optimiser steps.
        minutes: Training, saving nothing, and scoring.
        tokens_per_second: Of the training steps.
        peak_mib: The most memory: on the GPU, or of the process.
        peak_of_trial: Whether that is of this trial alone, or of all that the process had done so far.
        history: Losses and evaluations on the way, as the Trainer logs them.
        command: The `gemma-encoder train` that trains the same on the rows of the whole training split.
        environment: Versions and hardware.
    """

    selection: Mapping[str, float]
    report: Mapping[str, float] | None
    scores: np.ndarray | None
    learning_rate: float
    head_learning_rate: float | None
    train_rows: int
    steps: int
    minutes: float
    tokens_per_second: float
    peak_mib: float
    history: list[dict[str, Any]] = field(default_factory=list)
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    peak_of_trial: bool = False

    @property
    def machine(self) -> str:
        """What it ran on: the GPU, or the processor and how many of its cores; empty if that isn't known."""
        gpu, cpu = (self.environment.get(name, "None") for name in ("gpu", "cpu"))
        if gpu != "None" or cpu == "None":
            return gpu.replace("None", "")
        return f"{cpu}, {self.environment.get('threads')} of {self.environment.get('cores')} cores"

    def to_json(self) -> dict[str, Any]:
        """As JSON has it; scores are packed."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**values, "scores": None if self.scores is None else pack(self.scores)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrialResult:
        """Undo `to_json`."""
        return cls(**{**data, "scores": None if data["scores"] is None else unpack(data["scores"])})


@dataclass(frozen=True)
class ReportRows:
    """What the rows are that a task's report trials are judged by; the same for all of them.

    Attributes:
        metrics: The task's metrics, the main one first.
        problem_type: The task's.
        labels: Of each row: int64 `[N]`, or float64 `[N]` or `[N, num_labels]`.
        baseline: The metrics of a predictor that knows no text.
        groups: Rows that are judged together, int64 `[N]`, or None.
        candidates: What each row stands for, or None.
        source: Where they came from.
        note: What makes them other than the official split; empty if nothing does.
        train_note: The same for the rows that trials train on and are selected by.
        digest: Of everything in the whole training split and in the report rows; empty if it isn't known.
    """

    metrics: tuple[str, ...]
    problem_type: str
    labels: np.ndarray
    baseline: Mapping[str, float]
    groups: np.ndarray | None = None
    candidates: list[str] | None = None
    source: str = ""
    note: str = ""
    train_note: str = ""
    digest: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON has it; arrays are packed."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("labels", "groups"):
            values[name] = None if values[name] is None else pack(values[name])
        return {**values, "metrics": list(self.metrics)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ReportRows:
        """Undo `to_json`."""
        unpacked = {name: None if data[name] is None else unpack(data[name]) for name in ("labels", "groups")}
        return cls(**{**data, **unpacked, "metrics": tuple(data["metrics"])})


@dataclass(frozen=True)
class Record:
    """A trial as the storage has it.

    Attributes:
        key: Which.
        number: In the order of the storage.
        state: Where it stands.
        options: What its arm changes of the options that all share.
        levels: Its arm's level on each axis.
        result: What came out; None if it isn't complete.
        error: Why it failed; empty if it didn't.
        worker: Who ran it.
        seconds: How long it has run, or ran.
    """

    key: TrialKey
    number: int
    state: State
    options: Mapping[str, Any]
    levels: Mapping[str, str]
    result: TrialResult | None = None
    error: str = ""
    worker: str = ""
    seconds: float = 0.0

    @property
    def has_ended(self) -> bool:
        """Whether it came to an end of its own, be it an error."""
        own_error = self.state == "failed" and self.error not in ("", INTERRUPTED, DIED)
        return self.state in ("complete", "pruned") or own_error

    def to_row(self) -> dict[str, Any]:
        """Everything but scores and history, one value a column, the same columns for every trial."""
        result, key = self.result, asdict(self.key)
        row = {"number": self.number, **key, "state": self.state, "error": self.error}
        row |= {f"axis.{axis}": level for axis, level in self.levels.items()}
        row["learning_rate"] = result.learning_rate if result else self.key.learning_rate
        for name in ("head_learning_rate", "train_rows", "steps", "minutes", "tokens_per_second"):
            row[name] = getattr(result, name) if result else None
        row["peak_mib"] = result.peak_mib if result and result.peak_of_trial else None
        row["process_peak_mib"] = result.peak_mib if result and not result.peak_of_trial else None
        for part in ("selection", "report"):
            metrics = (getattr(result, part) if result else None) or {}
            row |= {f"{part}.{name}": value for name, value in metrics.items()}
        row["machine"] = result.machine if result else ""
        return {**row, "worker": self.worker, "seconds": round(self.seconds, 1)}


def pack(array: np.ndarray) -> dict[str, Any]:
    """An array as text: zlib, base64."""
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes())).decode("ascii")
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """Undo `pack`."""
    data = zlib.decompress(base64.b64decode(packed["data"]))
    return np.frombuffer(data, dtype=np.dtype(packed["dtype"])).reshape(packed["shape"]).copy()
