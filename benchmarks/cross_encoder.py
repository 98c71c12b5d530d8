"""One folder opened by this package and by `sentence_transformers.CrossEncoder`, and the check that both
compute the same scores."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder

from gemma_encoder.compiling import why_not_compiled
from gemma_encoder.decoders import Decoder
from gemma_encoder.encoder import Encoder
from gemma_encoder.scoring import DEFAULT_MAX_TOKENS
from gemma_encoder.speed.measuring import largest_difference
from gemma_encoder.speed.report import layers, machine
from gemma_encoder.tasks import Task
from gemma_encoder.text import TextConfig

from .common import DTYPES


def add_cross_encoder_options(parser: argparse.ArgumentParser) -> None:
    """The options that only a benchmark against CrossEncoder has."""
    parser.add_argument("--folder", help="score with this trained folder of pairs instead of a new encoder")
    parser.add_argument(
        "--batch-size", type=int, default=32, help="rows in CrossEncoder's batch (its default is 32)"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=DEFAULT_MAX_TOKENS, help="our token budget for a pass"
    )
    parser.add_argument(
        "--compile-layers", action=argparse.BooleanOptionalAction, default=True, help="compile our layers"
    )


def folder_of(options: argparse.Namespace, decoder: Decoder | None, task: Task, scratch: str) -> str:
    """`--folder`, or a folder in `scratch` with a new encoder for the task."""
    if options.folder:
        return str(options.folder)
    folder = str(Path(scratch) / "encoder")
    new = Encoder.from_decoder(
        decoder or options.model,
        verify=False,
        seed=options.seed,
        text=TextConfig(template=task.template),
        problem_type=task.problem_type,
        labels=task.labels,
    )
    new.save_pretrained(folder)
    return folder


def open_both(folder: str, dtype: str, options: argparse.Namespace) -> tuple[Encoder, CrossEncoder]:
    """The same folder as our encoder and as CrossEncoder."""
    ours = Encoder.from_pretrained(
        folder,
        dtype=DTYPES[dtype],
        device=options.device,
        compile_layers=options.compile_layers and why_not_compiled(options.device) is None,
    )
    return ours, CrossEncoder(folder, device=options.device, model_kwargs={"dtype": DTYPES[dtype]})


def facts_of(ours: Encoder, theirs: CrossEncoder, lengths: list[int]) -> dict[str, Any]:
    """The model, how long the pairs are in tokens, and what attention each of the two has."""
    stock = theirs[0].auto_model.config._attn_implementation
    return {
        "model": ours.config.decoder,
        "attention, pooling": f"{ours.config.attention}, {ours.config.pooling.kind}",
        "tokens a pair": f"{sum(lengths) / len(lengths):.0f} on average, {max(lengths)} at most",
        "attention back end": f"ours {ours.backend.name}, CrossEncoder {stock}",
    }


def settings_of(options: argparse.Namespace, differences: Sequence[float]) -> dict[str, Any]:
    """How close the scores were in each precision, the settings and the machine."""
    each = zip(options.dtypes[: len(differences)], differences, strict=True)
    return {
        "largest difference of scores, share of their spread": ", ".join(
            f"{dtype} {difference:.1e}" for dtype, difference in each
        ),
        "settings": f"CrossEncoder batch_size {options.batch_size}, ours max_tokens {options.max_tokens}",
        "layers": layers(options.compile_layers, options.device),
        "machine": machine(options.device),
    }


def scores_agree(ours: np.ndarray, theirs: np.ndarray, dtype: str) -> float:
    """Largest difference as a share of the scores' standard deviation; raises beyond the tolerances."""
    return largest_difference(ours, theirs, theirs.std(), dtype, "the scores disagree")
