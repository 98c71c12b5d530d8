"""Scoring pairs/s: this package against `sentence_transformers.CrossEncoder`, both on the same saved folder.

    python -m benchmarks.scoring_speed --data-dir DATA [--folder TRAINED]

CrossEncoder sorts by length and pads; this package packs. The scores are checked to agree before anything is
timed. In each round both score the same pairs, tokenisation included.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gemma_encoder.decoders import Decoder
from gemma_encoder.scoring import score_all

from .common import (
    Comparison,
    add_common_options,
    add_data_dir,
    exit_status,
    pair_data,
    parse,
    rates_of,
    report,
    text_rows,
)
from .cross_encoder import (
    add_cross_encoder_options,
    facts_of,
    folder_of,
    open_both,
    scores_agree,
    settings_of,
)


def main(argv: Sequence[str] | None = None, *, decoder: Decoder | None = None) -> dict[str, Any]:
    """Run the benchmark; `decoder` replaces `--model`."""
    parser = argparse.ArgumentParser(prog="scoring_speed", description=__doc__)
    add_common_options(parser)
    add_data_dir(parser)
    add_cross_encoder_options(parser)
    parser.add_argument("--rows", type=int, default=128, help="pairs scored in a round")
    options = parse(parser, argv)

    data, source = pair_data(options.data_dir)
    rows = data.validation
    chosen = random.Random(options.seed).sample(range(len(rows)), min(options.rows, len(rows)))
    pairs = text_rows(rows, chosen)
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder_of(options, decoder, data.task, scratch)
        results = [_compare(folder, pairs, dtype, options) for dtype in options.dtypes]
    encoder_facts, comparisons, differences = zip(*results, strict=True)
    facts = {
        **encoder_facts[0],
        "data": f"{source}, {len(pairs)} pairs",
        **settings_of(options, differences),
    }
    return report("Scoring speed, packed against CrossEncoder", facts, comparisons, options.out)


def _compare(
    folder: str, pairs: list[tuple[str, str]], dtype: str, options: argparse.Namespace
) -> tuple[dict[str, Any], Comparison, float]:
    ours, theirs = open_both(folder, dtype, options.device)

    def score_ours() -> np.ndarray:
        return score_all(ours, pairs, max_tokens=options.max_tokens)

    def score_theirs() -> np.ndarray:
        scores = theirs.predict(
            pairs, batch_size=options.batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        return np.asarray(scores, dtype=np.float32).reshape(len(pairs), -1)

    difference = scores_agree(score_ours(), score_theirs(), dtype)  # warms both up, too
    contenders = {"gemma-encoder": score_ours, "CrossEncoder": score_theirs}
    rates = rates_of(contenders, len(pairs), "pairs/s", dtype, options)
    lengths = [len(ids) for ids in ours.tokenize(pairs).input_ids]
    ours_rates, theirs_rates = rates.items()
    comparison = Comparison(dtype, "pairs/s", ours_rates, theirs_rates)
    return facts_of(ours, theirs, lengths), comparison, difference


if __name__ == "__main__":
    sys.exit(exit_status(main))
