"""What `--dry-run` says about texts and models: counted and tokenised, not computed."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from .common import counted, length_statistics

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..scoring import Row

BUFFER_ROWS = 2048


def text_plan(encoder: Encoder, rows: Iterable[Row], max_tokens: int) -> dict[str, Any]:
    """Rows, tokens, cut texts and forward passes of scoring `rows`."""
    from ..packing import plan_batches

    lengths, truncated, passes = array("I"), 0, 0
    no_room: set[str] = set()
    stream = iter(rows)
    while buffer := list(islice(stream, BUFFER_ROWS)):
        tokens = encoder.tokenize(buffer)
        counts = [len(ids) for ids in tokens.input_ids]
        lengths.extend(counts)
        truncated += sum(tokens.truncated)
        no_room |= {row[0] for row, none in zip(buffer, tokens.no_room, strict=True) if none}
        passes += len(plan_batches(counts, max_tokens))
    cut = f"{counted(truncated, 'text')} longer than {encoder.config.text.max_length} tokens"
    return {
        "rows": len(lengths),
        "tokens": sum(lengths),
        "tokens per text": length_statistics(lengths),
        "texts cut": f"{cut}; {without_room(len(no_room))}" if no_room else cut,
        "forward passes": f"{passes:,} of at most {max_tokens:,} tokens",
    }


def without_room(first_texts: int) -> str:
    """What to tell of first texts of pairs that fill the maximal length by themselves."""
    leave = "query leaves no room for its" if first_texts == 1 else "queries leave no room for their"
    return f"{first_texts:,} {leave} document (second text of the pair); raise max_length"


def memory_plan(encoder: Encoder) -> dict[str, Any]:
    """Parameters and the memory that the weights take."""
    parameters = list(encoder.parameters())
    size = sum(p.numel() * p.element_size() for p in parameters)
    return {"parameters": sum(p.numel() for p in parameters), "weights in memory": f"{size / 2**20:,.0f} MiB"}
