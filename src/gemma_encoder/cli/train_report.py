"""What `train` prints: the plan of a dry run, and the result with the commands that come next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .common import counted, print_facts, print_table
from .options import EvaluateOptions, TrainOptions
from .plan import memory_plan, text_plan, without_room

if TYPE_CHECKING:
    from datasets import Dataset

    from ..encoder import Encoder
    from ..ranking.learning import TrainingLists
    from ..tasks import TaskData
    from ..training import EncoderTrainingArguments, TrainResult


def print_plan(
    options: TrainOptions, args: EncoderTrainingArguments, encoder: Encoder, data: TaskData
) -> None:
    """What would be trained on what, for how long and with how much memory."""
    from ..decoders import describe_decoder
    from ..evaluation.evaluate import texts
    from ..ranking.learning import TrainingLists
    from ..training.embeddings import occurring
    from ..training.parameters import add_lora, set_trainable

    task = data.task
    lists = data.train if isinstance(data.train, TrainingLists) else None
    learnt = _pairs(lists, args.seed) if lists else texts(data.train)
    judged = texts(data.validation)
    steps = -(-data.items // (args.per_device_train_batch_size * args.gradient_accumulation_steps))
    if args.tune == "lora":
        add_lora(encoder, args)
    set_trainable(encoder, args.tune, train_embeddings=args.train_embeddings)
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    if args.train_embeddings and lists is None:
        table: Any = encoder.stock_backbone.get_input_embeddings().weight
        ids = encoder.tokenize([*texts(data.train), *texts(data.validation)]).input_ids
        trained -= (len(table) - len(occurring(encoder, ids))) * table.shape[1]
    facts: dict[str, Any] = {
        "model": options.model,
        "decoder": describe_decoder(encoder.config.decoder),
        "task": f"{task.name} ({task.problem_type})",
        "columns": (*task.text_columns, task.label_column),
        "labels": None if lists else _label_counts(data.train, task.labels, task.problem_type),
        "lists": lists and f"{len(lists):,} to train on; {lists.sampling}",
        "template": repr(encoder.config.text.template),
        "metrics": task.metrics,
    }
    for part, rows, source, remark, budget in (
        ("train", learnt, data.train_source, data.train_note, args.max_tokens),
        ("validation", judged, data.validation_source, data.validation_note, args.eval_max_tokens),
    ):
        facts[part] = f"{source}{f' ({remark})' if remark else ''}"
        plan = text_plan(encoder, rows, budget)
        facts |= {f"{part} {name}": plan[name] for name in ("rows", "tokens per text", "texts cut")}
    if data.skipped:
        facts["bad rows skipped"] = data.skipped
    optimiser = trained * 12 / 2**20  # gradient and Adam's two moments, float32
    rate, head_rate = args.learning_rate, args.head_learning_rate
    batch = counted(args.per_device_train_batch_size, "list" if lists else "row")
    facts |= {
        "steps": f"{_length(steps, args)}, batches of {batch}, passes of at most {args.max_tokens:,} tokens",
        "learning rate": f"{rate:g}, pooler and head {head_rate:g}",
        "precision": "bfloat16 compute, float32 weights" if args.bf16 else "float32",
        "tune": f"{args.tune}: {trained:,} parameters",
        **memory_plan(encoder),
        "gradients and optimiser": f"{optimiser:,.0f} MiB",
        "output": options.output,
    }
    print_facts(
        "Would train (dry run, nothing written):",
        {name: fact for name, fact in facts.items() if fact is not None},
    )


def _pairs(lists: TrainingLists, seed: int) -> Iterator[tuple[str, str]]:
    """What the first epoch sees."""
    for candidates in lists.draw(seed):
        for document in candidates.documents:
            yield candidates.query, document


def _length(steps: int, args: EncoderTrainingArguments) -> str:
    if args.max_steps > 0:
        return f"{args.max_steps:,}"
    return f"{steps:,} an epoch, {args.num_train_epochs:g} epochs"


def _label_counts(rows: Dataset, labels: tuple[str, ...], problem_type: str) -> str:
    """How often each label occurs; for regression the range."""
    values = rows["label"][:]
    if problem_type == "ranking":
        return f"{sum(value > 0 for value in values):,} right of {len(values):,} candidates"
    if problem_type == "regression":
        return f"{labels[0]} from {min(values):g} to {max(values):g}"
    if problem_type == "multi_label_classification":
        counts = Counter({index: int(sum(column)) for index, column in enumerate(zip(*values, strict=True))})
    else:
        counts = Counter(values)
    return ", ".join(f"{label} {counts[index]:,}" for index, label in enumerate(labels))


def print_result(options: TrainOptions, encoder: Encoder, data: TaskData, result: TrainResult) -> None:
    """How good it is, what it was made of, and what to do next."""
    print_table(
        f"{options.output} on {data.task.name}",
        [
            {"metric": name, "model": f"{value:.4f}", "majority baseline": f"{result.baseline[name]:.4f}"}
            for name, value in result.metrics.items()
        ],
    )
    run = result.run
    units = ("list", "document") if in_lists(data) else ("row", "row")
    rows, limit = run["data"], encoder.config.text.max_length
    chosen = run.get("attention")
    facts = {
        "decoder": run["decoder"],
        "attention": chosen and f"{chosen['attention']}, {chosen['pooling']} pooling (auto: {chosen['why']})",
        "trained on": f"{counted(rows['train_rows'], units[0])} of {data.train_source}",
        "judged by": f"{counted(rows['validation_rows'], units[1])} of {data.validation_source}",
        "not the official split" if options.task else "split": "; ".join(
            filter(None, (data.train_note, data.validation_note))
        ),
        "texts cut": f"{counted(rows['truncated'], 'text')} longer than {limit} tokens",
        "no room": without_room(rows["no_room"]) if rows["no_room"] else "",
        "bad rows skipped": data.skipped,
        "empty texts": data.empty_texts,
        "speed": f"{run['tokens_per_second']:,.0f} tokens/s, {run['padding_avoided']:.0%} padding avoided",
        "time": f"{run['wall_seconds']:,.0f} s",
    }
    print_facts("", {name: fact for name, fact in facts.items() if fact})
    commands = (
        [_command("rank", options, "--lists", "FILE", "--output", "reranked.trec")]
        if in_lists(data)
        else [
            _command("predict", options, *_sample(data)),
            _command("evaluate", options, *_same_data(options)),
        ]
    )
    commands.append(_command("inspect", options))
    print(
        f"\nThe model is in {options.output}, the record of the run in {options.output}/run.json. Next:\n"
        + "\n".join(f"  {command}" for command in commands)
    )


def in_lists(data: TaskData) -> bool:
    """Whether it learns from lists that lie elsewhere, and not from rows."""
    from datasets import Dataset

    return not isinstance(data.train, Dataset)


def _command(verb: str, options: TrainOptions, *more: str) -> str:
    return shlex.join(["gemma-encoder", verb, "--model", options.output, *more])


def _sample(data: TaskData) -> tuple[str, ...]:
    pair = ("--text_pair", "another") if data.task.is_pair else ()
    return ("--text", "one text", *pair)


def _same_data(options: TrainOptions) -> list[str]:
    """What tells `evaluate` to judge by the rows that training judged by."""
    if options.task:
        return ["--task", options.task, *(("--data_dir", options.data_dir) if options.data_dir else ())]
    words = ["--file", options.validation_file or "FILE"]
    for name in ("text_column", "text_pair_column", "label_column", "label_separator"):
        value = getattr(options, name)
        if value is not None and value != getattr(EvaluateOptions, name):
            words += [f"--{name}", value]
    return words
