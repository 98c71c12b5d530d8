"""Speed on one GPU: scoring and whole training steps, in shares of the rate that matrix products reach there.

    python -m benchmarks.cuda_speed --out result.json

Nothing is downloaded: weights are random, at the shapes of real models but with a vocabulary of 32,768 (a
look-up costs the same in any), and so are token ids. Text lengths are synthetic, drawn like those of queries
with passages (mean 90 tokens) and of pairs of sentences (mean 55). Tokenisation is left out for all;
collation is in all times. `padded` is the stock transformers model, bidirectional, on rows sorted by length,
with our pooler; with 32 rows it stands in for `sentence_transformers.CrossEncoder`, which does that by
default.

A contender that fails is left out, and the output says why. The file is written after every round, so that
a run which is cut off leaves what it measured.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, Gemma2Config, Gemma3TextConfig

from gemma_encoder.cli.common import quiet_libraries
from gemma_encoder.compiling import CompiledLayers, compiled_layers, parameters_of_layers
from gemma_encoder.decoders import Decoder
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import first_line
from gemma_encoder.json_files import write_json
from gemma_encoder.machine import hardware, versions
from gemma_encoder.packing import moved, plan_batches
from gemma_encoder.scoring import pool_token_ids
from gemma_encoder.speed.clock import seconds
from gemma_encoder.speed.limit import Products
from gemma_encoder.speed.measuring import interleave
from gemma_encoder.testing.tokenizer import tiny_tokenizer
from gemma_encoder.training.parameters import set_trainable

from .common import exit_status

Rows = list[list[int]]
Work = Callable[[], Any]

VOCABULARY = 32768
NOMINAL_TFLOPS = 989
"""Of an H100 SXM in bfloat16 without sparsity, by its data sheet."""
LENGTHS = {"passages": (90, 0.45), "sentences": (55, 0.3)}
"""Mean and spread (standard deviation of the logarithm) of text lengths, before they are cut to 16..256."""


@dataclass(frozen=True)
class Shape:
    """A model's shape.

    Attributes:
        hidden: Size of a token state.
        layers: How many.
        heads: Query heads, of 256 each.
        key_heads: Key and value heads.
        feed_forward: Size between the products of a feed-forward.
        softcap: Whether scores are soft-capped, as in Gemma 2.
        rows: Texts that are scored in a round.
        head_dim: Size of a head.
        vocabulary: Rows of the embedding.
    """

    hidden: int
    layers: int
    heads: int
    key_heads: int
    feed_forward: int
    softcap: bool
    rows: int
    head_dim: int = 256
    vocabulary: int = VOCABULARY

    def config(self) -> Gemma2Config | Gemma3TextConfig:
        """The stock config."""
        common: dict[str, Any] = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.head_dim,
            "query_pre_attn_scalar": self.head_dim,
            "pad_token_id": 0,
        }
        every = 2 if self.softcap else 6
        common["layer_types"] = [
            "full_attention" if number % every == 0 else "sliding_attention"
            for number in range(1, self.layers + 1)
        ]
        if self.softcap:
            return Gemma2Config(**common, sliding_window=4096, attn_logit_softcapping=50.0)
        return Gemma3TextConfig(**common, sliding_window=512)


SHAPES = {
    "gemma-3-270m": Shape(640, 18, 4, 1, 2048, softcap=False, rows=4096),
    "gemma-3-1b": Shape(1152, 26, 4, 1, 6912, softcap=False, rows=2048),
    "gemma-2-2b": Shape(2304, 26, 8, 4, 9216, softcap=True, rows=1024),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="cuda_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="write the result as JSON to this file")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny models and few rows: only to see it run")
    parser.add_argument("--seconds-each", type=float, default=0.7, help="about so long each is timed")
    parser.add_argument("--seconds", type=float, default=100, help="after so long nothing more is begun")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=["scoring", "training"],
        default=["scoring", "training"],
        help="in this order",
    )
    options = parser.parse_args(argv)
    quiet_libraries()
    bench = _Bench(options)
    for name in options.shapes:
        shape = SHAPES[name]
        if options.tiny:
            shape = replace(
                shape, hidden=64, layers=2, feed_forward=128, rows=24, head_dim=16, vocabulary=512
            )
        for part in options.parts:
            work = bench.score if part == "scoring" else bench.train
            bench.part(f"{name} {part}", partial(work, name, shape))
    for line in bench.table():
        print(line)
    return bench.result


class _Bench:
    """The run: what was asked for, and the result so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device, self.began = options, options.device, time.perf_counter()
        self.on_gpu = torch.device(self.device).type == "cuda"
        self.result: dict[str, Any] = {
            "benchmark": "GPU speed",
            "hardware": hardware(),
            "versions": versions(("torch", "transformers", "triton", "flash-attn", "gemma-encoder")),
            "weights": f"random, vocabulary cut to {VOCABULARY} rows, without a language-model head",
            "lengths": "synthetic: log-normal, cut to 16..256; mean and sigma " + str(LENGTHS),
            "nominal_tflops": NOMINAL_TFLOPS,
            "left_out": {},
            "rows": [],
        }
        self.peak = self.measured_peak()
        self.result["measured_peak_tflops"] = self.peak / 1e12
        self.write()

    def write(self) -> None:
        write_json(self.options.out, self.result)

    def left_out(self, name: str, why: Exception | str) -> None:
        said = why if isinstance(why, str) else f"{type(why).__name__}: {first_line(why)}"
        self.result["left_out"][name] = said
        print(f"left out: {name}: {said}", flush=True)

    def part(self, name: str, work: Work) -> None:
        """Run a part if there is time; whatever goes wrong in it leaves the others alone."""
        started = time.perf_counter()
        if started - self.began > self.options.seconds:
            self.left_out(name, "no time left")
        else:
            try:
                work()
            except Exception as error:  # whatever it is, the other parts have their figures
                self.left_out(name, error)
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
        torch._dynamo.reset()
        print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)
        self.write()

    def measured_peak(self) -> float:
        """Floating-point operations a second of a large product in bfloat16."""
        size = 8192 if self.on_gpu else 256
        left, right = (torch.randn(size, size, device=self.device).bfloat16() for _ in range(2))
        taken = [seconds(lambda: [left @ right for _ in range(10)], self.device) / 10 for _ in range(10)]
        return 2 * size**3 / min(taken)

    # ------------------------------------------------------------------------------------------- two parts

    def score(self, name: str, shape: Shape) -> None:
        """Pooled vectors of all rows, weights in bfloat16."""
        encoder = _encoder(shape, torch.bfloat16, self.device)
        for kind in LENGTHS:
            rows = _rows(kind, shape)
            work = self._scorers(f"{name} scoring {kind}", encoder, rows)
            self._time(name, f"scoring {kind}", work, encoder, rows, shape)

    def train(self, name: str, shape: Shape) -> None:
        """Whole steps: collation, forward, backward, clipping and AdamW, float32 weights under autocast."""
        encoder = _encoder(shape, torch.float32, self.device)
        set_trainable(encoder, "full")  # token embeddings are frozen
        optimizer = torch.optim.AdamW(
            [each for each in encoder.parameters() if each.requires_grad], lr=1e-6, fused=self.on_gpu
        )
        steps, size = (2, 4) if self.options.tiny else (10, 32)
        rows = _rows("passages", shape)[: steps * size]
        drawn = [rows[start : start + size] for start in range(0, len(rows), size)]
        ordered = sorted(rows, key=len)
        by_length = [ordered[start : start + size] for start in range(0, len(rows), size)]
        trained = partial(self._train, encoder, optimizer)
        padded = "eager" if encoder.softcap else "sdpa"
        contenders: dict[str, Work] = {
            "packed": partial(trained, drawn, _Packed(encoder)),
            "packed, compiled": partial(trained, drawn, _Packed(encoder, compiled=True)),
            f"padded {padded}": partial(trained, drawn, _Padded(encoder, padded)),
            f"padded {padded}, by length": partial(trained, by_length, _Padded(encoder, padded)),
        }
        work, facts = {}, {}
        for title, each in contenders.items():
            if (memory := self._tried(f"{name} training {title}", each)) is not None:
                work[title], facts[title] = each, {**memory, "loss": memory["output"]}
        self._rounds(name, "training passages", work, facts, encoder, rows, shape)

    def _train(
        self, encoder: Encoder, optimizer: torch.optim.Optimizer, batches: list[Rows], model: _Model
    ) -> float:
        encoder.train()
        model.prepare()
        loss = torch.zeros(())
        for rows in batches:
            batch = encoder.collate(rows)
            labels = torch.tensor([len(row) % 2 for row in rows], device=self.device)
            with model.layers():
                with torch.autocast(torch.device(self.device).type, torch.bfloat16):
                    loss = F.cross_entropy(encoder.head(model.pooled(**batch)), labels)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return float(loss)

    # ------------------------------------------------------------------------------------------ contenders

    def _scorers(self, title: str, encoder: Encoder, rows: Rows) -> dict[str, dict[str, Any]]:
        """Contenders that run, each at its fastest budget or batch size, with what is known of them."""
        tiny = self.options.tiny
        budgets = (256, 512) if tiny else (8192, 16384, 32768)
        sizes = (8,) if tiny else (32, 64, 128)
        ours = encoder.eval().backend.name
        found: dict[str, dict[str, Any]] = {}

        def add(name: str, choices: Sequence[int], unit: str, score: Callable[[int], np.ndarray]) -> None:
            tried: dict[int, dict[str, Any]] = {}
            for choice in choices:
                call = partial(score, choice)
                memory = self._tried(f"{title} {name} {choice}", call)
                if memory is not None:
                    tried[choice] = {**memory, "work": call, "seconds": seconds(call, self.device)}
            if tried:
                best = min(tried, key=lambda choice: tried[choice]["seconds"])
                facts = {"choice": f"{best} {unit}", "seconds_of_choices": _seconds_of(tried)}
                found[name] = {**tried[best], **facts, "best": best}

        def packed(backend: str, compiled: bool, budget: int) -> np.ndarray:
            return _Packed(encoder, backend, compiled).score(rows, budget)

        add(f"packed ({ours})", budgets, "tokens", partial(packed, "auto", False))
        add(f"packed ({ours}), compiled", budgets, "tokens", partial(packed, "auto", True))
        stock = ["eager" if encoder.softcap else "sdpa"]
        if importlib.util.find_spec("flash_attn") is not None:
            stock.append("flash_attention_2")
        for attention in stock:
            model = _Padded(encoder, attention)
            add(f"padded {attention}", sizes, "rows", partial(model.score, rows))
            if attention == stock[-1]:
                add("padded, as CrossEncoder", sizes[:1], "rows", partial(model.score, rows))
        # Last, for where time is short: FlexAttention compiles for half a minute.
        best = [found[f"packed ({ours})"]["best"]] if f"packed ({ours})" in found else budgets[:1]
        for backend in ("varlen", "flex", "matmul", "sdpa"):
            if backend != ours:
                add(f"packed ({backend})", best, "tokens", partial(packed, backend, False))
        return found

    def _tried(self, title: str, work: Work) -> dict[str, Any] | None:
        """Run once, which compiles what is compiled: its peak memory and what it gave; None if it fails."""
        if time.perf_counter() - self.began > self.options.seconds:
            self.left_out(title, "no time left")
            return None
        try:
            if self.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            output = work()
            first = time.perf_counter() - started
            memory = torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else None
            return {"peak_gib": memory, "seconds_first": first, "output": output}
        except Exception as error:
            self.left_out(title, error)
            if self.on_gpu:
                torch.cuda.empty_cache()
            return None

    # --------------------------------------------------------------------------------------------- measuring

    def _time(
        self,
        name: str,
        kind: str,
        found: dict[str, dict[str, Any]],
        encoder: Encoder,
        rows: Rows,
        shape: Shape,
    ) -> None:
        """Hold the pooled vectors against each other, then time all in turn, and the products alone."""
        first = next(iter(found.values()))
        for title, each in found.items():
            each["least_cosine"], each["difference"] = _agreement(each["output"], first["output"])
            print(
                f"{name} {kind} {title}: cosine to the first at least {each['least_cosine']:.5f}, "
                f"largest difference {each['difference']:.2g}",
                flush=True,
            )
        work = {title: each.pop("work") for title, each in found.items()}
        lengths = [len(row) for row in rows]
        plan = plan_batches(lengths, first["best"])
        passes = [sum(lengths[row] for row in batch) for batch in plan]
        products = Products(encoder, passes)
        if self._tried(f"{name} {kind} products", products.stock) is not None:
            work["products alone"] = products.stock
            found["products alone"] = {}
        work["collation alone"] = lambda: [encoder.collate([rows[row] for row in batch]) for batch in plan]
        found["collation alone"] = {}
        self._rounds(name, kind, work, found, encoder, rows, shape)

    def _rounds(
        self,
        name: str,
        kind: str,
        work: dict[str, Work],
        facts: dict[str, dict[str, Any]],
        encoder: Encoder,
        rows: Rows,
        shape: Shape,
    ) -> None:
        taken: dict[str, list[float]] = {title: [] for title in work}
        before = list(self.result["rows"])
        lengths = [len(row) for row in rows]
        operations = _operations(lengths, parameters_of_layers(encoder.backbone), shape)
        operations *= 3 if kind.startswith("training") else 1
        started = time.perf_counter()
        for number in range(10):
            for title, each in interleave(work, number, self.device).items():
                taken[title].append(each)
            self.result["rows"] = before + [
                self._row(name, kind, title, taken, facts[title], lengths, operations) for title in work
            ]
            self.write()
            if number and time.perf_counter() - started > self.options.seconds_each * len(work):
                break

    def _row(
        self,
        name: str,
        kind: str,
        title: str,
        taken: dict[str, list[float]],
        facts: dict[str, Any],
        lengths: list[int],
        operations: float,
    ) -> dict[str, Any]:
        typical = median(taken[title])
        row = {
            "shape": name,
            "kind": kind,
            "contender": title,
            "rows": len(lengths),
            "mean_tokens": sum(lengths) / len(lengths),
            **{key: value for key, value in facts.items() if key not in ("output", "best")},
            "seconds": taken[title],
        }
        if title == "collation alone":
            return row
        row |= {
            "rows_per_second": len(lengths) / typical,
            "tokens_per_second": sum(lengths) / typical,
            "tflops": operations / typical / 1e12,
            "share_of_measured_peak": operations / typical / self.peak,
            "share_of_nominal": operations / typical / 1e12 / NOMINAL_TFLOPS,
        }
        if "products alone" in taken:
            shares = [a / b for a, b in zip(taken["products alone"], taken[title], strict=True)]
            row["share_of_products"] = median(shares)
        return row

    def table(self) -> list[str]:
        """Markdown."""
        gpu, torch_version = self.result["hardware"]["gpu"], self.result["versions"]["torch"]
        reached = f"a product of large matrices reaches {self.peak / 1e12:.1f} TFLOP/s"
        lines = ["", f"{gpu}, torch {torch_version}: {reached}"]
        for shape, kind in dict.fromkeys((each["shape"], each["kind"]) for each in self.result["rows"]):
            rows = [each for each in self.result["rows"] if (each["shape"], each["kind"]) == (shape, kind)]
            count, mean = rows[0]["rows"], rows[0]["mean_tokens"]
            lines += ["", f"{shape}, {kind}, {count} rows of {mean:.0f} tokens on average", ""]
            lines += ["| " + " | ".join(_TITLES) + " |", "| --- | --- |" + " ---: |" * (len(_TITLES) - 2)]
            lines += [_line(each) for each in rows]
        return lines


_TITLES = (
    "contender",
    "at",
    "rows/s",
    "tokens/s",
    "TFLOP/s",
    "of measured peak",
    "of nominal",
    "of products alone",
    "peak GiB",
    "cosine",
)


class _Model:
    """How an encoder computes pooled vectors."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def prepare(self) -> None:
        """Set the encoder's attention, which other contenders set otherwise."""
        raise NotImplementedError

    def layers(self) -> Any:
        """The context in which its layers compute."""
        return nullcontext()

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Pooled vectors `[B, D]` of a batch padded on the right."""
        raise NotImplementedError


class _Packed(_Model):
    """This package, packed."""

    def __init__(self, encoder: Encoder, backend: Any = "auto", compiled: bool = False) -> None:
        super().__init__(encoder)
        self.backend, self.compiled = backend, compiled

    def prepare(self) -> None:
        self.encoder.layout, self.encoder.requested_backend = "packed", self.backend

    @property
    def compiled_layers(self) -> CompiledLayers | None:
        return compiled_layers(self.encoder.backbone) if self.compiled else None

    def layers(self) -> Any:
        return self.compiled_layers.in_use() if self.compiled_layers else nullcontext()

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder.encode_tokens(input_ids, attention_mask)
        return self.encoder.pooler(states, attention_mask)

    def score(self, rows: Rows, budget: int) -> np.ndarray:
        """Pooled vectors of all rows, as the package scores them."""
        self.prepare()
        return pool_token_ids(self.encoder, rows, budget, layers=self.compiled_layers)


class _Padded(_Model):
    """The stock model under a mask."""

    def __init__(self, encoder: Encoder, attention: str) -> None:
        super().__init__(encoder)
        self.attention = attention

    def prepare(self) -> None:
        self.encoder.stock_backbone.set_attn_implementation(self.attention)

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        device = self.encoder.device
        states = self.encoder.backbone(
            input_ids=moved(input_ids, device), attention_mask=moved(attention_mask, device), use_cache=False
        ).last_hidden_state
        return self.encoder.pooler(states, attention_mask)

    def score(self, rows: Rows, size: int) -> np.ndarray:
        """Pooled vectors of all rows, sorted by length, so many in a batch."""
        self.prepare()
        order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
        parts = []
        with torch.inference_mode():
            for start in range(0, len(order), size):
                batch = self.encoder.collate([rows[row] for row in order[start : start + size]])
                parts.append(self.pooled(**batch).float())
        return torch.cat(parts).cpu().numpy()[np.argsort(order)]


def _encoder(shape: Shape, dtype: torch.dtype, device: str) -> Encoder:
    torch.manual_seed(0)
    with torch.device(device):
        backbone = AutoModel.from_config(shape.config(), dtype=dtype)
    decoder = Decoder(backbone.eval(), tiny_tokenizer(), "random weights")
    return Encoder.from_decoder(decoder, verify=False, seed=0, labels=("no", "yes")).to(device)


def _rows(kind: str, shape: Shape) -> Rows:
    """Random token ids, as many texts as the shape says."""
    draw, (mean, spread) = random.Random(0), LENGTHS[kind]
    centre = math.log(mean) - spread**2 / 2
    lengths = [min(256, max(16, round(draw.lognormvariate(centre, spread)))) for _ in range(shape.rows)]
    return [[draw.randrange(4, shape.vocabulary) for _ in range(length)] for length in lengths]


def _operations(lengths: list[int], parameters: int, shape: Shape) -> float:
    """Floating-point operations of a forward pass over real tokens: layers, and products of attention."""
    attention = 4 * shape.heads * shape.head_dim * shape.layers * sum(length**2 for length in lengths)
    return 2.0 * parameters * sum(lengths) + attention


def _agreement(found: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Least cosine of two sets of vectors, row by row, and the largest difference of a number."""
    products = (found * other).sum(axis=1)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(other, axis=1)
    return float((products / norms).min()), float(np.abs(found - other).max())


def _seconds_of(tried: dict[int, dict[str, Any]]) -> dict[str, float]:
    return {str(choice): each["seconds"] for choice, each in tried.items()}


def _line(row: dict[str, Any]) -> str:
    def cell(key: str, form: str) -> str:
        return form.format(row[key]) if row.get(key) is not None else "–"

    if "rows_per_second" not in row:
        return f"| {row['contender']} | {median(row['seconds']):.4f} s |" + " – |" * 8
    cells = [
        row["contender"],
        row.get("choice", "–"),
        cell("rows_per_second", "{:,.0f}"),
        cell("tokens_per_second", "{:,.0f}"),
        cell("tflops", "{:.1f}"),
        cell("share_of_measured_peak", "{:.1%}"),
        cell("share_of_nominal", "{:.1%}"),
        cell("share_of_products", "{:.0%}"),
        cell("peak_gib", "{:.1f}"),
        cell("least_cosine", "{:.5f}"),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(exit_status(main))
