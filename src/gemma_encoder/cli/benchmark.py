"""`gemma-encoder benchmark`: GLUE or SuperGLUE as one plan that can be stopped and gone on with."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .common import (
    check_writable,
    counted,
    dropout_config,
    is_encoder_folder,
    note,
    other_training_options,
    print_facts,
    print_table,
    quiet_libraries,
    settled_attention,
)
from .options import BenchmarkOptions, EncoderOptions, RecipeOptions
from .report import write_and_print

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..benchmark import Plan
    from ..benchmark.runner import Progress

SMOKE_TRAIN_ROWS, SMOKE_VALIDATION_ROWS = 32, 64
ENCODER_FIELDS = ("attention", "window", "pooling", "head")
TOKENS_PER_SECOND = 240  # Gemma 3 270M on two CPU cores with bfloat16, see docs/results/quickstart.md


def run(options: BenchmarkOptions, recipe: RecipeOptions, encoder_options: EncoderOptions) -> None:
    """Plan, run what is missing, report."""
    if is_encoder_folder(options.model):
        raise ConfigError(
            f"{options.model} is an encoder already", fix="give the decoder, each trial adapts it"
        )
    _check_numbers(options, recipe, encoder_options)
    quiet_libraries()
    from ..decoders import refuse_missing

    for model in (options.model, *((options.encoder_model,) if options.baselines else ())):
        refuse_missing(model)
    if options.smoke:
        options, recipe = _smoke(options, recipe)
    plan = make_plan(options, recipe, encoder_options)
    folder = Path(options.output or f"runs/{options.suite}")
    check_writable(folder, folder=True)
    from ..benchmark.runner import finished, raise_failures, run_plan
    from ..benchmark.workload import check_data

    check_data(plan, dict.fromkeys(trial.task for trial in plan.trials() if not finished(folder, trial)))
    if options.dry_run:
        _print_plan(plan, folder)
        return
    with _display(plan) as show:
        progress = run_plan(
            plan,
            folder,
            jobs=options.jobs,
            budget_minutes=options.budget_minutes,
            keep_models=options.keep_models,
            show=show,
        )
    if progress.done:
        write_and_print(folder, wnli=options.wnli)
    if options.submission:
        _zip(plan, folder)
    if progress.waiting:
        note(f"{counted(len(progress.waiting), 'trial')} left; the same command goes on with them")
    raise_failures(progress)


def _check_numbers(options: BenchmarkOptions, recipe: RecipeOptions, encoder: EncoderOptions) -> None:
    """Refuse numbers that nothing can be run with, before the first trial fails for them.

    Raises:
        ConfigError: One is not above 0.
    """
    numbers = {name: value for name, value in asdict(recipe).items() if name not in ("bf16", "args")}
    numbers |= {"jobs": options.jobs, "budget_minutes": options.budget_minutes}
    numbers |= {"max_length": encoder.max_length}
    for name, value in numbers.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name} is {value}", fix="give a number above 0")


def _zip(plan: Plan, folder: Path) -> None:
    from ..benchmark.submission import zip_answers

    written, missing = zip_answers(plan, folder)
    for path in written:
        note(f"written to {path}")
    for lacking in missing:
        note(f"no zip for {lacking} are missing; trials/*/main/*/log.txt says why")


def make_plan(options: BenchmarkOptions, recipe: RecipeOptions, encoder_options: EncoderOptions) -> Plan:
    """The options as a plan: each task's recipe, and what was given instead of it.

    Raises:
        ConfigError: An option is unknown or has a bad value.
    """
    import torch

    from ..benchmark import Plan, get_suite
    from ..benchmark.plan import WARM_START_TASK
    from ..benchmark.suites import counted_tasks
    from ..precision import bf16_is_native
    from ..training import EncoderTrainingArguments, recipe_for

    if encoder_options.template is not None:
        raise ConfigError("--template is that of each task here", fix="leave it out")
    suite = get_suite(options.suite)
    counted_tasks(suite, wnli=options.wnli)  # refuses WNLI where there is none
    for name in recipe.args:
        if name in asdict(recipe) or name in ("output_dir", "seed"):
            raise ConfigError(f"--args.{name} is set by the benchmark", fix="leave it out")
    bf16 = bf16_is_native() if recipe.bf16 is None else recipe.bf16
    training: dict[str, Any] = {"bf16": bf16, "use_cpu": not torch.accelerator.is_available()}
    training |= other_training_options(recipe.args)
    EncoderTrainingArguments(output_dir="unused", **training)  # refuses bad values now
    given: dict[str, Any] = {
        "learning_rate": recipe.learning_rate,
        "head_learning_rate": recipe.head_learning_rate,
        "num_train_epochs": recipe.num_train_epochs,
        "batch_size": recipe.per_device_train_batch_size,
        "encoder_learning_rate": recipe.encoder_learning_rate,
        "max_train_rows": recipe.max_train_rows,
        "max_validation_rows": recipe.max_validation_rows,
        "max_length": encoder_options.max_length,
        "dropout": dropout_config(encoder_options),
    }
    changed = {name: value for name, value in given.items() if value is not None}
    file = Path(options.recipe) if options.recipe else None
    made = asdict(encoder_options) | {"attention": settled_attention(encoder_options)}
    made_into = [*ENCODER_FIELDS, *(["bidirectional_layers"] if encoder_options.bidirectional_layers else [])]
    # SuperGLUE has no MNLI, whose model warm starts begin from.
    trained = (*suite.tasks, WARM_START_TASK) if options.warm_start else suite.tasks
    return Plan(
        suite=suite.name,
        model=options.model,
        arms=("main", "stock", "encoder") if options.baselines else ("main",),
        tasks=tuple(dict.fromkeys(options.tasks or suite.tasks)),
        seeds=options.seeds,
        encoder_model=options.encoder_model if options.baselines else None,
        encoder={name: made[name] for name in made_into}
        | {"text": {"bos": encoder_options.bos, "eos": encoder_options.eos}},
        recipes={task: asdict(replace(recipe_for(task, file), **changed)) for task in trained},
        training=training,
        data_dir=options.data_dir,
        data_source=options.data_source,
        submission=options.submission,
        warm_start=options.warm_start,
    )


def _smoke(options: BenchmarkOptions, recipe: RecipeOptions) -> tuple[BenchmarkOptions, RecipeOptions]:
    """Everything as it is, but minutes long."""
    from ..benchmark import get_suite
    from ..tasks import get_task
    from ..tasks.sources import bundled_folder, find_file

    bundled = bundled_folder()
    if options.tasks is None and options.data_dir is None and bundled is not None:
        suite = get_suite(options.suite)
        tasks = [name for name in suite.tasks if find_file(bundled, get_task(name), "train")]
        if not tasks:
            raise ConfigError(
                f"No task of {suite.title} is bundled",
                fix="add --data_dir, or --tasks to get them from the hub",
            )
        options = replace(options, tasks=tasks, data_source="bundled")
    output = options.output or f"runs/{options.suite}-smoke"
    seeds = 1 if options.seeds == BenchmarkOptions.seeds else options.seeds
    small = replace(
        recipe,
        max_train_rows=recipe.max_train_rows or SMOKE_TRAIN_ROWS,
        max_validation_rows=recipe.max_validation_rows or SMOKE_VALIDATION_ROWS,
        num_train_epochs=recipe.num_train_epochs or 1.0,
    )
    return replace(options, output=output, seeds=seeds), small


def _print_plan(plan: Plan, folder: Path) -> None:
    """Trials and what they compute."""
    from ..benchmark.workload import train_rows, train_tokens
    from ..decoders import describe_decoder
    from ..tasks import get_task

    rows, total, all_known = [], 0.0, True
    for task in dict.fromkeys(trial.task for trial in plan.trials()):
        recipe, trials = plan.recipes[task], sum(trial.task == task for trial in plan.trials())
        official = get_task(task).official_rows[get_task(task).train_split]
        count, known = train_rows(plan, task)
        per_trial = train_tokens(plan, task, count)
        total += per_trial * trials
        all_known = all_known and known
        rows.append(
            {
                "task": task,
                "trials": trials,
                "official train rows": official,
                "used": count if known else f"at most {count:,}",
                "epochs": f"{recipe['num_train_epochs']:g}",
                "learning rate": f"{recipe['learning_rate']:g}",
                "million tokens a trial": f"{per_trial / 1e6:.2f}",
            }
        )
    print_table("Would run (dry run, nothing written):", rows)
    at_most, hours = "" if all_known else "at most ", total / TOKENS_PER_SECOND / 3600
    facts = {
        "decoder": describe_decoder(plan.model),
        "models": ", ".join(plan.arms),
        "diagnostics": ", ".join(task for task in plan.tasks if get_task(task).trained_on) or "none",
        "trained tokens": f"{at_most}{total / 1e6:,.1f} million (with Gemma 3's tokenizer, padding left out)",
        "on two CPU cores": f"{at_most or 'about '}{hours:,.1f} hours to train Gemma 3 270M",
        "output": folder,
    }
    print_facts("", facts)


@contextmanager
def _display(plan: Plan) -> Iterator[Callable[[Progress], None]]:
    """A live table on a terminal, lines in a log."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield lambda progress: live.update(_live_table(plan, progress), refresh=True)


class _Lines:
    """A line for each trial that ended."""

    def __init__(self) -> None:
        self.told: set[Any] | None = None

    def __call__(self, progress: Progress) -> None:
        ended = {**progress.done, **progress.failed}
        if self.told is None:
            running = set(progress.running)
            self.told = set(ended) - running
            if self.told:
                note(f"{counted(len(self.told), 'trial')} done before")
        total = len(ended) + len(progress.running) + len(progress.waiting)
        for trial in ended:
            if trial not in self.told:
                self.told.add(trial)
                result = progress.done.get(trial)
                said = _scores(result) if result else f"failed: {progress.failed[trial]}"
                note(f"{len(self.told)}/{total} {trial}: {said}")


def _live_table(plan: Plan, progress: Progress) -> Any:
    """Tasks by models: scores of the finished seeds, how long the running one runs, what waits."""
    from rich.console import Group
    from rich.table import Table

    from ..benchmark.judged import has_other_rows
    from ..benchmark.report import ARM_TITLES, MARK, MARK_MEANS

    ended = len(progress.done) + len(progress.failed)
    total = ended + len(progress.running) + len(progress.waiting)
    title = f"{plan.of_suite.title}, {plan.model}: {ended} of {total} trials"
    table = Table()
    table.add_column("task")
    for arm in plan.arms:
        table.add_column(ARM_TITLES[arm])
    trials = plan.trials()
    for task in dict.fromkeys(trial.task for trial in trials):
        cells = []
        for arm in plan.arms:
            parts = []
            for trial in (trial for trial in trials if (trial.task, trial.arm) == (task, arm)):
                if trial in progress.done:
                    record = progress.done[trial]
                    first = next(iter(record["results"][0]["metrics"].values()))
                    parts.append(f"{100 * first:.1f}{MARK if has_other_rows(record) else ''}")
                elif trial in progress.failed:
                    parts.append("[red]failed[/red]")
                elif trial in progress.running:
                    parts.append(f"[green]{(time.time() - progress.running[trial]) / 60:.0f} min[/green]")
                else:
                    parts.append("[dim]-[/dim]")
            cells.append("  ".join(parts))
        table.add_row(task, *cells)
    any_marked = any(has_other_rows(record) for record in progress.done.values())
    return Group(title, table, *([f"{MARK} {MARK_MEANS}"] if any_marked else []))


def _scores(record: dict[str, Any]) -> str:
    from ..benchmark.judged import has_other_rows
    from ..benchmark.report import MARK_MEANS

    shown = [
        f"{result['task']} {name} {value:.4f}"
        for result in record["results"]
        for name, value in result["metrics"].items()
    ]
    other_rows = f"; {MARK_MEANS}" if has_other_rows(record) else ""
    return f"{', '.join(shown)} ({record['minutes']:.1f} min{other_rows})"
