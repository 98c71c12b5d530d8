"""Scores of many texts: by token budget, in any amount, in the order they came.

Rows are tokenised a buffer at a time, cut into forward passes of at most `max_tokens` tokens (longest rows
first) and put back in order, so memory stays the same however many rows there are and the budget can't change
the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from .compiling import CompiledLayers, compiled_layers, pays
from .errors import ConfigError, GemmaEncoderError
from .onednn import through_onednn
from .packing import plan_batches
from .text import check_rows

if TYPE_CHECKING:
    from .encoder import Encoder

Row = str | tuple[str, str]

DEFAULT_MAX_TOKENS = 4096
DEFAULT_BUFFER_ROWS = 2048


@dataclass(frozen=True)
class Scored:
    """One row's scores.

    Attributes:
        index: Position of the row among those given, from 0.
        logits: Scores before softmax or sigmoid, float32 `[num_labels]`.
        truncated: Whether the text was longer than the model's maximal length and was cut.
        no_room: Whether nothing was left of a pair's second text.
    """

    index: int
    logits: np.ndarray
    truncated: bool
    no_room: bool = False


WORTH_COMPILING = 3e13
"""Floating-point operations of a stream from which its layers are compiled; about a minute of two cores."""


def score_token_ids(
    encoder: Encoder,
    ids: Sequence[Sequence[int]],
    max_tokens: int,
    budget: str = "max_tokens",
    layers: CompiledLayers | None = None,
) -> np.ndarray:
    """Score rows of token ids, in eval mode and without gradients.

    Args:
        encoder: The encoder. Its modules are in the mode they were in when this returns.
        ids: Token ids of each of `N` rows.
        max_tokens: Most tokens in one forward pass. Changes speed and memory, never the scores.
        budget: The option that sets `max_tokens`, for the error.
        layers: The encoder's layers compiled, to compute by them.

    Returns:
        Logits, float32 `[N, num_labels]`, in the order of `ids`.

    Raises:
        ConfigError: A pass doesn't fit into memory; names the option and its value.
    """
    width = encoder.config.num_labels
    return _in_passes(encoder, ids, max_tokens, budget, width, "logits", layers)


def pool_token_ids(
    encoder: Encoder, ids: Sequence[Sequence[int]], max_tokens: int, *, layers: CompiledLayers | None = None
) -> np.ndarray:
    """As `score_token_ids`, but the pooled vectors in front of the head: float32 `[N, D]`."""
    width = encoder.pooler.output_size
    return _in_passes(encoder, ids, max_tokens, "max_tokens", width, "pooled", layers)


def score(
    encoder: Encoder,
    rows: Iterable[Row],
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    buffer_rows: int = DEFAULT_BUFFER_ROWS,
) -> Iterator[Scored]:
    """Score texts, or pairs of texts, as a stream.

    Args:
        encoder: The encoder.
        rows: Texts or pairs, as many as there are; read `buffer_rows` at a time.
        max_tokens: Most tokens in one forward pass.
        buffer_rows: Rows held in memory; more of them fill the passes better.

    Yields:
        One `Scored` for each row, in order.

    Raises:
        ConfigError: `max_tokens` or `buffer_rows` is below 1, or a pass doesn't fit into memory.
        DataError: `rows` is one row and not a list of them, or a row is not what the model takes.
    """
    check_rows(rows, encoder.config.text)
    if buffer_rows < 1:
        raise ConfigError(f"buffer_rows is {buffer_rows}", fix="give a number of rows of at least 1")
    if max_tokens < 1:
        raise ConfigError(f"max_tokens is {max_tokens}", fix="give a number of tokens of at least 1")
    return _stream(encoder, iter(rows), max_tokens, buffer_rows)


def score_all(encoder: Encoder, rows: Iterable[Row], *, max_tokens: int = DEFAULT_MAX_TOKENS) -> np.ndarray:
    """Score texts, or pairs, at once: logits, float32 `[N, num_labels]`. Arguments as in `score`."""
    logits = [scored.logits for scored in score(encoder, rows, max_tokens=max_tokens)]
    return np.stack(logits) if logits else np.zeros((0, encoder.config.num_labels), dtype=np.float32)


def probabilities(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """What scores `[..., num_labels]` mean: softmax, a sigmoid each, or (regression, ranking) themselves."""
    scores = logits.astype(np.float64)
    if problem_type in ("regression", "ranking"):
        return scores
    if problem_type == "multi_label_classification":
        return np.exp(-np.logaddexp(0.0, -scores))
    return np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True))


def labels_on(logits: np.ndarray) -> np.ndarray:
    """Which labels apply by multi-label scores `[..., num_labels]`: those of a probability above one half."""
    return logits > 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or (torch has no class for that) on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("out of memory", "can't allocate memory", "not enough memory")
    )


def out_of_memory(
    rows: Sequence[Sequence[int]], max_tokens: int, budget: str = "max_tokens"
) -> GemmaEncoderError:
    """The error for a pass over `rows` that didn't fit; a row alone in its pass must get shorter."""
    tokens = sum(map(len, rows))
    alone = len(rows) == 1
    return ConfigError(
        f"Out of memory: a pass of {tokens} tokens in {len(rows)} row{'s' * (not alone)} doesn't fit",
        where=f"{budget}={max_tokens}",
        fix="lower max_length, this is one row by itself"
        if alone
        else f"lower {budget}, e.g. to {max(1, tokens // 2)}",
    )


def _in_passes(
    encoder: Encoder,
    ids: Sequence[Sequence[int]],
    max_tokens: int,
    budget: str,
    width: int,
    field: Literal["logits", "pooled"],
    layers: CompiledLayers | None = None,
) -> np.ndarray:
    """A field of the output for each row, float32 `[N, width]`, computed pass by pass."""
    plan = plan_batches([len(row) for row in ids], max_tokens)
    parts: list[torch.Tensor] = []  # joined at the end: a GPU isn't waited for in between
    faster = through_onednn(encoder) if layers is None else layers.in_use()
    with _evaluating(encoder), torch.inference_mode(), faster:
        for batch in plan:
            rows = [ids[row] for row in batch]
            try:
                parts.append(getattr(encoder(**encoder.collate(rows)), field).float())
            except (RuntimeError, MemoryError) as error:
                if is_out_of_memory(error):
                    raise out_of_memory(rows, max_tokens, budget) from error
                raise
    found = np.zeros((len(ids), width), dtype=np.float32)
    if parts:
        found[[row for batch in plan for row in batch]] = torch.cat(parts).cpu().numpy()
    return found


def _stream(encoder: Encoder, rows: Iterator[Row], max_tokens: int, buffer_rows: int) -> Iterator[Scored]:
    start = behind = 0
    while buffer := list(islice(rows, buffer_rows)):
        tokens = encoder.tokenize(buffer)
        layers = compiled_layers(encoder.backbone) if _compiles(encoder, behind) else None
        logits = score_token_ids(encoder, tokens.input_ids, max_tokens, layers=layers)
        behind += sum(map(len, tokens.input_ids))
        found = zip(logits, tokens.truncated, tokens.no_room, strict=True)
        for offset, (scores, truncated, no_room) in enumerate(found):
            yield Scored(start + offset, scores, truncated, no_room)
        start += len(buffer)


def _compiles(encoder: Encoder, tokens: int) -> bool:
    """Whether a stream goes on by compiled layers after so many tokens."""
    if encoder.compile_layers is not None:
        return encoder.compile_layers
    return encoder.layout == "packed" and pays(encoder.backbone, tokens, WORTH_COMPILING, backward=False)


@contextmanager
def _evaluating(encoder: Encoder) -> Iterator[None]:
    """Eval mode inside; afterwards every module is in its own mode again (a frozen part may differ)."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
