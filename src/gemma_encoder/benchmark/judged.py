"""What the records of finished trials say about one task: its splits, and what is unusual about them."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..tasks import get_task
from .plan import Trial
from .suites import task_score


@dataclass(frozen=True)
class Judged:
    """One trial's model on one task.

    Attributes:
        task: The task, or a diagnostic that the trial's model answers.
        trial: The trial.
        splits: The results of its splits by name, as the record has them.
        folder: The trial's folder.
        record: Its record.
    """

    task: str
    trial: Trial
    splits: dict[str, dict[str, Any]]
    folder: Path
    record: dict[str, Any]

    @property
    def missing(self) -> list[str]:
        """Splits that count for the task's score and have none here."""
        task = get_task(self.task)
        return [name for name in (task.validation_split, *task.more_splits) if name not in self.splits]

    def score(self, splits: Iterable[str], what: str = "metrics") -> float:
        """The task's one number over some of its splits; of the majority where `what` is `baseline`."""
        return task_score(self.task, {name: self.splits[name][what] for name in splits})

    def load(self, split: str) -> dict[str, Any]:
        """Scores and labels of a split, row by row, with what the metrics need beside them.

        Raises:
            DataError: Their file is not there, or not whole.
        """
        path = self.folder / self.splits[split]["scores"]
        place = "/".join(path.parts[-4:])  # below the folder of trials: the same wherever that lies
        try:
            with np.load(path) as data:
                return {name: data[name] for name in data.files}
        except FileNotFoundError:
            raise DataError(f"{place} is missing", fix="restore it, or run the trial again") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{place} can't be read", fix="restore it, or run the trial again") from error


def judged_tasks(root: Path, trial: Trial, record: dict[str, Any]) -> Iterator[Judged]:
    """The tasks that a trial's record is about: its own first, then the diagnostics."""
    splits: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for result in record["results"]:
        splits[result["task"]][result["split"]] = result
    for task, results in splits.items():
        yield Judged(task, trial, results, root / trial.folder, record)


def common_splits(seeds: Sequence[Judged]) -> list[str]:
    """The splits that every seed has, in the order of the first: what their means can be of."""
    return [name for name in seeds[0].splits if all(name in judged.splits for judged in seeds)]


def has_other_rows(record: dict[str, Any]) -> bool:
    """Whether a trial's own task was trained or judged on other than all of the official rows."""
    task = record["trial"]["task"]
    own = [result["note"] for result in record["results"] if result["task"] == task]
    left_out = [each for each in record.get("left_out", ()) if each["task"] == task]
    return bool(record["train_note"] or any(own) or left_out)


@dataclass(frozen=True)
class LeftOut:
    """A split that could not be scored.

    Attributes:
        task: The task, or the diagnostic.
        split: The split.
        why: What its data lacked.
        trials: The trials concerned; empty for all of the task.
    """

    task: str
    split: str
    why: str
    trials: tuple[str, ...] = ()


def left_out(records: dict[Trial, dict[str, Any]]) -> list[LeftOut]:
    """What finished trials could not score, each reason once. Records of before this was noted have none."""
    found: dict[tuple[str, str, str], list[Trial]] = defaultdict(list)
    for trial, record in records.items():
        for each in record.get("left_out", ()):
            found[(each["task"], each["split"], " ".join(each["why"].split()))].append(trial)
    return [
        LeftOut(*what, () if len(trials) == _of_task(records, trials[0].task) else tuple(map(str, trials)))
        for what, trials in found.items()
    ]


def _of_task(records: dict[Trial, dict[str, Any]], task: str) -> int:
    return sum(trial.task == task for trial in records)
