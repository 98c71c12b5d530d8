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
under autocast.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from gemma_encoder.cli.common import quiet_libraries
from gemma_encoder.compiling import why_not_compiled
from gemma_encoder.decoders import load_decoder
from gemma_encoder.encoder import Encoder, Layout
from gemma_encoder.speed.measuring import ScoresDifferError
from gemma_encoder.speed.report import machine
from gemma_encoder.tasks import TaskData
from gemma_encoder.text import TextConfig
from gemma_encoder.training.arguments import EncoderTrainingArguments
from gemma_encoder.training.collation import TokenizedRows
from gemma_encoder.training.embeddings import occurring, only_rows_of
from gemma_encoder.training.parameters import set_trainable
from gemma_encoder.training.trainer import EncoderTrainer

from .common import Comparison, add_common_options, add_data_dir, exit_status, pair_data, parse, report

LAYOUTS: tuple[Layout, ...] = ("packed", "padded")
UNCOMPILED, STOCK, BY_LENGTH = "not compiled", "HF Trainer", "HF, by length"
EVERY_ROW, FROZEN = "every row", "frozen"
TOLERANCE = 1e-3


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
    options = parse(parser, argv)
    quiet_libraries()

    data, source = pair_data(options.data_dir)
    runs = _Runs(options, data)
    difference = layouts_agree(runs.encoder, runs.batch())
    comparisons: list[Comparison] = []
    try:
        for dtype in options.dtypes:
            comparisons += _compare(runs, dtype)
    finally:  # a run that is cut off leaves the precisions it has measured
        result = report("Training speed", _facts(runs, source, difference), comparisons, options.out)
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
        "machine": machine(options.device),
    }


class _Runs:
    """Runs of the contenders, on the same weights from one to the next.

    Attributes:
        encoder: Ours.
        contenders: A function each that trains a round in a precision and gives tokens/s.
    """

    def __init__(self, options: argparse.Namespace, data: TaskData) -> None:
        self.options, self.data = options, data
        decoder = load_decoder(options.model)
        folder = str(decoder.backbone.config._name_or_path)
        labels = len(data.task.labels)
        self.stock = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels)
        self.stock.config.pad_token_id = decoder.tokenizer.pad_token_id
        if not options.train_embeddings:
            self.stock.get_input_embeddings().requires_grad_(False)
        self.encoder = Encoder.from_decoder(
            decoder,
            verify=False,
            seed=options.seed,
            text=TextConfig(template=data.task.template),
            labels=data.task.labels,
        ).to(options.device)
        self.rows = TokenizedRows(self.encoder, data.train)
        self.contenders: dict[str, Callable[[str, int], float]] = {
            "packed": lambda dtype, number: self._ours("packed", "packed", dtype, number),
            UNCOMPILED: lambda dtype, number: self._ours(UNCOMPILED, "packed", dtype, number),
            "padded": lambda dtype, number: self._ours("padded", "padded", dtype, number),
            STOCK: lambda dtype, number: self._stock(STOCK, dtype, number),
            BY_LENGTH: lambda dtype, number: self._stock(BY_LENGTH, dtype, number),
        }
        if options.train_embeddings:
            for name in (EVERY_ROW, FROZEN):
                self.contenders[name] = partial(self._ours, name, "packed")
        self._padding: dict[str, list[float]] = {}

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
        packed = ("packed", UNCOMPILED, EVERY_ROW, FROZEN)
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
        return name in ("packed", EVERY_ROW, FROZEN) and why_not_compiled(self.options.device) is None

    def _stock(self, name: str, dtype: str, number: int) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            sampling = "group_by_length" if name == BY_LENGTH else "random"
            args = TrainingArguments(
                **self._settings(scratch, dtype, number), train_sampling_strategy=sampling
            )
            ids_and_labels = zip(self.rows.input_ids, self.rows.labels.tolist(), strict=True)
            trainer = Trainer(
                # The same weights; accelerate leaves autocast around the forward of the model it is given.
                copy.copy(self.stock),
                args,
                train_dataset=[{"input_ids": ids, "label": label} for ids, label in ids_and_labels],
                data_collator=DataCollatorWithPadding(self.encoder.tokenizer),
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
        tokens, area = (sum(column) for column in zip(*areas[1 : self.options.steps + 1], strict=True))
        self._padding.setdefault(name, []).append(1 - tokens / area)
        return tokens / clock.seconds


class _Clock(TrainerCallback):
    """From the end of the first step to the end of the last."""

    def __init__(self) -> None:
        self.began = self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        if state.global_step == 1:
            self.began = time.perf_counter()
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


def _compare(runs: _Runs, dtype: str) -> list[Comparison]:
    rates: dict[str, list[float]] = {name: [] for name in runs.contenders}
    runs.contenders["packed"](dtype, 0)  # compiles, not only in the step that is not timed
    order, draw = list(rates), random.Random(0)
    for number in range(runs.options.rounds):
        draw.shuffle(order)
        for name in order:
            rates[name].append(runs.contenders[name](dtype, number))
        last = ", ".join(f"{name} {each[-1]:,.1f} tokens/s" for name, each in rates.items())
        print(f"{dtype} round {number + 1}: {last}", flush=True)
    packed = ("packed", rates.pop("packed"))
    return [Comparison(dtype, "tokens/s", packed, other) for other in rates.items()]


if __name__ == "__main__":
    sys.exit(exit_status(main))
