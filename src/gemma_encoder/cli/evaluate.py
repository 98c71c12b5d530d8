"""`gemma-encoder evaluate`: official metrics of a trained encoder, the majority baseline beside them. A run
is for `evaluate_run`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..json_files import write_json
from .common import (
    check_writable,
    counted,
    load_encoder,
    note,
    print_facts,
    print_table,
    refuse_changed,
    refuse_existing,
)
from .options import ComputeOptions, EvaluateOptions, RunEvaluationOptions
from .plan import memory_plan, text_plan

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..evaluation.evaluate import Evaluation
    from ..tasks import Split, Task


def run(options: EvaluateOptions, of_runs: RunEvaluationOptions, compute: ComputeOptions) -> None:
    """Judge, print, write JSON."""
    if sum(source is not None for source in (options.task, options.file, of_runs.run)) != 1:
        raise ConfigError(
            "Give one of --task, --file and --run",
            fix="--task sst2 or --file rows.csv with --model, or --run out.trec with --qrels",
        )
    if of_runs.run is not None:
        from .evaluate_run import evaluate_run

        evaluate_run(of_runs.run, options, of_runs, compute)
        return
    refuse_changed(
        of_runs, [each.name for each in fields(of_runs) if each.name != "given"], "it is for --run"
    )
    if options.model is None:
        raise ConfigError("Nothing says what to judge", fix="add --model FOLDER, a trained encoder")
    _evaluate_encoder(options.model, options, compute)


def _evaluate_encoder(model: str, options: EvaluateOptions, compute: ComputeOptions) -> None:
    if options.task:
        of_files = ("text_column", "text_pair_column", "label_column", "label_separator", "skip_bad_rows")
        refuse_changed(options, of_files, "it is for --file, not for --task")
    else:
        refuse_changed(options, ("split", "data_dir", "data_source"), "it is for --task, not for --file")
    if options.json_out:
        check_writable(options.json_out, "--json_out")
        refuse_existing(options.json_out, options.overwrite, "--json_out")
    encoder = load_encoder(model, compute.dtype, compute.device, compile_layers=compute.compile_layers)
    from ..decoders import describe_decoder
    from ..evaluation.evaluate import evaluate, label_order, texts
    from ..evaluation.metrics import check_metrics
    from ..tasks.base import CANDIDATE, GROUP

    task = _task(options, encoder)
    output = Path(options.json_out or Path(model) / f"evaluation-{task.name}.json")
    check_writable(output, "--json_out")
    label_order(encoder, task)
    split = _split(options, task)
    columns = split.rows.column_names
    check_metrics(
        options.metrics or task.metrics,
        task.problem_type,
        len(task.labels),
        groups=GROUP in columns,
        candidates=CANDIDATE in columns,
    )
    if options.dry_run:
        facts = {
            "model": model,
            "decoder": describe_decoder(encoder.config.decoder),
            "data": split.source,
            "columns": (*task.text_columns, task.label_column),
            "labels": task.labels,
            "metrics": options.metrics or task.metrics,
            **text_plan(encoder, texts(split.rows), compute.max_tokens),
            "bad rows skipped": split.skipped,
            **memory_plan(encoder),
            "output": output,
        }
        print_facts("Would evaluate (dry run, nothing written):", facts)
        return
    result = evaluate(encoder, split, task, max_tokens=compute.max_tokens, metrics=options.metrics)
    _print(result, encoder, model)
    decoder = describe_decoder(encoder.config.decoder)
    write_json(output.resolve(), {"model": model, "decoder": decoder, **result.to_dict()})
    note(f"written to {output}")


def _task(options: EvaluateOptions, encoder: Encoder) -> Task:
    """The task; that of a file has the model's labels and kind of task."""
    from ..tasks import DEFAULT_METRICS, Task, get_task

    if options.file is None:
        return get_task(options.task or "")
    config = encoder.config
    if config.problem_type == "ranking":
        raise ConfigError(
            "Files of your own can't hold lists of candidates yet", fix="evaluate on a built-in task"
        )
    columns = (options.text_column, options.text_pair_column)
    return Task(
        name=Path(options.file).name.split(".")[0],
        text_columns=columns if config.text.is_pair else columns[:1],
        label_column=options.label_column,
        problem_type=config.problem_type,
        labels=config.labels,
        metrics=DEFAULT_METRICS[config.problem_type],
        template=config.text.template,
        label_separator=options.label_separator,
    )


def _split(options: EvaluateOptions, task: Task) -> Split:
    from ..tasks import load_split, read_table

    if options.file is not None:
        return read_table(options.file, task, skip_bad_rows=options.skip_bad_rows)
    return load_split(
        task, options.split or task.validation_split, options.data_dir, source=options.data_source
    )


def _print(result: Evaluation, encoder: Encoder, model: str) -> None:
    from ..decoders import describe_decoder

    print_table(
        f"{model} on {result.task}",
        [
            {"metric": name, "model": f"{value:.4f}", "majority baseline": f"{result.baseline[name]:.4f}"}
            for name, value in result.metrics.items()
        ],
    )
    facts: dict[str, Any] = {
        "decoder": describe_decoder(encoder.config.decoder),
        "rows": f"{result.rows:,} of {result.source}",
    }
    if result.note:
        facts["not the official split"] = result.note
    limit = encoder.config.text.max_length
    facts["texts cut"] = f"{counted(result.truncated, 'text')} longer than {limit} tokens"
    if result.skipped:
        facts["bad rows skipped"] = result.skipped
    if result.empty_texts:
        facts["empty texts"] = result.empty_texts
    facts["speed"] = f"{result.rows / max(result.seconds, 1e-9):,.1f} rows/s"
    print_facts("", facts)
