"""Scoring pairs/s: this package against `sentence_transformers.CrossEncoder`, both on the same saved folder.

    python -m benchmarks.scoring_speed --data-dir DATA [--folder TRAINED]

CrossEncoder sorts by length and pads; this package packs. The scores are checked to agree before anything is
timed. In each round both score the same pairs, tokenisation included.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
from sentence_transformers import CrossEncoder

from gemma_encoder.decoders import Decoder
from gemma_encoder.encoder import Encoder
from gemma_encoder.scoring import DEFAULT_MAX_TOKENS, score_all
from gemma_encoder.text import TextConfig

from .common import (
    DTYPES,
    Comparison,
    add_common_options,
    interleave,
    machine,
    pair_data,
    parse,
    report,
    text_rows,
)

# Largest difference of any score, as a share of the scores' spread. bfloat16 keeps 8 bits and the two sum in
# different orders, so there a difference is expected; it is printed.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.25}


def main(argv: Sequence[str] | None = None, *, decoder: Decoder | None = None) -> dict[str, Any]:
    """Run the benchmark; `decoder` replaces `--model`."""
    parser = argparse.ArgumentParser(prog="scoring_speed", description=__doc__)
    add_common_options(parser)
    parser.add_argument(
        "--folder", help="score with this trained folder of a pair task instead of a new encoder"
    )
    parser.add_argument("--rows", type=int, default=128, help="pairs scored in a round")
    parser.add_argument(
        "--batch-size", type=int, default=32, help="rows in CrossEncoder's batch (its default is 32)"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=DEFAULT_MAX_TOKENS, help="our token budget for a pass"
    )
    options = parse(parser, argv)

    data, source = pair_data(options.data_dir)
    rows = data.validation
    chosen = random.Random(options.seed).sample(range(len(rows)), min(options.rows, len(rows)))
    pairs = text_rows(rows, chosen)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or str(Path(scratch) / "encoder")
        if not options.folder:
            text = TextConfig(template=data.task.template)
            new = Encoder.from_decoder(
                decoder or options.model, verify=False, seed=options.seed, text=text, labels=data.task.labels
            )
            new.save_pretrained(folder)
            del new
        results = [_compare(folder, pairs, dtype, options) for dtype in options.dtypes]
    encoder_facts, comparisons, differences = zip(*results, strict=True)
    facts = {
        **encoder_facts[0],
        "data": f"{source}, {len(pairs)} pairs",
        "largest difference of scores, share of their spread": ", ".join(
            f"{dtype} {difference:.1e}" for dtype, difference in zip(options.dtypes, differences, strict=True)
        ),
        "settings": f"CrossEncoder batch_size {options.batch_size}, ours max_tokens {options.max_tokens}",
        "machine": f"{machine(options.device)}, sentence-transformers {sentence_transformers.__version__}",
    }
    return report("Scoring speed, packed against CrossEncoder", facts, comparisons, options.out)


def _compare(
    folder: str, pairs: list[tuple[str, str]], dtype: str, options: argparse.Namespace
) -> tuple[dict[str, Any], Comparison, float]:
    ours = Encoder.from_pretrained(folder, dtype=DTYPES[dtype], device=options.device)
    theirs = CrossEncoder(folder, device=options.device, model_kwargs={"dtype": DTYPES[dtype]})

    def score_ours() -> np.ndarray:
        return score_all(ours, pairs, max_tokens=options.max_tokens)

    def score_theirs() -> np.ndarray:
        scores = theirs.predict(
            pairs, batch_size=options.batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        return np.asarray(scores, dtype=np.float32).reshape(len(pairs), -1)

    difference = _scores_agree(score_ours(), score_theirs(), dtype)  # warms both up, too
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(options.rounds):
        taken = interleave({"ours": score_ours, "theirs": score_theirs}, number, options.device)
        for name, time_taken in taken.items():
            rates[name].append(len(pairs) / time_taken)
        print(
            f"{dtype} round {number + 1}: " + ", ".join(f"{k} {v[-1]:,.1f} pairs/s" for k, v in rates.items())
        )
    lengths = [len(ids) for ids in ours.tokenize(pairs).input_ids]
    stock = theirs[0].auto_model.config._attn_implementation
    facts = {
        "model": ours.config.decoder,
        "attention, pooling": f"{ours.config.attention}, {ours.config.pooling.kind}",
        "tokens a pair": f"{sum(lengths) / len(lengths):.0f} on average, {max(lengths)} at most",
        "attention back end": f"ours {ours.backend.name}, CrossEncoder {stock}",
    }
    names = ("gemma-encoder", "CrossEncoder")
    return (
        facts,
        Comparison(dtype, "pairs/s", (names[0], rates["ours"]), (names[1], rates["theirs"])),
        difference,
    )


def _scores_agree(ours: np.ndarray, theirs: np.ndarray, dtype: str) -> float:
    """Largest difference as a share of the scores' standard deviation; raises beyond the tolerance."""
    difference = float(np.abs(ours - theirs).max() / theirs.std())
    if not difference < TOLERANCES[dtype]:
        raise AssertionError(
            f"the scores disagree in {dtype}: largest difference {difference:.2g} of their spread"
        )
    return difference


if __name__ == "__main__":
    main()
