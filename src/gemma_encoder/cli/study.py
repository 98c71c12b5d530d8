"""`gemma-encoder study`: run a study's trials here or beside other machines, look at it, report it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .common import check_writable, counted, note, print_facts, print_table, quiet_libraries, refuse_changed
from .options import StudyOptions
from .study_recipes import FILE_TASK, Recipes, check_options

if TYPE_CHECKING:
    from ..study.plan import StudyPlan
    from ..study.records import Record
    from ..study.storage import StudyStorage

EXPORT_FILE = "trials"
PREVIEW_ROWS = (32, 96)
_OF_THE_PLAN = (
    *("question", "model", "tasks", "base", "axes", "design", "seeds", "learning_rates"),
    *("tuning_seeds", "selection_rows", "report_rows", "trials", "finalists", "pruning"),
)
_ENDED = ("complete", "failed", "pruned")
_GIVE_UP_AFTER = 3
"""Workers in a row that ended with an error and without a trial."""


def run(options: StudyOptions) -> None:
    """Do what the action says."""
    if options.workers < 1:
        raise ConfigError(f"workers is {options.workers}", fix="give a number of at least 1")
    if options.action == "run":
        _run(options)
        return
    refuse_changed(options, _OF_THE_PLAN, f"`study {options.action}` takes the plan from the storage")
    storage = _storage(options)
    plan = storage.plan()
    if options.action == "resume":
        _run(options, storage, plan)
    elif options.action == "work":
        _work(options, storage, plan)
    elif options.action == "status":
        _print_status(plan, storage.records())
    elif options.action == "export":
        _export(options, storage.records())
    else:
        _report(options, storage, plan)


def plan_of(options: StudyOptions) -> StudyPlan:
    """The plan that the options describe.

    Raises:
        ConfigError: An option is missing or has a bad value.
    """
    from ..study.plan import StudyPlan, flat

    base = flat(options.base)
    if options.model:
        base = {"model": options.model, **base}
    if "model" not in base and "model" not in options.axes:
        raise ConfigError("No decoder is named", fix="give --model, e.g. gemma-3-270m")
    if bool(options.tasks) == ("train_file" in base):
        raise ConfigError("Give tasks, or a train_file in base", fix="--tasks cola,rte")
    return StudyPlan(
        tasks=tuple(options.tasks) or (FILE_TASK,),
        base=base,
        axes=options.axes,
        design=options.design,
        question=options.question,
        seeds=options.seeds,
        learning_rates=tuple(options.learning_rates),
        tuning_seeds=options.tuning_seeds,
        selection_rows=options.selection_rows,
        report_rows=options.report_rows,
        trials=options.trials,
        finalists=options.finalists,
        pruning=options.pruning,
    )


def _run(options: StudyOptions, storage: StudyStorage | None = None, plan: StudyPlan | None = None) -> None:
    plan = plan or plan_of(options)
    if options.dry_run:
        check_options(plan)
        _print_plan(plan)
        return
    check_writable(options.output, folder=True)
    quiet_libraries()
    recipes = Recipes(plan, Path(options.output) / "work")
    recipes.check(plan.arms_to_check())
    if options.preview:
        _preview(options, plan, recipes)
        return
    storage = storage or _storage(options)
    storage.begin(plan)
    del recipes  # the data are read again by each worker
    with _display(plan, storage.records()) as show:
        ended = _manage(options, storage, show)
    from ..study.choosing import left_of_search

    records = storage.records()
    failed = [each for each in records if each.state == "failed"]
    if any(each.result and each.key.stage == "report" for each in records):
        _report(options, storage, plan)
    if failed:
        first = failed[0]
        raise ConfigError(
            f"{counted(len(failed), 'trial')} failed; first {first.key}: {first.error}",
            fix="mend that and give the same command again: what is finished stays",
        )
    if left := left_of_search(records, plan):
        note(f"the search is not finished: {'; '.join(left)}")
    if left or not ended:
        more = "" if options.budget_minutes is None else " (to the end without --budget_minutes)"
        note(f"not all trials have run; the same command goes on{more}")


def _manage(options: StudyOptions, storage: StudyStorage, show: Any) -> bool:
    """Keep workers at work until nothing is left; gives whether nothing is."""
    command = [sys.executable, "-m", "gemma_encoder", "study", "work", options.output]
    for name in ("name", "storage", "budget_minutes"):
        if getattr(options, name) is not None:
            command.append(f"--{name}={getattr(options, name)}")
    threads = max(1, (os.cpu_count() or 1) // options.workers)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    logs = Path(options.output) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    processes: list[subprocess.Popen[bytes]] = []
    in_vain, finished = 0, 0

    def start() -> subprocess.Popen[bytes]:
        with (logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{len(list(logs.iterdir()))}.txt").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    with _stopped() as stopping:
        try:
            processes = [start() for _ in range(options.workers)]
            while processes and not stopping:
                records = storage.records()
                show(records)
                for process in [each for each in processes if each.poll() is not None]:
                    processes.remove(process)
                    now = sum(each.state in ("complete", "pruned") for each in records)
                    in_vain, finished = (0 if now > finished else in_vain + 1), now
                    if process.returncode and in_vain < _GIVE_UP_AFTER:
                        processes.append(start())  # what it left is found by its successor
                time.sleep(1)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
        show(storage.records())
    if in_vain >= _GIVE_UP_AFTER:
        raise ConfigError("The workers end with errors", fix=f"read the last file in {logs}")
    return all(each.state in ("complete", "pruned", "failed") for each in storage.records())


@contextmanager
def _stopped() -> Iterator[list[int]]:
    """Collect SIGTERM, which would end this process at once and leave its workers alone."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
    if received:
        raise SystemExit(128 + received[0])


def _work(options: StudyOptions, storage: StudyStorage, plan: StudyPlan) -> None:
    """Be a worker."""
    from ..study.worker import Worker

    quiet_libraries()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    work = Path(options.output) / "work" / str(os.getpid())
    Worker(storage, Recipes(plan, work), options.budget_minutes, note).work()


def _storage(options: StudyOptions) -> StudyStorage:
    from ..study.storage import StudyStorage

    folder = Path(options.output)
    if options.action != "run" and options.storage is None and not (folder / "study.db").is_file():
        raise ConfigError(f"{folder} holds no study", fix="name a study's folder, or its --storage")
    storage = StudyStorage(folder, options.name or folder.resolve().name, options.storage)
    if options.name is None and options.storage is None and len(names := storage.studies()) == 1:
        storage.name = names[0]  # the folder may have been renamed
    return storage


def _print_plan(plan: StudyPlan) -> None:
    arms = plan.arms()
    rows = [{"arm": arm.name, **arm.levels} for arm in arms]
    print_table("Would compare (dry run, nothing written):", rows)
    stages = Counter(key.stage for key in plan.trial_keys())
    facts: dict[str, Any] = {"tasks": list(plan.tasks), "seeds": plan.seeds}
    if stages["tuning"]:
        facts["trials to choose learning rates"] = stages["tuning"]
    if plan.design == "search":
        facts["trials of the search"] = plan.trials * len(plan.tasks)
        stages["report"] += plan.finalists * plan.seeds * len(plan.tasks)
    print_facts("", {**facts, "trials to report": stages["report"]})


def _print_status(plan: StudyPlan, records: Sequence[Record]) -> None:
    print_table(f"{plan.question or 'Study'}: trials", _table(plan, records))
    for each in records:
        if each.state == "failed":
            note(f"failed: {each.key}: {each.error}")
    print_facts("", _facts(plan, records))


def _table(plan: StudyPlan, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Arms by tasks: how many trials of each have ended, and their mean so far."""
    arms = list(dict.fromkeys([*(arm.name for arm in plan.arms()), *(each.key.arm for each in records)]))
    rows = []
    for arm in arms:
        of_arm = [each for each in records if each.key.arm == arm]
        if plan.design == "search" and {each.key.stage for each in of_arm} == {"search"}:
            continue  # shown as a number only
        row: dict[str, Any] = {"arm": arm}
        for task in plan.tasks:
            of_task = [each for each in of_arm if each.key.task == task]
            ended = [each for each in of_task if each.result]
            running = sum(each.state == "running" for each in of_task)
            row[task] = f"{len(ended)}/{len(of_task)}{' running' if running else ''}{_mean(ended)}"
        rows.append(row)
    return rows


def _mean(ended: Sequence[Record]) -> str:
    reports = [each.result.report for each in ended if each.result and each.result.report]
    if not reports:
        return ""
    metric = next(iter(reports[0]))
    return f", {metric} {sum(each[metric] for each in reports) / len(reports):.4f}"


def _facts(plan: StudyPlan, records: Sequence[Record]) -> dict[str, Any]:
    states = Counter(each.state for each in records)
    total = len(records)
    if plan.design == "search":
        searched = sum(each.key.stage == "search" for each in records)
        finalists = plan.finalists * plan.seeds * len(plan.tasks)
        total += max(0, plan.trials * len(plan.tasks) - searched)
        total += max(0, finalists + plan.seeds * len(plan.tasks) - (len(records) - searched))
    done = states["complete"] + states["pruned"]
    facts: dict[str, Any] = {"done": f"{done} of {total}", "running": states["running"]}
    if states["failed"]:
        facts["failed"] = states["failed"]
    taken = [each.result.minutes for each in records if each.result]
    left = total - done - states["failed"]
    if taken and left:
        minutes = median(taken) * left / max(1, states["running"])
        facts["left"] = f"about {_duration(minutes)} with {counted(max(1, states['running']), 'worker')}"
    best = [f"{task}: {found}" for task in plan.tasks if (found := _best(records, task))]
    if best:
        facts["best so far"] = "; ".join(best)
    return facts


def _best(records: Sequence[Record], task: str) -> str:
    """The arm with the best mean on a task so far, by the report rows if two arms have results of them."""
    from ..evaluation import higher_is_better

    for rows, fewest in (("report", 2), ("selection", 1)):
        values: dict[tuple[str, float | None], list[float]] = {}
        metric = ""
        for each in records:
            found = getattr(each.result, rows, None)
            if found and each.key.task == task:
                metric = next(iter(found))
                values.setdefault((each.key.arm, each.key.learning_rate), []).append(found[metric])
        if len(values) >= fewest:
            best = max if higher_is_better(metric) else min
            arm, rate = best(values, key=lambda key: fmean(values[key]))
            with_rate = "" if rate is None else f", learning rate {rate:g}"
            where = "" if rows == "report" else " on the selection rows"
            return f"{arm}{with_rate}, {metric} {fmean(values[arm, rate]):.4f}{where}"
    return ""


def _duration(minutes: float) -> str:
    """`42 seconds`, `3.4 minutes` or `2.5 hours`."""
    if minutes < 1:
        return f"{60 * minutes:.0f} seconds"
    return f"{minutes:.1f} minutes" if minutes < 60 else f"{minutes / 60:.1f} hours"


@contextmanager
def _display(plan: StudyPlan, before: Sequence[Record]) -> Iterator[Any]:
    """A live table on a terminal, a line for each trial that ended in a log; not for those of `before`."""
    if not sys.stderr.isatty():
        told: set[Any] = {each.key for each in before if each.state in _ENDED}
        if told:
            note(f"{_facts(plan, before)['done']} trials were done before")

        def tell(records: Sequence[Record]) -> None:
            for each in records:
                if each.state in _ENDED and each.key not in told:
                    told.add(each.key)
                    what = each.error if each.state == "failed" else _mean([each]).removeprefix(", ")
                    facts = _facts(plan, records)
                    best = _best(records, each.key.task)
                    so_far = f"; best so far {best}" if best else ""
                    ended = f"{each.key}: {what or each.state} ({each.seconds / 60:.1f} min)"
                    note(f"{facts['done']}: {ended}{so_far}")

        yield tell
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table

    def draw(records: Sequence[Record]) -> None:
        table = Table()
        rows = _table(plan, records)
        for name in rows[0]:
            table.add_column(name)
        for row in rows:
            table.add_row(*row.values())
        facts = ", ".join(f"{name} {value}" for name, value in _facts(plan, records).items())
        live.update(Group(plan.question or "Study", table, facts), refresh=True)

    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield draw


def _export(options: StudyOptions, records: Sequence[Record]) -> None:
    """One tidy row for each trial."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    rows = [each.to_row() for each in records]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows])
    path = Path(options.output) / f"{EXPORT_FILE}.{options.format}"
    check_writable(path)
    (pyarrow.csv.write_csv if options.format == "csv" else pyarrow.parquet.write_table)(table, path)
    print(f"{counted(len(rows), 'trial')} written to {path}")


def _report(options: StudyOptions, storage: StudyStorage, plan: StudyPlan) -> None:
    from ..study.analysis import analyse
    from ..study.report import write_report

    searched = plan.tasks if plan.design == "search" else ()
    findings = analyse(
        plan,
        storage.records(),
        storage.rows(),
        importance={task: storage.importance(plan, task) for task in searched},
        commands=[_to_resume(options)],
        interesting=options.interesting / 100,
    )
    for sentence in findings.answer:
        print(sentence)
    for path in write_report(findings, Path(options.output)):
        note(f"wrote {path}")


def _to_resume(options: StudyOptions) -> str:
    """The command that goes on with a study, without a password."""
    from ..study.storage import without_password

    words = ["gemma-encoder", "study", "resume", options.output]
    if options.name is not None:
        words.append(f"--name={options.name}")
    if options.storage is not None:
        words.append(f"--storage={without_password(options.storage)}")
    return shlex.join(words)


def _preview(options: StudyOptions, plan: StudyPlan, recipes: Recipes) -> None:
    """Two short trials of the baseline, after one that loads; from them how long all would take."""
    from ..study.trial import TrialRunner

    runner = TrialRunner(64, 64)
    baseline, task = plan.arms()[0], plan.tasks[0]
    points = []
    for number, rows in enumerate((PREVIEW_ROWS[0], *PREVIEW_ROWS)):
        recipe = recipes(baseline, task, 0, None)
        recipe = replace(recipe, max_train_rows=rows)
        recipe.args.num_train_epochs, recipe.args.max_steps = 1.0, -1
        result = runner.run(recipe, reports=True)
        if not number:
            continue
        tokens = result.train_rows * runner.mean_tokens(recipe)
        points.append((tokens, result.minutes))
        note(f"{counted(result.train_rows, 'row')} of {task}: {_duration(result.minutes)}")
    (few, short), (many, long) = points
    pace = (long - short) / max(1.0, many - few)
    if pace <= 0:  # the shorter one was slowed down by something else
        pace = long / max(1.0, many)
    fixed = max(0.0, short - pace * few)
    rows_of: list[dict[str, Any]] = []
    total = 0.0
    counts = Counter((key.task, key.arm) for key in plan.trial_keys())
    if plan.design == "search":
        for task in plan.tasks:
            counts[task, baseline.name] += plan.trials + plan.finalists * plan.seeds
    for task in plan.tasks:
        minutes = []
        for arm in plan.arms():
            recipe = recipes(arm, task, 0, None)
            each = fixed + pace * runner.computed_tokens(recipe, plan.selection_rows, plan.report_rows)
            minutes.append(each)
            total += each * counts[task, arm.name]
        trials = sum(number for (of_task, _), number in counts.items() if of_task == task)
        rows_of.append({"task": task, "trials": trials, "each": _duration(median(minutes))})
    print_table("By two short trials of the baseline:", rows_of)
    print_facts("", {"all": f"about {_duration(total)} with one worker on this machine"})
