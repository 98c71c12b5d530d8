"""Training tokens/s, whole steps: packed, padded, and Hugging Face's own Trainer and classifier.

    python -m benchmarks.training_speed --data-dir DATA

Contenders, each a real run of its Trainer on rows of the same token ids:

    packed           this package: packed layout, cut by token budget, layers compiled
    not compiled     the same with stock layers
    padded           this package, padded layout through stock attention
    HF Trainer       AutoModelForSequenceClassification (causal, last token), padded to the longest row
    HF, by length    the same, with batches of rows of similar length

With `--train-embeddings` all train the token embeddings, too, ours by the rows of tokens that occur in the
data, and there are two more:

    every row        this package, compiled; the embedding table learns as it is, whole
    frozen           this package, compiled, token embeddings frozen

A step is collation, forward, backward, clipping and AdamW. In each round every contender takes `--steps`
steps behind one that isn't timed; rows are drawn with the round's seed, the same for all but the last
contender. Only real tokens count. float32 is plain float32; bfloat16 is what training uses: float32 weights
under autocast. The limit is the products of the layers alone, forward and both of backward, with as many
tokens a step as the packed ones had in that round. Memory and start-up (from the start of the process to the
end of its first step, layers compiled) are those of a process that runs one contender and nothing else.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from gemma_encoder.cli.common import print_facts, print_table, quiet_libraries
from gemma_encoder.compiling import why_not_compiled
from gemma_encoder.decoders import load_decoder
from gemma_encoder.encoder import Encoder, Layout
from gemma_encoder.errors import ConfigError
from gemma_encoder.json_files import write_json
from gemma_encoder.machine import peak_memory
from gemma_encoder.speed.alone import Alone, answer_of
from gemma_encoder.speed.clock import seconds
from gemma_encoder.speed.limit import TrainingProducts
from gemma_encoder.speed.measuring import ScoresDifferError
from gemma_encoder.speed.report import machine, table
from gemma_encoder.tasks import TaskData
from gemma_encoder.text import TextConfig, TextTokenizer
from gemma_encoder.training.arguments import EncoderTrainingArguments
from gemma_encoder.training.collation import TokenizedRows
from gemma_encoder.training.embeddings import occurring, only_rows_of
from gemma_encoder.training.parameters import set_trainable
from gemma_encoder.training.trainer import EncoderTrainer

from .common import DTYPES, add_alone, add_common_options, add_data_dir, exit_status, pair_data, parse

LAYOUTS: tuple[Layout, ...] = ("packed", "padded")
PACKED, UNCOMPILED, PADDED = "packed", "not compiled", "padded"
STOCK, BY_LENGTH = "HF Trainer", "HF, by length"
EVERY_ROW, FROZEN = "every row", "frozen"
CONTENDERS = (PACKED, UNCOMPILED, PADDED, STOCK, BY_LENGTH)
WITH_EMBEDDINGS = (EVERY_ROW, FROZEN)
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Trained:
    """One contender in one precision.

    Attributes:
        name: Which.
        dtype: Precision.
        rates: Real tokens a second in each round.
        alone: Memory and start-up in a process of its own; None if that wasn't measured.
        not_alone: Why the process of its own failed; empty if it didn't.
    """

    name: str
    dtype: str
    rates: list[float]
    alone: Alone | None = None
    not_alone: str = ""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="training_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    add_data_dir(parser)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a contender in a round")
    parser.add_argument("--train-embeddings", action="store_true", help="train the token embeddings, too")
    add_alone(parser)
    parser.add_argument(
        "--contender",
        choices=[*CONTENDERS, *WITH_EMBEDDINGS],
        help="train this one alone, in the first of --dtypes, and print its memory and start-up as JSON",
    )
    options = parse(parser, argv)
    quiet_libraries()

    data, source = pair_data(options.data_dir)
    runs = _Runs(options, data)
    if options.contender:
        return _by_itself(runs, options.contender, options.dtypes[0])
    difference = layouts_agree(runs.encoder, runs.batch())
    measured: list[Trained] = []
    limits: dict[str, list[float]] = {}
    result: dict[str, Any] = {}
    try:
        for dtype in options.dtypes:
            found, limits[dtype] = _compare(runs, dtype)
            measured += [_with_alone(each, runs) for each in found] if options.alone else found
    finally:  # a run that is cut off leaves the precisions it has measured
        if measured:
            result = _reported(_facts(runs, source, difference), measured, limits, options.out)
    return result


def _facts(runs: _Runs, source: str, difference: float) -> dict[str, Any]:
    """What was timed, how, and on what."""
    options = runs.options
    return {
        "model": runs.encoder.config.decoder,
        "attention, pooling": f"{runs.encoder.config.attention}, {runs.encoder.config.pooling.kind}",
        "token embeddings": runs.embeddings(),
        "data": f"{source}, {options.batch_size} rows a step, {options.steps} steps a round",
        "padding": "; ".join(f"{name} {share:.0%}" for name, share in runs.padding().items()),
        "largest difference of our layouts' scores in float32, share of their spread": f"{difference:.1e}",
        "limit": "the products of the linear layers alone, forward and backward",
        "machine": machine(options.device),
    }


def _reported(
    facts: dict[str, Any], measured: Sequence[Trained], limits: dict[str, list[float]], out: Path | None
) -> dict[str, Any]:
    """All that was measured, printed and written."""
    rows = [_row(each, measured, limits[each.dtype]) for each in measured]
    failed = {f"{each.name}, {each.dtype}": each.not_alone for each in measured if each.not_alone}
    print_facts("Training speed", facts | failed)
    print_table("", table(rows))
    result = {
        "benchmark": "training speed",
        **facts,
        **failed,
        "table": rows,
        "measured": [asdict(each) for each in measured],
        "limits": limits,
    }
    if out:
        write_json(out, result)
    return result


def _row(each: Trained, measured: Sequence[Trained], limit: Sequence[float]) -> dict[str, Any]:
    """Medians of the rounds, and ours over it round by round."""
    ours = next(other for other in measured if (other.name, other.dtype) == (PACKED, each.dtype))
    ratios = [a / b for a, b in zip(ours.rates, each.rates, strict=True)]
    return {
        "contender": each.name,
        "dtype": each.dtype,
        "tokens_per_second": median(each.rates),
        "share_of_limit": median(a / b for a, b in zip(each.rates, limit, strict=True)),
        "times_as_long_as_ours": [median(ratios), min(ratios), max(ratios)],
        **(asdict(each.alone) if each.alone else {}),
    }


class _Runs:
    """Runs of the contenders, on the same weights from one to the next.

    Attributes:
        contenders: A function each that trains a round in a precision and gives tokens/s.
        first_step_at: The time (of `time.time`) when the last run's first step ended.
        steps_of: Tokens of each timed step in a contender's last run.
    """

    def __init__(self, options: argparse.Namespace, data: TaskData) -> None:
        self.options, self.data = options, data
        self.contenders: dict[str, Callable[[str, int], float]] = {
            PACKED: partial(self._ours, PACKED, "packed"),
            UNCOMPILED: partial(self._ours, UNCOMPILED, "packed"),
            PADDED: partial(self._ours, PADDED, "padded"),
            STOCK: partial(self._stock, STOCK),
            BY_LENGTH: partial(self._stock, BY_LENGTH),
        }
        if options.train_embeddings:
            for name in WITH_EMBEDDINGS:
                self.contenders[name] = partial(self._ours, name, "packed")
        self.first_step_at = 0.0
        self.steps_of: dict[str, list[int]] = {}
        self._padding: dict[str, list[float]] = {}

    @cached_property
    def encoder(self) -> Encoder:
        """Ours."""
        return Encoder.from_decoder(
            load_decoder(self.options.model),
            verify=False,
            seed=self.options.seed,
            text=TextConfig(template=self.data.task.template),
            labels=self.data.task.labels,
        ).to(self.options.device)

    @cached_property
    def rows(self) -> TokenizedRows:
        """Ours."""
        return TokenizedRows(self.encoder, self.data.train)

    @cached_property
    def folder(self) -> str:
        """Where the decoder lies."""
        if self.options.contender:  # in a process of its own, which is given that
            return str(self.options.model)
        return str(self.encoder.stock_backbone.config._name_or_path)

    @cached_property
    def tokenizer(self) -> Any:
        """The decoder's."""
        return AutoTokenizer.from_pretrained(self.folder)

    @cached_property
    def stock(self) -> Any:
        """Hugging Face's."""
        model = AutoModelForSequenceClassification.from_pretrained(
            self.folder, num_labels=len(self.data.task.labels)
        )
        model.config.pad_token_id = self.tokenizer.pad_token_id
        if not self.options.train_embeddings:
            model.get_input_embeddings().requires_grad_(False)
        return model

    @cached_property
    def stock_rows(self) -> list[dict[str, Any]]:
        """The same token ids as ours, made without our encoder."""
        text = TextTokenizer(self.tokenizer, TextConfig(template=self.data.task.template))
        train = self.data.train
        ids = text.encode(list(zip(train["text"], train["text_pair"], strict=True))).input_ids
        return [{"input_ids": row, "label": label} for row, label in zip(ids, train["label"], strict=True)]

    def batch(self) -> dict[str, Tensor]:
        """Some rows, padded."""
        chosen = random.Random(0).sample(range(len(self.rows)), min(self.options.batch_size, len(self.rows)))
        return self.encoder.collate([self.rows.input_ids[row] for row in chosen])

    def embeddings(self) -> str:
        """Which token embeddings learn, in words."""
        if not self.options.train_embeddings:
            return "frozen, in all contenders"
        vocabulary = self.encoder.stock_backbone.get_input_embeddings().num_embeddings
        ours = len(occurring(self.encoder, self.rows.input_ids))
        return f"trained; ours {ours:,} rows of {vocabulary:,}, but where the name says otherwise"

    def padding(self) -> dict[str, float]:
        """Share of padding in each contender's batches, median of the rounds."""
        packed = (PACKED, UNCOMPILED, *WITH_EMBEDDINGS)
        return {name: median(shares) for name, shares in self._padding.items() if name not in packed}

    def _settings(self, scratch: str, dtype: str, number: int) -> dict[str, Any]:
        return {
            "output_dir": scratch,
            "per_device_train_batch_size": self.options.batch_size,
            "max_steps": self.options.steps + 1,
            "learning_rate": 1e-6,  # small: the weights should stay those of the decoder
            "bf16": dtype == "bfloat16",
            "use_cpu": self.options.device == "cpu",
            "seed": self.options.seed + number,
            "save_strategy": "no",
            "eval_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }

    def _ours(self, name: str, layout: Layout, dtype: str, number: int) -> float:
        self.encoder.layout = layout
        trained = self.options.train_embeddings and name != FROZEN
        set_trainable(self.encoder, "full", train_embeddings=trained)
        by_rows = trained and name != EVERY_ROW
        table = only_rows_of(self.encoder, self.rows.input_ids) if by_rows else nullcontext()
        with tempfile.TemporaryDirectory() as scratch, table:
            args = EncoderTrainingArguments(
                **self._settings(scratch, dtype, number),
                load_best_model_at_end=False,
                compile_layers=self._compiles(name),
            )
            trainer = EncoderTrainer(self.encoder, args, self.data.task, self.rows, self.rows)
            return self._timed(name, trainer)

    def _compiles(self, name: str) -> bool:
        return name in (PACKED, *WITH_EMBEDDINGS) and why_not_compiled(self.options.device) is None

    def _stock(self, name: str, dtype: str, number: int) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            sampling = "group_by_length" if name == BY_LENGTH else "random"
            args = TrainingArguments(
                **self._settings(scratch, dtype, number), train_sampling_strategy=sampling
            )
            trainer = Trainer(
                # The same weights; accelerate leaves autocast around the forward of the model it is given.
                copy.copy(self.stock),
                args,
                train_dataset=self.stock_rows,
                data_collator=DataCollatorWithPadding(self.tokenizer),
            )
            return self._timed(name, trainer)

    def _timed(self, name: str, trainer: Trainer) -> float:
        clock, collate = _Clock(), trainer.data_collator
        areas: list[tuple[int, int]] = []

        def counting(items: Any) -> Any:
            batch = collate(items)
            areas.append((int(batch["attention_mask"].sum()), batch["attention_mask"].numel()))
            return batch

        trainer.data_collator = counting
        trainer.add_callback(clock)
        trainer.train()
        areas = areas[1 : self.options.steps + 1]
        tokens, area = (sum(column) for column in zip(*areas, strict=True))
        self.first_step_at, self.steps_of[name] = clock.first_step_at, [step for step, _ in areas]
        self._padding.setdefault(name, []).append(1 - tokens / area)
        return tokens / clock.seconds


class _Clock(TrainerCallback):
    """From the end of the first step to the end of the last."""

    def __init__(self) -> None:
        self.began = self.seconds = self.first_step_at = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        if state.global_step == 1:
            self.began, self.first_step_at = time.perf_counter(), time.time()
        self.seconds = time.perf_counter() - self.began


def layouts_agree(encoder: Encoder, batch: dict[str, Tensor]) -> float:
    """Largest difference of the layouts' scores, as a share of their spread; raises if they disagree."""
    encoder.eval()
    logits: dict[str, Tensor] = {}
    with torch.no_grad():
        for layout in LAYOUTS:
            encoder.layout = layout
            logits[layout] = encoder(**batch).logits
    difference = float((logits["packed"] - logits["padded"]).abs().max() / logits["padded"].std())
    if not difference < TOLERANCE:
        raise ScoresDifferError(f"the layouts disagree: scores differ by {difference:.2g} of their spread")
    return difference


def _compare(runs: _Runs, dtype: str) -> tuple[list[Trained], list[float]]:
    """What each contender did in each round, and the tokens a second of the products alone."""
    rates: dict[str, list[float]] = {name: [] for name in runs.contenders}
    limit: list[float] = []
    runs.contenders[PACKED](dtype, 0)  # compiles, not only in the step that is not timed
    order, draw = list(rates), random.Random(0)
    for number in range(runs.options.rounds):
        draw.shuffle(order)
        for name in order:
            rates[name].append(runs.contenders[name](dtype, number))
        products = TrainingProducts(runs.encoder, runs.steps_of[PACKED], DTYPES[dtype])
        products()  # what only the first call takes
        limit.append(sum(runs.steps_of[PACKED]) / seconds(products, runs.options.device))
        last = ", ".join(f"{name} {each[-1]:,.1f} tokens/s" for name, each in rates.items())
        print(f"{dtype} round {number + 1}: {last}; products alone {limit[-1]:,.1f}", flush=True)
    return [Trained(name, dtype, each) for name, each in rates.items()], limit


def _by_itself(runs: _Runs, name: str, dtype: str) -> dict[str, Any]:
    """The process that trains one contender and nothing else."""
    if name not in runs.contenders:
        raise ConfigError(f"{name} trains embeddings", fix="give --train-embeddings")
    runs.contenders[name](dtype, 0)
    peak = sum(peak_memory().values()) / 2**20
    found = {"first_step_at": runs.first_step_at, "peak_mib": peak}
    print(json.dumps(found))
    return found


def _with_alone(trained: Trained, runs: _Runs) -> Trained:
    """The same with memory and start-up, or why there are none: its rates are not lost for that."""
    options, began = runs.options, time.time()
    given = {
        "contender": trained.name,
        "model": runs.folder,
        "dtypes": trained.dtype,
        "device": options.device,
        "seed": options.seed,
        "batch-size": options.batch_size,
        "steps": options.steps,
        **({"data-dir": options.data_dir} if options.data_dir else {}),
    }
    flags = ["--train-embeddings"] * options.train_embeddings
    flags += ["--give-memory-back"] * options.give_memory_back
    command = [sys.executable, "-m", "benchmarks.training_speed", *flags]
    command += [f"--{option}={value}" for option, value in given.items()]
    try:
        found = answer_of(command, trained.name, "try fewer rows a step")
    except ConfigError as error:
        return replace(trained, not_alone=str(error))
    return replace(trained, alone=Alone(found["first_step_at"] - began, found["peak_mib"]))


if __name__ == "__main__":
    sys.exit(exit_status(main))
