"""Training tokens/s: the packed layout against the padded layout of the same model.

    python -m benchmarks.training_speed --data-dir DATA

A step is forward, backward, clipping and AdamW on one random batch of real pairs. In each round both layouts
take the same batch. Only real tokens count, so the rates compare the same work. float32 is plain float32;
bfloat16 is what training uses: float32 weights under autocast. As by default in training, the token
embeddings are frozen.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gemma_encoder.decoders import Decoder
from gemma_encoder.encoder import Encoder, Layout
from gemma_encoder.speed.report import machine
from gemma_encoder.text import TextConfig
from gemma_encoder.training.parameters import set_trainable

from .common import (
    DTYPES,
    Comparison,
    add_common_options,
    add_data_dir,
    exit_status,
    interleave,
    pair_data,
    parse,
    report,
)

LAYOUTS: tuple[Layout, ...] = ("packed", "padded")
TOLERANCE = 1e-3


def main(argv: Sequence[str] | None = None, *, decoder: Decoder | None = None) -> dict[str, Any]:
    """Run the benchmark; `decoder` replaces `--model`."""
    parser = argparse.ArgumentParser(prog="training_speed", description=__doc__)
    add_common_options(parser)
    add_data_dir(parser)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parse(parser, argv)

    data, source = pair_data(options.data_dir)
    text = TextConfig(template=data.task.template)
    encoder = Encoder.from_decoder(
        decoder or options.model, verify=False, seed=options.seed, text=text, labels=data.task.labels
    ).to(options.device)
    set_trainable(encoder, "full")
    batches = _batches(encoder, data.train, options.batch_size, options.rounds, options.seed)
    real = [int(batch["attention_mask"].sum()) for batch in batches]
    area = [batch["attention_mask"].numel() for batch in batches]

    difference = _layouts_agree(encoder, batches[0])
    comparisons = [_compare(encoder, batches, real, dtype, options.device) for dtype in options.dtypes]
    facts = {
        "model": encoder.config.decoder,
        "attention, pooling": f"{encoder.config.attention}, {encoder.config.pooling.kind}",
        "data": f"{source}, {options.batch_size} rows a batch, {sum(real) / len(real):,.0f} real tokens each",
        "padding in the padded layout": f"{1 - sum(real) / sum(area):.0%}",
        "largest difference of scores in float32, share of their spread": f"{difference:.1e}",
        "machine": machine(options.device),
    }
    return report("Training speed, packed against padded", facts, comparisons, options.out)


def _batches(encoder: Encoder, rows: Any, size: int, count: int, seed: int) -> list[dict[str, Tensor]]:
    """Random batches, as a shuffled epoch gives them."""
    order = random.Random(seed).sample(range(len(rows)), min(size * count, len(rows)))
    batches = []
    for number in range(count):
        start = number * size % max(1, len(order) - size + 1)
        chosen = rows.select(order[start : start + size])
        pairs = list(zip(chosen["text"], chosen["text_pair"], strict=True))
        batch = encoder.collate(encoder.tokenize(pairs).input_ids)
        batches.append(batch | {"labels": torch.tensor(chosen["label"], device=encoder.device)})
    return batches


def _layouts_agree(encoder: Encoder, batch: dict[str, Tensor]) -> float:
    """Largest difference of the layouts' scores, as a share of their spread; raises if they disagree."""
    encoder.eval()
    logits: dict[str, Tensor] = {}
    with torch.no_grad():
        for layout in LAYOUTS:
            encoder.layout = layout
            logits[layout] = encoder(**batch).logits
    difference = float((logits["packed"] - logits["padded"]).abs().max() / logits["padded"].std())
    if not difference < TOLERANCE:
        raise AssertionError(f"the layouts disagree: scores differ by {difference:.2g} of their spread")
    return difference


def _compare(
    encoder: Encoder, batches: Sequence[dict[str, Tensor]], real: Sequence[int], dtype: str, device: str
) -> Comparison:
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)  # small: the weights should stay those of the decoder
    encoder.train()

    def step(layout: Layout, batch: dict[str, Tensor]) -> None:
        encoder.layout = layout
        with _precision(dtype, device):
            loss = encoder(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    rates: dict[Layout, list[float]] = {layout: [] for layout in LAYOUTS}
    for layout in LAYOUTS:
        step(layout, batches[0])  # warm-up: memory, kernels, optimizer state
    for number, batch in enumerate(batches):
        contenders = {layout: partial(step, layout, batch) for layout in LAYOUTS}
        for layout, taken in interleave(contenders, number, device).items():
            rates[layout].append(real[number] / taken)
        print(
            f"{dtype} round {number + 1}: "
            + ", ".join(f"{k} {v[-1]:,.1f} tokens/s" for k, v in rates.items())
        )
    return Comparison(dtype, "tokens/s", ("packed", rates["packed"]), ("padded", rates["padded"]))


def _precision(dtype: str, device: str) -> AbstractContextManager[object]:
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=DTYPES[dtype])


if __name__ == "__main__":
    sys.exit(exit_status(main))
