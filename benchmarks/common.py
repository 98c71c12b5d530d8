"""What the benchmarks of speed share: real rows, the machine, interleaved timing, tables and a JSON file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gemma_encoder.errors import DataError, GemmaEncoderError
from gemma_encoder.memory import keep_freed_memory
from gemma_encoder.speed.measuring import interleave
from gemma_encoder.tasks import TaskData, load_task

SIDES = ("ours", "reference")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The options that all benchmarks of speed have."""
    parser.add_argument("--model", default="gemma-3-270m", help="decoder: name, folder, .gguf file or hub id")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; each times every contender once")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the result as JSON to this file")
    parser.add_argument(
        "--give-memory-back",
        action="store_true",
        help="leave malloc of this process as it is; else it keeps freed memory, as on the command line",
    )


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """The option of those that take pairs of sentences."""
    parser.add_argument("--data-dir", help="folder with MRPC (mrpc/train.parquet, mrpc/validation.parquet)")


def add_alone(parser: argparse.ArgumentParser) -> None:
    """The option of those that measure memory and start-up."""
    parser.add_argument(
        "--alone",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also run each in a process of its own, for memory and start-up",
    )


def exit_status(main: Callable[[], object]) -> int:
    """Run a benchmark; a user's mistake is one line and exit status 2, Ctrl+C one and 130."""
    try:
        main()
    except GemmaEncoderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options, and set malloc as they say, for all contenders alike."""
    options = parser.parse_args(argv)
    for name in ("rounds", "steps", "rows", "batch_size", "max_tokens", "queries", "depth"):
        if getattr(options, name, 1) < 1:
            parser.error(f"--{name.replace('_', '-')} is at least 1")
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here: give --device cpu")
    if not options.give_memory_back:
        keep_freed_memory()
    return options


def pair_data(data_dir: str | None) -> tuple[TaskData, str]:
    """MRPC from `data_dir`; without one, the bundled WNLI, which is pairs of sentences too.

    Returns:
        The data, and what they are in words, for the result.
    """
    if data_dir is not None:
        return load_task("mrpc", data_dir), "MRPC"
    try:
        return load_task("mrpc", source="bundled"), "MRPC"
    except DataError:
        return load_task("wnli", source="bundled"), "WNLI (bundled; give --data-dir for MRPC)"


@dataclass(frozen=True)
class Comparison:
    """Rates of two contenders that were timed in turn, round by round.

    Attributes:
        dtype: Precision they ran in.
        unit: What the rates count, e.g. `tokens/s`.
        ours: Name and rates of the contender in question.
        reference: Name and rates of the one it is held against.
        also: Other units to show the medians in, and how each follows from a rate.
    """

    dtype: str
    unit: str
    ours: tuple[str, list[float]]
    reference: tuple[str, list[float]]
    also: Mapping[str, Callable[[float], float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Medians, and the ratio of each round as median, smallest and largest."""
        ratios = [a / b for a, b in zip(self.ours[1], self.reference[1], strict=True)]
        return {
            "dtype": self.dtype,
            "unit": self.unit,
            "rounds": len(ratios),
            "ours": self._side(*self.ours),
            "reference": self._side(*self.reference),
            "ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
        }

    def _side(self, name: str, rates: list[float]) -> dict[str, Any]:
        also = {unit: convert(median(rates)) for unit, convert in self.also.items()}
        return {"name": name, "median": median(rates), "all": rates, **({"also": also} if also else {})}


def rates_of(
    contenders: dict[str, Callable[[], object]],
    count: int,
    unit: str,
    dtype: str,
    options: argparse.Namespace,
) -> dict[str, list[float]]:
    """How many a second each contender does in each round, `count` being what one call of it does."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name, time_taken in interleave(contenders, number, options.device).items():
            rates[name].append(count / time_taken)
        last = ", ".join(f"{name} {each[-1]:,.1f} {unit}" for name, each in rates.items())
        print(f"{dtype} round {number + 1}: {last}", flush=True)
    return rates


def report(
    title: str, facts: dict[str, Any], comparisons: Sequence[Comparison], out: Path | None
) -> dict[str, Any]:
    """Print a Markdown table for each pair of contenders, write JSON, and return what was written.

    Without any comparison nothing is printed, written or in what is returned.
    """
    if not comparisons:
        return {}
    result = {"benchmark": title, **facts, "comparisons": [each.to_dict() for each in comparisons]}
    print(f"\n{title}")
    for name, value in facts.items():
        print(f"  {name}: {value}")
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in result["comparisons"]:
        tables.setdefault((each["ours"]["name"], each["reference"]["name"]), []).append(each)
    for rows in tables.values():
        _print_table(rows)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"\nwritten to {out}")
    return result


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    """One pair of contenders, a row for each precision."""
    ours, reference, unit = rows[0]["ours"]["name"], rows[0]["reference"]["name"], rows[0]["unit"]
    units = list(rows[0]["ours"].get("also", {}))
    titles = ["precision", f"{ours}, {unit}", f"{reference}, {unit}", "ratio, median of rounds (min to max)"]
    print("\n| " + " | ".join([*titles, *(f"{each} of both" for each in units)]) + " |")
    print("| --- |" + " ---: |" * (3 + len(units)))
    for each in rows:
        ratio = each["ratio"]
        cells = [f"{each[side]['median']:,.1f}" for side in SIDES]
        cells.append(f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
        cells += [" / ".join(f"{each[side]['also'][name]:,.0f}" for side in SIDES) for name in units]
        print(f"| {each['dtype']} | " + " | ".join(cells) + " |")
