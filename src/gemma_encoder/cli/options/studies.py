"""Options of `study`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class StudyOptions:
    """What is asked, of which arms, and how it is run. Best given as a YAML file: --config study.yaml.

    Attributes:
        action: run a study or go on with it (the default), its status, resume it without its YAML file, make
            its report again, or export its trials; may stand first, and the folder second: study status
            FOLDER.
        output: Folder of the study: its trials' database and its report. Another machine may use another
            folder, if --storage is the same.
        name: Name of the study in the storage; the folder's name if not given.
        storage: A storage that several machines reach, as Optuna takes it (postgresql://...); a file in the
            folder if not given. The same command on another machine joins in.
        question: What is asked, for the report's title.
        model: The decoder all arms are made of, unless an axis names others.
        tasks: Tasks of GLUE or SuperGLUE; leave it out if base names a train_file.
        base: Options of train that all arms share, by their names: {epochs: 2, max_train_rows: 1000}.
        axes: What is varied. A list has the values of an option of train (attention: [bidirectional,
            causal]); a mapping names levels of one or more options; {low: 1e-5, high: 1e-4, log: true} is a
            range for a search. The first level of each is the baseline's.
        design: one_factor changes one axis at a time from the baseline; grid takes every combination; search
            lets Optuna choose.
        seeds: Seeds of every arm, from 0.
        learning_rates: Every arm tries these, and is reported with its best by the selection rows; if not
            given, all have that of base.
        tuning_seeds: Trials of each of them, with seeds that no table reports.
        selection_rows: Rows split off the training rows, to choose learning rates and settings by; a fifth of
            them at most.
        report_rows: Judge by at most this many development rows.
        trials: Settings that a search tries for each task.
        finalists: The best of them, trained with all seeds.
        pruning: Whether a search ends bad trials early, by an evaluation after each epoch.
        interesting: The smallest difference of interest, in points (hundredths of the metric), for the
            report's words.
        workers: Processes here; they share the cores.
        budget_minutes: Begin no trial that would probably end later than this.
        preview: Run two short trials, tell how long all would take, and end.
        dry_run: Print the arms and the number of trials, run nothing.
        format: Of an export.
    """

    action: Literal["run", "status", "resume", "report", "export", "work"] = "run"
    output: str = "runs/study"
    name: str | None = None
    storage: str | None = None
    question: str = ""
    model: str | None = None
    tasks: list[str] = field(default_factory=list)
    base: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, Any] = field(default_factory=dict)
    design: Literal["one_factor", "grid", "search"] = "one_factor"
    seeds: int = 3
    learning_rates: list[float] = field(default_factory=list)
    tuning_seeds: int = 1
    selection_rows: int = 500
    report_rows: int | None = None
    trials: int = 20
    finalists: int = 3
    pruning: Literal["none", "median", "successive_halving"] = "none"
    interesting: float = 1.0
    workers: int = 1
    budget_minutes: float | None = None
    preview: bool = False
    dry_run: bool = False
    format: Literal["csv", "parquet"] = "csv"
