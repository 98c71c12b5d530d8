"""One trial: make an encoder as the arm says, train it, judge it by selection rows and by report rows.

A worker runs its trials in one process: a decoder is loaded once, data are read once, and a text is tokenised
once, whichever arm reads it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoint import CONFIG_FILE
from ..decoders import Decoder, load_decoder
from ..encoder import Encoder
from ..encoder_config import EncoderConfig
from ..errors import ConfigError
from ..evaluation import compute_metrics, majority_baseline
from ..evaluation.evaluate import texts
from ..machine import hardware, versions
from ..scoring import score_all
from ..tasks import Split, TaskData
from ..tasks.base import GROUP
from ..tasks.files import hold_out_rows, sample
from ..training import EncoderTrainingArguments, train
from ..training.checkpoint_folder import checkpoint_folder
from .records import ReportRows, TrialResult

LARGEST_SELECTION = 5
"""Selection rows are at most one in so many of a small task's training rows."""

Report = Callable[[int, float], bool]
"""Takes a step and the main metric on the selection rows; True ends the trial."""


@dataclass(frozen=True)
class Recipe:
    """An arm's options for a task, as this package takes them.

    Attributes:
        decoder: What is adapted; or a folder that `adapt` or `train` wrote, of which the backbone is taken.
        config: What it is made into.
        args: How it is trained; `output_dir` is where checkpoints may lie meanwhile.
        data: The whole training split, and the rows to report.
        data_name: Differs for other data.
        max_train_rows: Rows to train on, drawn with the trial's seed; all if None.
        command: The same as a command.
        remark: What was chosen for it and why, if anything was.
    """

    decoder: str
    config: EncoderConfig
    args: EncoderTrainingArguments
    data: TaskData
    data_name: str
    max_train_rows: int | None
    command: str
    remark: str = ""


class PrunedError(Exception):
    """A search ended this trial early."""


@dataclass
class TrialRunner:
    """Runs trials one after the other and keeps what they share.

    Attributes:
        selection_rows: Rows split off the training rows.
        report_rows: Report rows at most; all if None.
    """

    selection_rows: int
    report_rows: int | None
    _decoders: dict[str, Decoder] = field(default_factory=dict)
    _data: dict[str, tuple[TaskData, Split, ReportRows]] = field(default_factory=dict)
    _token_ids: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    _verified: set[tuple[str, str, str, str | None]] = field(default_factory=set)

    def report_on(self, recipe: Recipe) -> ReportRows:
        """The rows that trials of a recipe's task are judged by."""
        return self._read(recipe)[2]

    def run(self, recipe: Recipe, *, reports: bool, tell: Report | None = None) -> TrialResult:
        """Train and judge.

        Args:
            recipe: What and how.
            reports: Whether the report rows are scored too; they are not where something is only chosen.
            tell: Called at each evaluation, if any are asked for.

        Raises:
            PrunedError: `tell` ended the trial.
            GemmaEncoderError: Data, model or options are not as they should be.
        """
        started = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        args, (data, report, rows) = recipe.args, self._read(recipe)
        train_rows = Split(data.train, data.train_source, data.train_note)
        drawn = sample(train_rows, recipe.max_train_rows, args.seed, lists=_in_lists(data))
        data = replace(data, train=drawn.rows, train_note=drawn.note)
        encoder = self._encoder(recipe)
        watch = _Watch(tell, f"eval_{data.task.main_metric}")
        try:
            result = train(encoder, data, args, overwrite=True, save=False, callbacks=[watch])
        finally:
            shutil.rmtree(checkpoint_folder(Path(str(args.output_dir))), ignore_errors=True)
        if watch.ended:
            raise PrunedError
        scores = metrics = None
        if reports:
            with torch.autocast(encoder.device.type, torch.bfloat16, enabled=args.bf16):
                scores = score_all(encoder, texts(report.rows), max_tokens=args.eval_max_tokens)
            metrics = compute_metrics(data.task.metrics, scores, rows.labels, **report.together())
        run = result.run
        memory = run["peak_memory"]
        return TrialResult(
            selection=result.metrics,
            report=metrics,
            scores=None if scores is None else scores.astype(np.float32),
            learning_rate=args.learning_rate,
            head_learning_rate=args.head_learning_rate,
            train_rows=len(drawn.rows),
            steps=run["steps"],
            minutes=round((time.perf_counter() - started) / 60, 3),
            tokens_per_second=run["tokens_per_second"],
            peak_mib=round(memory.get("gpu_bytes", memory["host_bytes"]) / 2**20),
            peak_of_trial="gpu_bytes" in memory,
            history=run["history"],
            command=recipe.command,
            environment={**versions(), **{name: str(value) for name, value in hardware().items()}},
        )

    def mean_tokens(self, recipe: Recipe) -> float:
        """Tokens of a training row, by some of them."""
        data, _, _ = self._read(recipe)
        rows = data.train.select(range(min(200, len(data.train))))  # type: ignore[union-attr]
        lengths = [len(ids) for ids in self._encoder(recipe).tokenize(list(texts(rows))).input_ids]
        return sum(lengths) / len(lengths)

    def computed_tokens(self, recipe: Recipe, selection_rows: int, report_rows: int | None) -> float:
        """What a report trial computes, in tokens of training; scoring a token takes a third of that."""
        whole = recipe.data
        train = min(recipe.max_train_rows or len(whole.train), len(whole.train))
        report = min(report_rows or len(whole.validation), len(whole.validation))
        args = recipe.args
        trained = train * args.num_train_epochs
        if args.max_steps > 0:
            trained = args.max_steps * args.per_device_train_batch_size
        judged = selection_rows + report
        return self.mean_tokens(recipe) * (trained + judged / 3)

    def _read(self, recipe: Recipe) -> tuple[TaskData, Split, ReportRows]:
        """Rows to train on with those to select by, and rows to report on."""
        if recipe.data_name not in self._data:
            self._data[recipe.data_name] = self._split(recipe.data)
        return self._data[recipe.data_name]

    def _split(self, data: TaskData) -> tuple[TaskData, Split, ReportRows]:
        if data.task.problem_type == "ranking" or not hasattr(data.train, "column_names"):
            raise ConfigError(
                "A study trains on rows of a task or file, not on lists", fix="use tasks, or base.train_file"
            )
        whole = Split(data.train, data.train_source, data.train_note)
        count = min(self.selection_rows, max(1, len(whole.rows) // LARGEST_SELECTION))
        kept, selection = hold_out_rows(whole, count, seed=0)
        lists = _in_lists(data)
        report = sample(data.judged_by, self.report_rows, 0, lists=lists)
        labels, together = np.asarray(report.rows["label"][:]), report.together()
        task = data.task
        groups = together["groups"]
        rows = ReportRows(
            metrics=task.metrics,
            problem_type=task.problem_type,
            labels=labels,
            baseline=majority_baseline(
                labels, task.metrics, task.problem_type, num_labels=len(task.labels), **together
            ),
            groups=None if groups is None else np.asarray(groups),
            candidates=together["candidates"],
            source=report.source,
            note=report.note,
            train_note=kept.note,
            digest=_digest(data.train, report.rows),
        )
        chosen_by = replace(
            data,
            train=kept.rows,
            train_note=kept.note,
            validation=selection.rows,
            validation_note=selection.note,
            validation_source=selection.source,
        )
        return chosen_by, report, rows

    def _encoder(self, recipe: Recipe) -> Encoder:
        if (Path(recipe.decoder) / CONFIG_FILE).is_file():
            return self._from_folder(recipe)
        if recipe.decoder not in self._decoders:
            self._decoders = {recipe.decoder: load_decoder(recipe.decoder)}  # one at a time: they are large
        decoder = self._decoders[recipe.decoder]
        # The backbone is trained; the tokenizer is only read, and copying it takes seconds.
        decoder = replace(decoder, backbone=copy.deepcopy(decoder.backbone))
        config = recipe.config
        policy = (recipe.decoder, config.attention, config.window, config.bidirectional_layers)
        encoder = Encoder.from_decoder(
            decoder, config, verify=policy not in self._verified, seed=recipe.args.seed
        )
        self._verified.add(policy)
        encoder.text.remembered = self._token_ids.setdefault(recipe.decoder, {})
        return encoder

    def _from_folder(self, recipe: Recipe) -> Encoder:
        """What an encoder has learnt, with a new pooler and head."""
        made = {each.name: getattr(recipe.config, each.name) for each in fields(recipe.config)}
        overrides = {name: value for name, value in made.items() if name not in ("decoder", "warm_start")}
        encoder = Encoder.from_encoder(recipe.decoder, seed=recipe.args.seed, **overrides)
        encoder.text.remembered = self._token_ids.setdefault(recipe.decoder, {})
        return encoder


class _Watch(TrainerCallback):
    """Tells of evaluations, and ends training when asked to."""

    def __init__(self, tell: Report | None, metric: str) -> None:
        self.tell, self.metric, self.ended = tell, metric, False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass on the main metric."""
        if self.tell and metrics and state.global_step < state.max_steps:
            self.ended = self.tell(state.global_step, metrics[self.metric]) or self.ended
            control.should_training_stop = control.should_training_stop or self.ended


def _digest(*parts: Any) -> str:
    """Of every value of data sets."""
    digest = hashlib.sha256()
    for rows in parts:
        for name in sorted(rows.column_names):
            digest.update(json.dumps([name, rows[name][:]], default=str).encode())
    return digest.hexdigest()[:16]


def _in_lists(data: TaskData) -> bool:
    """Whether rows compete within groups, so that these are drawn whole."""
    return GROUP in data.validation.column_names
