"""`gemma-encoder train`: an encoder, or a decoder adapted on the way, learns a task."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .collections import is_given, open_list_files, open_lists, refuse_collection
from .common import (
    check_writable,
    counted,
    dropout_config,
    encoder_config,
    is_encoder_folder,
    load_encoder,
    note,
    other_training_options,
    print_facts,
    print_table,
    quiet_libraries,
    refuse_changed,
    refuse_existing,
)
from .options import (
    CollectionOptions,
    EncoderOptions,
    EvaluateOptions,
    ListOptions,
    TrainingOptions,
    TrainOptions,
)
from .plan import memory_plan, text_plan, without_room

if TYPE_CHECKING:
    from datasets import Dataset

    from ..encoder import Encoder
    from ..ranking.learning import TrainingLists
    from ..tasks import TaskData
    from ..training import EncoderTrainingArguments, TrainResult


def run(
    options: TrainOptions,
    lists: ListOptions,
    sources: CollectionOptions,
    training: TrainingOptions,
    encoder_options: EncoderOptions,
) -> None:
    """Read, adapt, train, save, say how good it is and what to do next."""
    ranking = bool(lists.train_lists) or is_given(sources)
    if sum((bool(options.task), bool(options.train_file), bool(lists.train_lists), is_given(sources))) != 1:
        raise ConfigError(
            "Give one of --task, --train_file, --train_lists and --collection",
            fix="--task sst2, --train_file rows.csv, or --train_lists lists.jsonl",
        )
    _refuse_what_does_nothing(options, lists, sources, training)
    _check_output(options)
    quiet_libraries()
    args = training_arguments(options, training, lists, ranking=ranking)
    folder = _load_folder(options, encoder_options)
    data = _lists(options, lists, sources, training) if ranking else _data(options, training, folder)
    encoder = folder or _from_decoder(options, training, encoder_options, data)
    from ..training import train
    from ..training.training import check_run

    check_run(encoder, data, args)
    if options.dry_run:
        _print_plan(options, args, encoder, data)
        return

    units = ("list", "document") if _in_lists(data) else ("row", "row")
    learnt, judged = counted(len(data.train), units[0]), counted(len(data.validation), units[1])
    note(f"{data.task.name}: {learnt} to train on, {judged} to judge by")
    if options.train_file:
        labels = ", ".join(data.task.labels)
        note(f"{data.task.problem_type} of {labels}; --problem_type and --labels change that")
    try:
        result = train(encoder, data, args, resume=options.resume, overwrite=options.overwrite)
    except KeyboardInterrupt:
        note(_how_to_go_on(options))
        raise
    _print_result(options, encoder, data, result)


def training_arguments(
    options: TrainOptions,
    training: TrainingOptions,
    lists: ListOptions | None = None,
    *,
    ranking: bool = False,
) -> EncoderTrainingArguments:
    """The options as training arguments: those given, the task's recipe, what --args adds.

    Raises:
        ConfigError: An option is unknown or has a bad value.
    """
    import torch

    from ..training import EncoderTrainingArguments, recipe_for
    from ..training.arguments import bf16_is_native

    given = asdict(training)
    extra = given.pop("args")
    for name in extra:
        if name in given or name in ("output_dir", "ranking_loss"):
            raise ConfigError(
                f"--args.{name} has an option of its own", fix=f"use --{name.removesuffix('_dir')}"
            )
    extra = other_training_options(extra)
    extra["ranking_loss"] = lists.ranking_loss if lists else "softmax"
    recipe = recipe_for(options.task or ("ranking" if ranking else ""))
    defaults = {
        "learning_rate": recipe.learning_rate,
        "head_learning_rate": recipe.head_learning_rate,
        "num_train_epochs": recipe.num_train_epochs,
        "per_device_train_batch_size": recipe.batch_size,
        "bf16": bf16_is_native() and not extra.get("fp16"),
        "early_stopping_patience": None,
    }
    # transformers wants to be told that bf16 on a machine without a GPU is meant.
    extra.setdefault("use_cpu", not torch.accelerator.is_available())
    chosen: dict[str, Any] = {
        name: defaults[name] if value is None else value for name, value in given.items()
    }
    try:
        return EncoderTrainingArguments(output_dir=options.output, **chosen, **extra)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"A training option has a bad value: {error}", fix="see transformers.TrainingArguments"
        ) from error


def _refuse_what_does_nothing(
    options: TrainOptions, lists: ListOptions, sources: CollectionOptions, training: TrainingOptions
) -> None:
    if lists.train_lists:
        refuse_collection(sources, "--train_lists brings queries and candidates")
    if lists.train_lists or is_given(sources):
        of_rows = ["text_column", "text_pair_column", "label_column", "label_separator", "problem_type"]
        of_rows += ["labels", "skip_bad_rows", "validation_file", "data_dir", "data_source"]
        refuse_changed(options, of_rows, "it is for rows, not for lists")
        if lists.validation_lists:
            refuse_changed(options, ("validation_fraction",), "--validation_lists says what to judge by")
        if lists.list_sampling == "uniform":
            refuse_changed(lists, ("list_positives",), "--list_sampling uniform draws any documents")
    else:
        names = [field.name for field in fields(lists)]
        refuse_changed(lists, names, "it is for --train_lists and --collection")
        refuse_collection(sources, "it is for --collection")
    if options.task:
        of_files = ["text_column", "text_pair_column", "label_column", "label_separator", "problem_type"]
        of_files += ["labels", "skip_bad_rows", "validation_file", "validation_fraction"]
        refuse_changed(options, of_files, "it is for files of your own, not for --task")
    elif options.train_file:
        refuse_changed(options, ("data_dir", "data_source"), "it is for --task, not for files of your own")
    if options.validation_file:
        refuse_changed(options, ("validation_fraction",), "--validation_file says what to judge by")
    if training.tune != "lora":
        lora = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "merge_adapter")
        refuse_changed(training, lora, f"it is for --tune lora, this is --tune {training.tune}")


def _check_output(options: TrainOptions) -> None:
    check_writable(options.output, folder=True)
    if options.resume and options.overwrite:
        raise ConfigError("--resume keeps the output and --overwrite replaces it", fix="give one of them")
    if options.resume:
        return
    refuse_existing(options.output, options.overwrite)
    from ..training.checkpoint_folder import checkpoint_folder, last_checkpoint

    if not options.overwrite and (checkpoint := last_checkpoint(checkpoint_folder(options.output))):
        raise ConfigError(
            f"An interrupted run left its checkpoints: {checkpoint}",
            fix="add --resume to go on, or --overwrite to start again",
        )


def _how_to_go_on(options: TrainOptions) -> str:
    from ..training.checkpoint_folder import checkpoint_folder, last_checkpoint

    checkpoint = last_checkpoint(checkpoint_folder(options.output))
    if checkpoint is None:
        return "no checkpoint was written yet; the same command starts again"
    return f"the last checkpoint is {checkpoint}; go on with --resume"


def _load_folder(options: TrainOptions, encoder_options: EncoderOptions) -> Encoder | None:
    """The encoder, if --model is one already."""
    if not is_encoder_folder(options.model):
        return None
    dropout = dropout_config(encoder_options)
    encoder = load_encoder(options.model, "float32", "cpu", dropout)  # the Trainer moves it
    made = asdict(encoder.config)
    made |= made["text"]
    for name in sorted(encoder_options.given - {"dropout"}):
        if asdict(encoder_options)[name] != made[name]:
            raise ConfigError(
                f"{options.model} is an encoder already: its {name} is {made[name]} and can't be changed",
                fix="leave it out, or train from the decoder",
            )
    return encoder


def _data(options: TrainOptions, training: TrainingOptions, folder: Encoder | None) -> TaskData:
    from ..tasks import FileTask, load_task

    rows, seed = options.max_train_rows, training.seed
    if options.task:
        data = load_task(options.task, options.data_dir, rows, seed, options.data_source)
        metrics = tuple(options.metrics or data.task.metrics)
        return replace(data, task=replace(data.task, metrics=metrics))
    known = folder.config if folder else None  # an adapted folder says what the labels are
    labels = options.labels or (known.labels if known else None)
    return FileTask(
        train=options.train_file or "",
        validation=options.validation_file,
        text_column=options.text_column,
        text_pair_column=options.text_pair_column,
        label_column=options.label_column,
        problem_type=options.problem_type or (known.problem_type if known else None),
        labels=tuple(labels) if labels else None,
        label_separator=options.label_separator,
        metrics=tuple(options.metrics) if options.metrics else None,
        validation_fraction=options.validation_fraction,
        max_train_rows=rows,
        seed=seed,
        skip_bad_rows=options.skip_bad_rows,
    ).load()


def _lists(
    options: TrainOptions, lists: ListOptions, sources: CollectionOptions, training: TrainingOptions
) -> TaskData:
    """Lists to train on, drawn anew in every epoch, and lists to judge by."""
    from ..ranking.collection import read_queries
    from ..ranking.learning import (
        TrainingLists,
        check_labels,
        hold_out,
        ranking_data,
        refuse_shared_queries,
    )
    from ..ranking.sampling import ListSampling

    sampling = ListSampling(lists.list_size or None, lists.list_sampling, lists.list_positives)
    train = (
        open_list_files(lists.train_lists)
        if lists.train_lists
        else open_lists(sources, judged=True, missing_positives="add", with_positives_only=True)
    )
    if idle := check_labels(train, lists.ranking_loss):
        note(idle)
    for file in lists.unseen_queries:
        refuse_shared_queries(train.queries(), read_queries(file).values(), f"kept unseen ({file})")
    if lists.validation_lists:
        judged = open_list_files(lists.validation_lists)
        refuse_shared_queries(train.queries(), judged.queries())
    else:
        train, judged = hold_out(train, options.validation_fraction, training.seed)
    drawn = train.sample(options.max_train_rows, training.seed)
    part = f"{len(drawn):,} of {len(train):,} lists drawn with seed {training.seed}"
    data = ranking_data(
        TrainingLists(drawn, sampling),
        judged,
        source=train.source,
        note=part if len(drawn) < len(train) else "",
        validation_source=judged.source,
    )
    metrics = tuple(options.metrics or data.task.metrics)
    return replace(data, task=replace(data.task, metrics=metrics))


def _from_decoder(
    options: TrainOptions, training: TrainingOptions, encoder_options: EncoderOptions, data: TaskData
) -> Encoder:
    from ..encoder import Encoder

    task = data.task
    name = options.task or ("ranking" if task.problem_type == "ranking" else "")
    config = encoder_config(encoder_options, name, task.template, task.problem_type, task.labels)
    return Encoder.from_decoder(options.model, config, seed=training.seed)


def _print_plan(
    options: TrainOptions, args: EncoderTrainingArguments, encoder: Encoder, data: TaskData
) -> None:
    from ..decoders import describe_decoder
    from ..evaluation.evaluate import texts
    from ..ranking.learning import TrainingLists
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
    facts |= {
        "steps": f"{_length(steps, args)}, batches of "
        f"{args.per_device_train_batch_size} rows in passes of at most {args.max_tokens:,} tokens",
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


def _print_result(options: TrainOptions, encoder: Encoder, data: TaskData, result: TrainResult) -> None:
    print_table(
        f"{options.output} on {data.task.name}",
        [
            {"metric": name, "model": f"{value:.4f}", "majority baseline": f"{result.baseline[name]:.4f}"}
            for name, value in result.metrics.items()
        ],
    )
    run = result.run
    units = ("list", "document") if _in_lists(data) else ("row", "row")
    rows, limit = run["data"], encoder.config.text.max_length
    facts = {
        "decoder": run["decoder"],
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
        if _in_lists(data)
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


def _in_lists(data: TaskData) -> bool:
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
