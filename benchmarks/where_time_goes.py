"""Where the time of scoring and of training steps goes, by torch's profiler, beside the products alone.

    python -m benchmarks.where_time_goes --data-dir GLUE --dtypes float32 bfloat16

Scoring is that of `--rows` pairs, layers compiled; training is steps of `--batch-size` of them (forward,
backward, clipping, AdamW), float32 weights, in bfloat16 under autocast, token embeddings frozen. Each is run
without the profiler for its time, and once with it for the shares. The products alone are those of the linear
modules of all layers on matrices of the same sizes: in training forward, and both of backward.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from gemma_encoder.cli.common import print_facts, print_table, quiet_libraries
from gemma_encoder.compiling import CompiledLayers, compiled_layers, why_not_compiled
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import ConfigError
from gemma_encoder.json_files import write_json
from gemma_encoder.packing import plan_batches
from gemma_encoder.scoring import score_token_ids
from gemma_encoder.speed.limit import Products, TrainingProducts
from gemma_encoder.speed.measuring import interleave
from gemma_encoder.speed.report import machine
from gemma_encoder.training.parameters import set_trainable

from .common import DTYPES, add_common_options, add_data_dir, exit_status, pair_data, parse

GROUPS = {
    "products of linear layers": ("aten::mm", "aten::addmm", "mkldnn::", "mkl::", "aten::mkldnn"),
    "attention's products and softmax": ("aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::_scaled_dot"),
    "fused passes": ("## Call Compiled",),
    "copies and gathers": ("aten::copy_", "aten::cat", "aten::index", "aten::masked_fill", "aten::clone"),
    "AdamW, norm of the gradients": ("aten::_fused_adamw", "aten::linalg_vector_norm", "aten::_foreach"),
}
"""Beginnings of the profiler's names. The rest is Python, the compiler's guards and small operators."""
REST = "Python, guards, small operators"
PARTS = ("scoring", "training")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="where_time_goes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    add_data_dir(parser)
    parser.add_argument("--rows", type=int, default=64, help="pairs that are scored, and trained on")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs of a training step")
    parser.add_argument("--max-tokens", type=int, default=4096, help="token budget of a scoring pass")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parse(parser, argv)
    if options.device != "cpu":
        raise ConfigError("time is taken apart on a CPU only", fix="give --device cpu")
    if obstacle := why_not_compiled():
        raise ConfigError(f"layers can't be compiled here: {obstacle}", fix="install a C++ compiler")
    quiet_libraries()
    data, source = pair_data(options.data_dir)
    result: dict[str, Any] = {"benchmark": "where time goes", "model": options.model, "found": []}
    for part in options.parts:
        for dtype in options.dtypes:
            result["found"].append(found := _taken_apart(part, dtype, data, options))
            result |= {
                "data": f"{source}, {options.rows} rows of {found['tokens']:,} tokens",
                "machine": machine("cpu"),
            }
            if options.out:  # a run that is cut off leaves what it measured
                write_json(options.out, result)
    print_facts("Where time goes", {name: result[name] for name in ("model", "data", "machine")})
    print_table("", _in_words(result["found"]))
    return result


def _taken_apart(part: str, dtype: str, data: Any, options: argparse.Namespace) -> dict[str, Any]:
    weights = DTYPES[dtype] if part == "scoring" else torch.float32
    encoder = Encoder.from_decoder(options.model, verify=False, seed=options.seed, labels=data.task.labels)
    encoder.to(weights)
    pairs = list(zip(data.train["text"], data.train["text_pair"], strict=True))[: options.rows]
    ids = encoder.tokenize([" ".join(pair) for pair in pairs]).input_ids
    layers = compiled_layers(encoder.backbone)
    if part == "scoring":
        batches = plan_batches([len(row) for row in ids], options.max_tokens)
        work: Callable[[], object] = partial(score_token_ids, encoder, ids, options.max_tokens, layers=layers)
        passes = [sum(len(ids[row]) for row in batch) for batch in batches]
        products: Callable[[], object] = Products(encoder, passes).stock
    else:
        work = partial(_steps, encoder, ids, layers, DTYPES[dtype], options.batch_size, _optimiser(encoder))
        passes = [
            sum(map(len, ids[start : start + options.batch_size]))
            for start in range(0, len(ids), options.batch_size)
        ]
        products = TrainingProducts(encoder, passes, DTYPES[dtype])
    for _ in range(2):  # compiles
        work(), products()
    taken = {"whole": [], "products": []}
    for number in range(options.rounds):
        for name, time_taken in interleave({"whole": work, "products": products}, number, "cpu").items():
            taken[name].append(time_taken)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    return {
        "part": part,
        "dtype": dtype,
        "tokens": sum(map(len, ids)),
        "seconds": taken["whole"],
        "products_alone_seconds": taken["products"],
        "shares": shares({each.key: each.self_cpu_time_total for each in profiled.key_averages()}),
    }


def shares(by_name: dict[str, float]) -> dict[str, float]:
    """Share of each of `GROUPS`, and of what is in none, in the time of all operators."""
    found = dict.fromkeys([*GROUPS, REST], 0.0)
    for name, taken in by_name.items():
        group = next((group for group, begins in GROUPS.items() if name.startswith(begins)), REST)
        found[group] += taken
    whole = sum(found.values())
    return {group: taken / whole for group, taken in found.items()}


def _optimiser(encoder: Encoder) -> torch.optim.Optimizer:
    set_trainable(encoder, "full")
    encoder.train()
    return torch.optim.AdamW([each for each in encoder.parameters() if each.requires_grad], lr=0, fused=True)


def _steps(
    encoder: Encoder,
    ids: Sequence[Sequence[int]],
    layers: CompiledLayers,
    dtype: torch.dtype,
    batch_size: int,
    optimiser: torch.optim.Optimizer,
) -> None:
    half = torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext()
    for start in range(0, len(ids), batch_size):
        rows = sorted(ids[start : start + batch_size], key=len, reverse=True)  # as training lays them out
        batch = encoder.collate(rows)
        labels = torch.arange(len(batch["input_ids"])) % 2
        with layers.in_use(), half:
            loss = F.cross_entropy(encoder(**batch).logits.float(), labels)
            loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()


def _in_words(found: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each share, a column for each part and precision."""
    titles = {f"{each['part']}, {each['dtype']}": each for each in found}
    rows = [
        {"": "seconds", **{name: f"{median(each['seconds']):.2f}" for name, each in titles.items()}},
        {
            "": "products alone, of the whole",
            **{
                name: f"{median(each['products_alone_seconds']) / median(each['seconds']):.0%}"
                for name, each in titles.items()
            },
        },
    ]
    rows += [
        {"": group, **{name: f"{each['shares'][group]:.1%}" for name, each in titles.items()}}
        for group in (*GROUPS, REST)
    ]
    return rows


if __name__ == "__main__":
    sys.exit(exit_status(main))
