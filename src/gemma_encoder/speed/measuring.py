"""Contenders timed in turn on the same rows, after a check that they compute the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from ..encoder import Encoder
from ..errors import ConfigError, GemmaEncoderError
from ..packing import plan_batches
from ..scoring import Row
from .alone import Alone, run_alone
from .batches import Scorer
from .clock import seconds
from .contenders import CONTENDERS, OURS, USUAL, Settings
from .limit import Products

TOLERANCES = {"float32": (1e-3, 1e-3), "bfloat16": (1.0, 0.25)}
"""Largest difference of any score, and root mean square of all, as shares of the scores' spread. bfloat16
keeps 8 bits and the contenders round in different places. With a new head on Gemma 3 270M, whose scores lie
close together, CrossEncoder differs from itself in other batches by 0.21 and 0.06, and ours compiled from
ours not compiled by 0.57 and 0.12. What is not rounding float32 finds."""


class ScoresDifferError(GemmaEncoderError, AssertionError):
    """Contenders compute different scores: their times can't be compared."""


@dataclass(frozen=True)
class Measured:
    """One contender in one precision.

    Attributes:
        name: Which.
        dtype: Type of the backbone's weights.
        seconds: Of scoring all rows, in each round.
        difference: Largest difference of a score from ours in the same precision, as a share of their spread.
        batch_size: Rows of a batch, of those that looked for the fastest; None for the others.
        alone: Memory and start-up in a process of its own; None if that wasn't measured.
        not_alone: Why the process of its own failed; empty if it didn't.
    """

    name: str
    dtype: str
    seconds: list[float]
    difference: float
    batch_size: int | None = None
    alone: Alone | None = None
    not_alone: str = ""


@dataclass(frozen=True)
class Speed:
    """What was measured on the same rows.

    Attributes:
        rows: Number of rows.
        tokens: Their tokens, special ones included, padding not.
        longest: Tokens of the longest.
        contenders: In each precision each contender that could run.
        limits: By precision, seconds that the matrix products alone take, in each round.
        left_out: By name and precision, why a contender could not run.
    """

    rows: int
    tokens: int
    longest: int
    contenders: list[Measured]
    limits: dict[str, list[float]]
    left_out: dict[str, dict[str, str]]

    def table(self) -> list[dict[str, Any]]:
        """A row for each contender and precision: medians of the rounds, and ours over it round by round."""
        rows = []
        for dtype in self.limits:
            of_dtype = [each for each in self.contenders if each.dtype == dtype]
            ours = next(each for each in of_dtype if each.name == OURS)
            for each in of_dtype:
                ratios = [a / b for a, b in zip(each.seconds, ours.seconds, strict=True)]
                shares = [a / b for a, b in zip(self.limits[dtype], each.seconds, strict=True)]
                rows.append(
                    {
                        "contender": each.name,
                        "dtype": dtype,
                        "rows_per_second": self.rows / median(each.seconds),
                        "tokens_per_second": self.tokens / median(each.seconds),
                        "share_of_limit": median(shares),
                        "times_as_long_as_ours": [median(ratios), min(ratios), max(ratios)],
                        "difference": each.difference,
                        "batch_size": each.batch_size,
                        **(asdict(each.alone) if each.alone else {}),
                    }
                )
        return rows


def measure(
    folder: str,
    rows: Sequence[Row],
    *,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    names: Sequence[str] = USUAL,
    rounds: int = 5,
    settings: Settings | None = None,
    alone: bool = True,
    tell: Callable[[str], None] = print,
    keep: Callable[[Speed], object] = lambda measured: None,
) -> Speed:
    """Time contenders on the same rows, in an order that turns round each round.

    Args:
        folder: A trained encoder.
        rows: Texts or pairs.
        dtypes: Precisions.
        names: Contenders; ours is always among them.
        rounds: How often each is timed.
        settings: How they run; its precision is replaced.
        alone: Also run each in a process of its own, for memory and start-up.
        tell: Takes a line about each round.
        keep: Takes what has been measured after each precision, the same object each time.

    Raises:
        ConfigError: There is no such contender, or no row or round.
        ScoresDifferError: A contender's scores differ from ours.
    """
    for name in names:
        if name not in CONTENDERS:
            raise ConfigError(
                f"There is no contender {name!r}", fix=f"the contenders are {', '.join(CONTENDERS)}"
            )
    if rounds < 1 or not rows:
        raise ConfigError(
            f"{len(rows)} rows in {rounds} rounds are nothing to time", fix="give at least 1 of each"
        )
    settings = settings or Settings()
    names = [OURS, *(name for name in names if name != OURS)]
    encoder = Encoder.from_pretrained(folder)
    lengths = [len(ids) for ids in encoder.tokenize(rows).input_ids]
    speed = Speed(len(rows), sum(lengths), max(lengths), [], {}, {})
    passes = [sum(lengths[row] for row in each) for each in plan_batches(lengths, settings.max_tokens)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as exports:
        for dtype in dtypes:
            of_dtype = replace(settings, dtype=dtype, exports=settings.exports or exports)
            scorers = _open(folder, names, of_dtype, speed.left_out)
            scores = {name: scorer(rows) for name, scorer in scorers.items()}  # warms them up, too
            differences = {
                name: _difference(each, scores[OURS], name, dtype) for name, each in scores.items()
            }
            products = Products(encoder.to(settings.device, of_dtype.torch_dtype), passes)
            work: dict[str, Callable[[], object]] = {
                name: partial(scorer, rows) for name, scorer in scorers.items()
            }
            work |= {"products": products.stock, "fused products": products.fused}
            taken = _in_turn(work, rounds, settings.device, f"{dtype}, ", tell)
            both = zip(taken["products"], taken["fused products"], strict=True)
            speed.limits[dtype] = [min(each) for each in both]
            sizes = {name: getattr(scorer, "batch_size", None) for name, scorer in scorers.items()}
            del work, scorers  # their weights, while others are measured by themselves
            found = [
                Measured(name, dtype, taken[name], difference, sizes[name])
                for name, difference in differences.items()
            ]
            speed.contenders.extend(
                _by_itself(each, folder, rows, of_dtype) if alone else each for each in found
            )
            keep(speed)
    return speed


def _by_itself(measured: Measured, folder: str, rows: Sequence[Row], settings: Settings) -> Measured:
    """The same with memory and start-up, or why there are none: its times are not lost for that."""
    settings = replace(settings, tuned_batch_size=measured.batch_size)
    try:
        return replace(measured, alone=run_alone(folder, measured.name, rows, settings))
    except ConfigError as error:
        return replace(measured, not_alone=str(error))


def _open(
    folder: str, names: Sequence[str], settings: Settings, left_out: dict[str, dict[str, str]]
) -> dict[str, Scorer]:
    scorers = {}
    for name in names:
        try:
            scorers[name] = CONTENDERS[name](folder, settings)
        except GemmaEncoderError as error:
            if name == OURS:
                raise
            left_out.setdefault(name, {})[settings.dtype] = str(error)
    return scorers


def largest_difference(found: np.ndarray, other: np.ndarray, spread: float, dtype: str, says: str) -> float:
    """Largest difference of two contenders' scores, as a share of their spread.

    Raises:
        ScoresDifferError: It, or the root mean square, is beyond `TOLERANCES`; begins with what `says`.
    """
    differences = np.abs(found - other) / spread
    largest, typical = float(differences.max()), float(np.sqrt(np.square(differences).mean()))
    if not (largest < TOLERANCES[dtype][0] and typical < TOLERANCES[dtype][1]):
        raise ScoresDifferError(
            f"{says} in {dtype}: largest difference {largest:.2g} of their spread, "
            f"root mean square {typical:.2g}"
        )
    return largest


def _difference(found: np.ndarray, ours: np.ndarray, name: str, dtype: str) -> float:
    spread, size = float(ours.std()), float(np.abs(ours).max())
    if spread < 1e-3 * size:  # of a single row, or of equal ones
        spread = 0.1 * size
    spread = max(spread, 1e-9)
    return largest_difference(found, ours, spread, dtype, f"{name} computes other scores")


def _in_turn(
    work: Mapping[str, Callable[[], object]],
    rounds: int,
    device: str,
    title: str,
    tell: Callable[[str], None],
) -> dict[str, list[float]]:
    """Seconds of each in every round."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds):
        for name, time_taken in interleave(work, number, device).items():
            taken[name].append(time_taken)
        last = ", ".join(f"{name} {each[-1]:.2f} s" for name, each in taken.items())
        tell(f"{title}round {number + 1} of {rounds}: {last}")
    return taken


def interleave(
    contenders: Mapping[str, Callable[[], object]], round_number: int, device: str
) -> dict[str, float]:
    """Time every contender once, in an order that turns round each round, so that none is favoured."""
    names = list(contenders)
    if round_number % 2:
        names.reverse()
    return {name: seconds(contenders[name], device) for name in names}
