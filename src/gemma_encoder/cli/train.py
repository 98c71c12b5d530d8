"""`gemma-encoder train`: an encoder, or a decoder adapted on the way, learns a task."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .auto_attention import in_a_line, resolved
from .collections import is_given, refuse_collection
from .common import (
    check_writable,
    counted,
    dropout_config,
    encoder_config,
    is_encoder_folder,
    load_encoder,
    note,
    other_training_options,
    quiet_libraries,
    refuse_changed,
    refuse_existing,
)
from .options import (
    CollectionOptions,
    EncoderOptions,
    ListOptions,
    TrainingOptions,
    TrainOptions,
)
from .train_data import lists_to_learn, rows_to_learn
from .train_report import in_lists, print_plan, print_result

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..tasks import TaskData
    from ..training import EncoderTrainingArguments


# What a new head has of its task and the options, and what stays as the folder has it if not given.
_OF_THE_TASK = ("head", "dropout", "text", "problem_type", "labels")
_OF_THE_BACKBONE = {"attention", "window", "bidirectional_layers", "pooling"}


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
    folder = None if options.new_head else _load_folder(options, encoder_options, ranking=ranking)
    data = (
        lists_to_learn(options, lists, sources, training)
        if ranking
        else rows_to_learn(options, training, folder)
    )
    encoder_options, choice = resolved(encoder_options, options.model, data)
    if choice:
        note(in_a_line(choice))
    encoder = folder or _make_encoder(options, training, encoder_options, data)
    from ..training import train
    from ..training.training import check_run

    check_run(encoder, data, args)
    if options.dry_run:
        print_plan(options, args, encoder, data)
        return

    units = ("list", "document") if in_lists(data) else ("row", "row")
    learnt, judged = counted(len(data.train), units[0]), counted(len(data.validation), units[1])
    note(f"{data.task.name}: {learnt} to train on, {judged} to judge by")
    if options.train_file:
        labels = ", ".join(data.task.labels)
        note(f"{data.task.problem_type} of {labels}; --problem_type and --labels change that")
    try:
        result = train(
            encoder, data, args, resume=options.resume, overwrite=options.overwrite, recommendation=choice
        )
    except KeyboardInterrupt:
        note(_how_to_go_on(options))
        raise
    print_result(options, encoder, data, result)


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

    from ..precision import bf16_is_native
    from ..training import EncoderTrainingArguments, recipe_for

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
        "compile_layers": None,
        "layout": None,
    }
    if training.average_last:  # the mean is saved, not a checkpoint
        extra.setdefault("load_best_model_at_end", False)
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
    if options.new_head and not is_encoder_folder(options.model):
        raise ConfigError(
            f"--new_head does nothing here: {options.model} is no folder that `adapt` or `train` wrote",
            fix="leave it out: a decoder is given a new head anyway",
        )
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


def _load_folder(options: TrainOptions, encoder_options: EncoderOptions, *, ranking: bool) -> Encoder | None:
    """The encoder, if --model is one already. The score of a regression is one to rank by."""
    if not is_encoder_folder(options.model):
        return None
    from ..checkpoint import saved_config
    from ..encoder import Encoder

    config = saved_config(options.model)
    made = asdict(config)
    made |= made["text"]
    free = {"dropout", "attention"} if encoder_options.attention == "auto" else {"dropout"}
    for name in sorted(encoder_options.given - free):
        if asdict(encoder_options)[name] != made[name]:
            raise ConfigError(
                f"{options.model} is an encoder already: its {name} is {made[name]} and can't be changed",
                fix="leave it out, add --new_head for another task, or train from the decoder",
            )
    dropout = dropout_config(encoder_options)
    if ranking and config.problem_type == "regression" and config.num_labels == 1:
        note(f"{options.model} gives a number: its head is kept and learns to rank by it")
        return Encoder.from_encoder(
            options.model, keep_head=True, problem_type="ranking", dropout=dropout or config.dropout
        )
    return load_encoder(options.model, "float32", "cpu", dropout)  # the Trainer moves it


def _make_encoder(
    options: TrainOptions, training: TrainingOptions, encoder_options: EncoderOptions, data: TaskData
) -> Encoder:
    """A new head for the task, on a decoder or on what another encoder has learnt."""
    from ..encoder import Encoder

    task = data.task
    name = options.task or ("ranking" if task.problem_type == "ranking" else "")
    config = encoder_config(encoder_options, name, task.template, task.problem_type, task.labels)
    if not options.new_head:
        return Encoder.from_decoder(options.model, config, seed=training.seed)
    overrides: dict[str, Any] = {field: getattr(config, field) for field in _OF_THE_TASK}
    overrides |= {field: getattr(config, field) for field in encoder_options.given & _OF_THE_BACKBONE}
    return Encoder.from_encoder(options.model, seed=training.seed, **overrides)
