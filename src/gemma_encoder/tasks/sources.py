"""Find the data of a built-in task: a folder of the user's, the bundled sets, the Hugging Face hub."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import datasets
from datasets.exceptions import DatasetsError

from ..errors import ConfigError, DataError, NoSplitError, first_line
from .base import GROUP, Split, Task, TaskData
from .files import read_table, sample, to_split
from .tables import SUFFIXES

BUNDLED_VARIABLE = "GEMMA_ENCODER_DATA"
SUITE_OF_HUB = {"nyu-mll/glue": "glue", "aps/super_glue": "superglue"}
"""The folder that a suite's tasks are in, where a folder of data holds several suites."""

DataSource = Literal["auto", "bundled", "hub"]

# What files with a part of a split, or with something in its place, may be called.
_PARTS = {
    "train": ("train_sample", "train_fewshot"),
    "validation": ("validation_sample", "heldout_from_train"),
}


def official_names(task: Task, split: str) -> tuple[str, ...]:
    """Names of the file that holds an official split: `validation` is `dev` in GLUE's files and `val` in
    SuperGLUE's; a diagnostic set has the name of its folder."""
    names = [split]
    if split.startswith("validation"):
        names += [split.replace("validation", "dev"), split.replace("validation", "val")]
    elif task.trained_on:
        names += [*([task.labelled_file] if task.labelled_file else ()), *task.folders, task.name]
    return tuple(names)


def _split_names(task: Task, split: str, labelled: bool) -> tuple[str, ...]:
    names = (*official_names(task, split), *_PARTS.get(split, (f"{split}_sample",)))
    # Answers go by the order of the file without labels.
    return tuple(name for name in names if labelled or name != task.labelled_file)


def load_data(
    task: Task,
    data_dir: str | Path | None = None,
    *,
    max_train_rows: int | None = None,
    seed: int = 0,
    source: DataSource = "auto",
) -> TaskData:
    """Both parts of a built-in task; see `load_split` for where they come from.

    Args:
        task: A row of the task table.
        data_dir: A folder with the task's files.
        max_train_rows: Train on this many rows (in ranking lists), drawn with `seed`; noted in `train_note`.
        seed: Seed of the draw.
        source: `bundled` or `hub` to insist on one of them (SST-2's bundled training part is a sample of the
            full one).
    """
    if task.trained_on:
        raise ConfigError(
            f"{task.name} has no training part",
            fix=f"train on {task.trained_on}, and evaluate that model on it",
        )
    train = load_split(task, task.train_split, data_dir, source=source)
    train = sample(train, max_train_rows, seed, lists=task.problem_type == "ranking")
    validation = load_split(task, task.validation_split, data_dir, source=source)
    return TaskData.of(task, train, validation)


def load_split(
    task: Task,
    split: str,
    data_dir: str | Path | None = None,
    *,
    source: DataSource = "auto",
    labelled: bool = True,
) -> Split:
    """One split of a built-in task.

    From `data_dir` if given: `<data_dir>/<task>/<split>.parquet` (or .jsonl, .csv, .tsv; `glue/<task>/` and
    the folder itself are looked into too). Else from the bundled sets, else from the Hugging Face hub.

    Args:
        task: A row of the task table.
        split: Official name of the split.
        data_dir: A folder with the task's files.
        source: `bundled` or `hub` to insist on one of them.
        labelled: Whether labels are read; see `Split.rows` for what there is without them.

    Raises:
        NoSplitError: The folder, or the bundled sets if only they will do, have no such split.
        NoLabelsError: None of its rows has a label (-1).
        DataError: It can't be had from the hub, a row is bad or has no label, or a file with an official
            split's name has another number of rows.
        ConfigError: `source` is not one of `DataSource`.
    """
    if source not in get_args(DataSource):
        raise ConfigError(f"source is {source!r}", fix=f"use one of {', '.join(get_args(DataSource))}")
    if data_dir is not None:
        folder = Path(data_dir)
        if not folder.is_dir():
            raise DataError("the data folder is not there", where=str(folder), fix="check --data-dir")
        path = find_file(folder, task, split, labelled)
        if path is None:
            looked = _looked_for(folder, task, split, labelled)
            raise NoSplitError(
                f"there is no file for the {split} split of {task.name}; looked for {looked}",
                where=str(folder),
                fix="put it there, or leave --data-dir out to use the bundled sets or the hub",
            )
        return _read(path, task, split, labelled)
    bundled = bundled_folder() if source != "hub" else None
    path = find_file(bundled, task, split, labelled) if bundled else None
    if path is not None:
        return _read(path, task, split, labelled)
    if source == "bundled":
        raise NoSplitError(_no_bundled(task, split, bundled), fix="use another source or --data-dir")
    tried = "" if source == "hub" else _no_bundled(task, split, bundled) + "; "
    return _from_hub(task, split, tried, labelled)


def bundled_folder() -> Path | None:
    """The bundled data sets: the folder in `GEMMA_ENCODER_DATA`, or `datasets/` of the clone this package
    runs from.

    An installed wheel carries no data.
    """
    if BUNDLED_VARIABLE in os.environ:
        return Path(os.environ[BUNDLED_VARIABLE])
    folder = Path(__file__).resolve().parents[3] / "datasets"
    return folder if (folder / "glue").is_dir() else None


def find_file(folder: Path, task: Task, split: str, labelled: bool = True) -> Path | None:
    """The file for a split: official names before others, nearer folders before farther ones."""
    for name in _split_names(task, split, labelled):
        for place in _places(folder, task):
            for suffix in (suffix for suffix, kind in SUFFIXES.items() if kind != "lines"):
                for path in (place / f"{name}{suffix}", place / f"{name}{suffix}.gz"):
                    if path.is_file():
                        return path
            hub_export = place / f"{name}-00000-of-00001.parquet"
            if hub_export.is_file():
                return hub_export
    return None


def _places(folder: Path, task: Task) -> tuple[Path, ...]:
    # The folder itself counts only if it is this task's, or holds no task: else one task would get another's
    # rows.
    suite = SUITE_OF_HUB[task.hub[0]] if task.hub else ""
    names = (task.hub[1], *task.folders) if task.hub else (task.name, *task.folders)
    inner = tuple(place / name for name in names for place in (folder / suite, folder))
    return inner if any(place.is_dir() for place in inner) else (*inner, folder)


def _read(path: Path, task: Task, split: str, labelled: bool) -> Split:
    name = path.name.split(".")[0].removesuffix("-00000-of-00001")
    # The official TSV files have rows with tabs in a text (three in QQP), which nobody counts.
    torn = ".tsv" in path.suffixes and name in official_names(task, split) and split in task.official_rows
    read = read_table(path, task, skip_bad_rows=torn, labelled=labelled)
    return replace(read, note=_note(task, split, name, read, str(path)))


def _note(task: Task, split: str, name: str, read: Split, place: str) -> str:
    """Empty for the official split; otherwise what it is. A split that pretends to be official is refused."""
    official = task.official_rows.get(split)
    rows = len(set(read.rows[GROUP])) if task.problem_type == "ranking" else read.rows.num_rows
    if official is None:
        return f"{name}: {rows:,} rows, not one of the splits that scores are reported on"
    if name not in official_names(task, split):
        return f"{name}: {rows:,} rows, not the official {split} split of {official:,}"
    if rows != official:
        fix = f"if it is meant to be a part, name the file {split}_sample; results will say so"
        bad = f" and {read.skipped:,} bad ones" if read.skipped else ""
        what = f"{task.name}'s {split} split has {official:,} rows, this file has {rows:,}{bad}"
        raise DataError(what, where=place, fix=fix)
    return ""


def _from_hub(task: Task, split: str, tried: str, labelled: bool) -> Split:
    if task.hub is None:
        raise DataError(f"{tried}{task.name} is not on the hub", fix="give --data-dir")
    repository, config = task.hub
    place = f"{repository}, {config}/{split}"
    try:
        table: Any = datasets.load_dataset(repository, config, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        # Being offline shows as any of these, by what is cached and how far the hub client got.
        raise DataError(
            f"there is no data for {task.name}: {tried}"
            f"the Hugging Face hub did not give it ({first_line(error)})",
            where=place,
            fix=f"go online, or give --data-dir with {task.name}/{split}.parquet",
        ) from error
    rows = ((number, f"{place}, row {number}", record) for number, record in enumerate(table, 1))
    read = to_split(rows, f"hub: {place}", task, labelled=labelled)
    return replace(read, note=_note(task, split, split, read, place))


def _no_bundled(task: Task, split: str, folder: Path | None) -> str:
    if folder is None:
        return f"bundled sets are only in a clone of the project (or in the folder {BUNDLED_VARIABLE} names)"
    return f"no {split} split of {task.name} is bundled in {folder}"


def _looked_for(folder: Path, task: Task, split: str, labelled: bool) -> str:
    names = " or ".join(f"{name}.*" for name in _split_names(task, split, labelled))
    return f"{names} in {', '.join(str(place) for place in _places(folder, task))}"
