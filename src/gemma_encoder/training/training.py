"""One training run, from rows to a saved folder with `run.json`."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from ..checkpoint import CONFIG_FILE
from ..decoders import describe_decoder
from ..encoder import Encoder
from ..errors import ConfigError
from ..evaluation import check_metrics, higher_is_better, majority_baseline
from ..evaluation.evaluate import label_order
from ..tasks import TaskData
from ..tasks.base import CANDIDATE, GROUP
from .arguments import EncoderTrainingArguments
from .checkpoint_folder import begin
from .collation import Lists, TokenizedRows, TrainingItems
from .embeddings import only_rows_of
from .parameters import add_lora, set_trainable
from .recommendations import Recommendation
from .recording import begun_run, count_parameters, finish, recorded
from .run_record import resolved_arguments
from .trainer import EncoderTrainer


@dataclass(frozen=True)
class TrainResult:
    """What a training run gave.

    Attributes:
        metrics: The task's metrics on the validation rows, of the saved weights.
        baseline: The same metrics for always answering with the commonest label (or the mean).
        output_dir: The saved folder.
        run: The content of `run.json`.
        scores: The saved weights' scores of the validation rows, float32 `[N, num_labels]`.
    """

    metrics: dict[str, float]
    baseline: dict[str, float]
    output_dir: Path
    run: dict[str, Any]
    scores: np.ndarray


def train(
    encoder: Encoder,
    data: TaskData,
    args: EncoderTrainingArguments,
    *,
    resume: bool = False,
    overwrite: bool = False,
    save: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
    recommendation: Recommendation | None = None,
) -> TrainResult:
    """Fine-tune an encoder and save it with `run.json` in `args.output_dir`.

    Checkpoints lie beside it in `<output_dir>.checkpoints` until the run has finished.

    Args:
        encoder: Changed in place; ends with the best weights by the task's main metric, in eval mode.
        data: Rows to learn from and to judge by.
        args: Options.
        resume: Go on from the last whole checkpoint; the result is that of an uninterrupted run.
        overwrite: Replace a model in `output_dir`, and delete the checkpoints of an interrupted run.
        save: Write the model and `run.json`. Without, `output_dir` says only where checkpoints lie meanwhile.
        callbacks: What else is to be told how it goes.
        recommendation: By which attention and pooling were chosen; `run.json` and the model card say so.

    Raises:
        ConfigError: The encoder does not fit the task, an option can't be used, or there is an earlier run
            in `output_dir` and nothing says what to do with it.
        TrainingError: The loss is not finite, a checkpoint can't be written, or there is nothing to resume.
        CheckpointError: The result can't be saved.
    """
    task = data.task
    output_dir = Path(str(args.output_dir)).absolute()  # "." has no name to call the checkpoints by
    check_run(encoder, data, args)
    checkpoints, found = begin(args, output_dir, resume=resume, overwrite=overwrite)
    started = time.perf_counter()
    set_seed(args.seed)
    if args.tune == "lora":
        add_lora(encoder, args)
    set_trainable(encoder, args.tune, train_embeddings=args.train_embeddings)
    train_items = _training_items(encoder, data, args.seed)
    validation_rows = TokenizedRows(encoder, data.validation)
    trainer_args = _trainer_args(args, task.main_metric, checkpoints)
    run = {
        **begun_run(encoder, args.seed, found),
        "task": {"name": task.name, "metrics": list(task.metrics), "main_metric": task.main_metric},
        "decoder": describe_decoder(encoder.config.decoder),
        "training": resolved_arguments(trainer_args),
        "data": {
            "train_rows": len(data.train),
            "validation_rows": len(validation_rows),
            "train_source": data.train_source,
            "validation_source": data.validation_source,
            "train_note": data.train_note,
            "validation_note": data.validation_note,
            "skipped": data.skipped,
            "empty_texts": data.empty_texts,
        },
    }
    if recommendation:
        run["attention"] = {"asked": "auto", **asdict(recommendation)}
    baseline = majority_baseline(
        validation_rows.labels.numpy(), task.metrics, task.problem_type, **validation_rows.together()
    )
    trainer = EncoderTrainer(encoder, trainer_args, task, train_items, validation_rows)
    for callback in callbacks:
        trainer.add_callback(callback)
    if args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
    with recorded(run, trainer, checkpoints, started):
        with _layout(encoder, args), _embeddings(encoder, args, train_items, validation_rows):
            run["parameters"] = count_parameters(encoder)
            if found and trainer.had_stopped_early(found):
                trainer.finish_from(found)
            else:
                trainer.train(resume_from_checkpoint=found)
            evaluated = _evaluation_of_best(trainer) or trainer.evaluate()
            scores = trainer.scores_of_validation()
        encoder.eval()
        metrics = {name: evaluated[f"eval_{name}"] for name in task.metrics}
        if save and trainer.is_world_process_zero():
            remark = (
                f"Attention and pooling were left to `auto`: {recommendation.why}." if recommendation else ""
            )
            encoder.save_pretrained(output_dir, merge_adapter=args.merge_adapter, remark=remark)
    run |= {
        "metrics": metrics,
        "baseline": baseline,
        "best_step": trainer.state.best_global_step,
        "history": [
            entry
            for entry in trainer.state.log_history
            if "eval_" + task.main_metric in entry or "loss" in entry
        ],
    }
    finish(run, trainer, checkpoints, output_dir if save else None)
    return TrainResult(metrics, baseline, output_dir, run, scores)


def check_run(encoder: Encoder, data: TaskData, args: EncoderTrainingArguments) -> None:
    """Find what would fail after hours, before the first step.

    Raises:
        ConfigError: The encoder, the rows and the options don't go together.
    """
    task, config, output_dir = data.task, encoder.config, Path(str(args.output_dir))
    order = label_order(encoder, task)
    if order != sorted(order):
        raise ConfigError(
            f"The encoder's labels are {', '.join(config.labels)}, the task's {', '.join(task.labels)}",
            fix="give the task's labels in the encoder's order",
        )
    if task.problem_type == "regression" and len(task.labels) > 1:
        raise ConfigError(
            f"The encoder gives {len(task.labels)} numbers, a row of the data has one",
            fix="adapt the decoder with one label for regression",
        )
    columns = data.validation.column_names
    check_metrics(
        task.metrics,
        task.problem_type,
        len(task.labels),
        groups=GROUP in columns,
        candidates=CANDIDATE in columns,
    )
    train_columns = data.train.column_names if isinstance(data.train, Dataset) else [GROUP]
    if task.problem_type == "ranking" and not {GROUP} <= {*train_columns} & {*columns}:
        raise ConfigError(
            "Ranking learns from lists, and these rows are in none",
            fix=f"give the rows a column {GROUP!r} with the number of their list",
        )
    if task.problem_type != "ranking" and args.ranking_loss != "softmax":
        raise ConfigError(
            f"ranking_loss does nothing in {task.problem_type}", fix="leave it out, or train on lists"
        )
    if not len(data.train) or not len(data.validation):
        raise ConfigError("The training or the validation data has no row", fix="give both at least one row")
    check_weights(encoder, args)
    layout = args.layout or encoder.layout
    encoder.check_layout(layout)
    if layout == "packed" and (args.padding_side, args.padded_positions) != ("right", "text"):
        raise ConfigError(
            "padding_side and padded_positions do nothing in the packed layout, which has no padding",
            fix="leave them out, or use layout=padded",
        )
    if args.attention_ramp and (layout == "padded" or encoder.config.attention == "causal"):
        raise ConfigError(
            "attention_ramp is for bidirectional attention in the packed layout", fix="leave it out"
        )
    if layout == "padded" and args.compile_layers:
        raise ConfigError(
            "compile_layers does nothing in the padded layout", fix="leave it out, or use layout=packed"
        )
    if args.dataloader_drop_last and len(data.train) < args.per_device_train_batch_size:
        raise ConfigError(
            f"dataloader_drop_last leaves no batch: there are {len(data.train)} training rows, "
            f"a batch has {args.per_device_train_batch_size}",
            fix="leave it out, or use smaller batches",
        )
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / CONFIG_FILE).is_file():
        raise ConfigError(
            "The output folder holds other files", where=str(output_dir), fix="give a new or empty folder"
        )


def check_weights(encoder: Encoder, args: EncoderTrainingArguments) -> None:
    """Refuse precisions, and adapters, with which training would go wrong.

    Raises:
        ConfigError: Says which.
    """
    if args.fp16 and encoder.stock_backbone.config.model_type.startswith("gemma"):
        raise ConfigError(
            "fp16 can't train Gemma: its activations overflow float16",
            fix="use bf16, or float32 where bf16 is slow",
        )
    if args.tune == "full" and encoder.dtype != torch.float32:
        raise ConfigError(
            f"Full fine-tuning of {encoder.dtype} weights loses small updates",
            fix="load the model in float32 (bf16 autocast is as fast), or use tune lora or head",
        )
    if args.tune == "full" and hasattr(encoder.backbone, "peft_config"):
        raise ConfigError(
            "The encoder has a LoRA adapter, which full fine-tuning would train beside the weights",
            fix="use tune=lora to train the adapter on, or save the encoder with the adapter merged first",
        )


def _trainer_args(
    args: EncoderTrainingArguments, main_metric: str, checkpoints: Path
) -> EncoderTrainingArguments:
    # Not dataclasses.replace: a second __post_init__ resets accelerate's state in a distributed run.
    changed = copy.copy(args)
    changed.output_dir = str(checkpoints)
    changed.metric_for_best_model = f"eval_{main_metric}"
    changed.greater_is_better = higher_is_better(main_metric)
    return changed


def _training_items(encoder: Encoder, data: TaskData, seed: int) -> TrainingItems:
    if not isinstance(data.train, Dataset):
        items: TrainingItems = data.train.tokenized(encoder, seed)
        return items
    rows = TokenizedRows(encoder, data.train)
    if encoder.config.problem_type == "regression":
        _standardise(encoder, rows.labels)
    return rows.in_lists() if encoder.config.problem_type == "ranking" else rows


def _embeddings(
    encoder: Encoder, args: EncoderTrainingArguments, train_items: TrainingItems, validation: TokenizedRows
) -> AbstractContextManager[None]:
    """What makes trained token embeddings small, where all texts are known: not if lists are drawn."""
    rows = train_items.rows if isinstance(train_items, Lists) else train_items
    if not args.train_embeddings or not isinstance(rows, TokenizedRows):
        return nullcontext()
    return only_rows_of(encoder, [*rows.input_ids, *validation.input_ids])


@contextmanager
def _layout(encoder: Encoder, args: EncoderTrainingArguments) -> Iterator[None]:
    """Train in the layout that is asked for; afterwards the encoder has its own again."""
    before = encoder.layout, encoder.padding_side, encoder.padded_positions
    encoder.layout = args.layout or encoder.layout
    if encoder.layout == "padded":
        encoder.padding_side, encoder.padded_positions = args.padding_side, args.padded_positions
    try:
        yield
    finally:
        encoder.layout, encoder.padding_side, encoder.padded_positions = before


def _standardise(encoder: Encoder, targets: torch.Tensor) -> None:
    """Let a new regression head learn targets of mean 0 and deviation 1 and answer in their own units."""
    if (encoder.head.output_scale, encoder.head.output_shift) != (1.0, 0.0):
        return  # trained before: its outputs mean something already
    deviation = targets.double().std(correction=0).item()
    encoder.head.output_shift = targets.double().mean().item()
    encoder.head.output_scale = deviation if deviation > 0 else 1.0


def _evaluation_of_best(trainer: EncoderTrainer) -> dict[str, float] | None:
    """The metrics of the weights that were loaded at the end, if they were evaluated before."""
    if not (trainer.options.load_best_model_at_end and trainer.state.best_global_step):
        return None
    judged = (entry for entry in trainer.state.log_history if entry["step"] == trainer.state.best_global_step)
    return next((entry for entry in judged if trainer.options.metric_for_best_model in entry), None)
