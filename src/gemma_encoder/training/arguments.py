"""What can be set about training: transformers' `TrainingArguments` and what packed encoders add."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy, SchedulerType

from ..encoder import Layout, PaddedPositions, PaddingSide
from ..errors import ConfigError, first_line
from ..losses import RankingLoss
from ..precision import bf16_is_native

Tune = Literal["full", "lora", "head"]

_NOT_SUPPORTED = (
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "auto_find_batch_size",
    "use_liger_kernel",
    "torch_compile",  # the whole model, packing included; `compile_layers` is for what pays
    "push_to_hub",
    "fsdp",  # processes cut batches into different numbers of passes: sharded weights would wait for ever
    "deepspeed",
    "save_only_model",  # such a checkpoint can't be resumed
    "ignore_data_skip",  # a resumed run would see other rows
    "resume_from_checkpoint",  # the Trainer itself doesn't look at it
)


@dataclass
class EncoderTrainingArguments(TrainingArguments):
    """Training options. Names and meaning are those of `TrainingArguments`; these are added or have other
    defaults.

    `per_device_train_batch_size` (rows per optimiser step, times `gradient_accumulation_steps`) decides what
    is learnt. `max_tokens` only decides how a batch is cut into forward passes: the gradient is that of the
    whole batch whatever it is, to float tolerance, except that dropout draws other masks. A ranking list of
    more tokens is computed in parts, each twice, so that its length is bounded by time and not by memory.

    The command line fills in `training.recipes` instead (another learning rate for the head, and dropout);
    from Python give those yourself.

    With `load_best_model_at_end` the checkpoint is chosen by the validation rows, and the score of the chosen
    one is a little too good for rows nobody has seen. Keep a split apart to report.

    Attributes:
        bf16: Autocast to bfloat16 over float32 weights; on where the machine has it in hardware.
        max_tokens: Most tokens in one forward pass while training.
        eval_max_tokens: Most tokens in one forward pass while evaluating.
        compile_layers: Compute the layers by compiled code, which is faster and takes up to half a minute to
            make. If None: where that is possible, if what is left after a few steps is worth it.
        layout: Packed, or for a comparison padded, by stock attention; as the encoder has it if None. What is
            learnt is the same, to float tolerance.
        padding_side: Where the padded layout has its padding.
        padded_positions: What the padded layout counts positions from: a text's first token, or the row's
            first place, which padding on the left shifts.
        ranking_loss: In ranking, which loss over a list: a key of `losses.RANKING_LOSSES`.
        attention_ramp: Share of the training over which later tokens come into attention: they count nothing
            at its start, as if attention were causal, and as much as others from its end on. For
            bidirectional attention in the packed layout; judged is always what attention is in the end.
        average_last: Share of the training, at its end, over which the weights are averaged: the mean is what
            is judged at the end and saved. Not with `load_best_model_at_end` or `early_stopping_patience`.
        tune: What is trained besides pooler and head: `full` = the backbone, `lora` = adapters on it, `head`
            = nothing.
        train_embeddings: Whether `full` also trains the token embeddings (most of a small Gemma's
            parameters): those of the tokens that occur in the rows, or in drawn lists all.
        head_learning_rate: Of pooler and head, that of the backbone if None.
        layer_decay: A layer's learning rate is that of the layer above it times this; the last layer's is
            `learning_rate`. 1 = all the same.
        lora_r: Rank of LoRA updates.
        lora_alpha: Their scale is `lora_alpha / lora_r`.
        lora_dropout: Dropout in front of them.
        lora_target_modules: Which linear layers get one: `all-linear`, or names separated by commas.
        merge_adapter: Fold the LoRA adapter into the saved weights. False saves it by itself, a few MB beside
            a decoder that is loaded from where it came from; only this package opens such a folder.
        early_stopping_patience: Stop after this many evaluations without a better main metric; never if None.
        keep_checkpoints: Keep the checkpoints of a finished run. One is up to three times the float32 size of
            what trains (weights and Adam's two moments); frozen tensors are not in it.
        save_minutes: Also save a checkpoint when this long has passed since the last, so that a kill costs no
            more; 0 saves only as `save_strategy` says.

    Raises:
        ConfigError: A value is not allowed.
    """

    learning_rate: float = 2e-5
    num_train_epochs: float = 3.0
    per_device_train_batch_size: int = 16
    warmup_steps: float = 0.1
    weight_decay: float = 0.01
    lr_scheduler_type: SchedulerType | str = "linear"
    logging_steps: float = 25
    eval_strategy: str = "epoch"
    save_strategy: SaveStrategy | str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    report_to: str | list[str] | None = "none"
    restore_callback_states_from_checkpoint: bool = True
    seed: int = 0
    remove_unused_columns: bool = False
    # A loss that isn't finite ends the run, and to look for it once more would wait for a GPU.
    logging_nan_inf_filter: bool = False
    # Every trained parameter takes part in every pass; looking for unused ones would cost time for nothing.
    ddp_find_unused_parameters: bool | None = False
    use_cpu: bool = field(default_factory=lambda: not torch.accelerator.is_available())
    bf16: bool = field(default_factory=bf16_is_native)

    max_tokens: int = 2048
    eval_max_tokens: int = 4096
    compile_layers: bool | None = None
    layout: Layout | None = None
    padding_side: PaddingSide = "right"
    padded_positions: PaddedPositions = "text"
    ranking_loss: RankingLoss = "softmax"
    attention_ramp: float = 0.0
    average_last: float = 0.0
    tune: Tune = "full"
    train_embeddings: bool = False
    head_learning_rate: float | None = None
    layer_decay: float = 1.0
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: str = "all-linear"
    merge_adapter: bool = True
    early_stopping_patience: int | None = None
    keep_checkpoints: bool = False
    save_minutes: float = 10.0

    def __post_init__(self) -> None:
        self._check_types()
        if not self.output_dir:
            raise ConfigError("output_dir is not set", fix="name the folder to write")
        counts = ("max_tokens", "eval_max_tokens", "lora_r", "lora_alpha", "per_device_train_batch_size")
        for name in (*counts, "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix="use a whole number of at least 1")
        for name in _NOT_SUPPORTED:
            if getattr(self, name, None):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}: packed training doesn't support it",
                    fix=f"leave {name} out",
                )
        if self.save_minutes < 0:
            raise ConfigError(f"save_minutes is {self.save_minutes}", fix="use a number of minutes, or 0")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout is {self.lora_dropout}", fix="use a rate from 0 to below 1")
        for name in ("learning_rate", "head_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                raise ConfigError(f"{name} is {rate}", fix="use a number above 0")
        for name in ("attention_ramp", "average_last"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix="use a share from 0 to 1")
        if self.average_last and self.load_best_model_at_end:
            raise ConfigError(
                "average_last saves a mean of weights, load_best_model_at_end those of a checkpoint",
                fix="set load_best_model_at_end to false, or leave average_last out",
            )
        if self.average_last and self.early_stopping_patience is not None:
            raise ConfigError(
                "average_last averages the last steps, which early_stopping_patience may leave out",
                fix="leave one of them out",
            )
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay}", fix="use a number above 0, at most 1")
        if self.num_train_epochs <= 0 and self.max_steps <= 0:
            raise ConfigError(f"num_train_epochs is {self.num_train_epochs}", fix="use a number above 0")
        if self.train_embeddings and self.tune != "full":
            raise ConfigError(
                f"train_embeddings does nothing with tune={self.tune}", fix="leave it out, or use tune=full"
            )
        if not self.merge_adapter and self.tune != "lora":
            raise ConfigError(
                f"merge_adapter=False does nothing with tune={self.tune}",
                fix="leave it out, or use tune=lora",
            )
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}", fix="use 0, or a number above it")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}", fix="use a whole number from 0 to 4294967295")
        if self.metric_for_best_model is not None:
            raise ConfigError(
                "metric_for_best_model is the task's first metric",
                fix="put the metric that should pick the checkpoint first in the task's metrics",
            )
        if self.load_best_model_at_end and "no" in (self.eval_strategy, self.save_strategy):
            raise ConfigError(
                "load_best_model_at_end needs evaluations and checkpoints to choose from",
                fix="set load_best_model_at_end to false, or neither eval_strategy nor save_strategy to no",
            )
        try:
            super().__post_init__()
        except (ValueError, TypeError) as error:
            raise ConfigError(first_line(error), fix="see transformers.TrainingArguments") from error
        # With several GPUs and one process the Trainer would use DataParallel and multiply the batch size.
        self._n_gpu = min(self._n_gpu, 1)
        if self.early_stopping_patience is not None:
            self._check_early_stopping(self.early_stopping_patience)

    def _check_types(self) -> None:
        kinds = get_type_hints(type(self))
        for option in fields(self):
            value, kind = getattr(self, option.name), kinds[option.name]
            if not is_a(value, kind):
                raise ConfigError(f"{option.name} is {value!r}", fix=f"use {in_words(kind)}")

    def _check_early_stopping(self, patience: int) -> None:
        if patience < 1:
            raise ConfigError(
                f"early_stopping_patience is {patience}", fix="use a whole number of at least 1, or none"
            )
        if self.eval_strategy == "no":
            raise ConfigError(
                "early_stopping_patience needs evaluations", fix="set eval_strategy to epoch or steps"
            )


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of the type that an option is annotated with; of containers only the outer type."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return any(is_a(value, part) for part in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else origin or kind)


def in_words(kind: Any) -> str:
    """What to give for an option that is annotated with a type."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(in_words(part) for part in get_args(kind))
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "nothing",
        dict: "names with values",
    }
    return names.get(kind, getattr(kind, "__name__", str(kind)))
