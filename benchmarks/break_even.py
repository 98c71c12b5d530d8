"""What each arm of several studies gains over one of them, by rows of task data.

    python -m benchmarks.break_even docs/results/switches/rows_*/trials.csv --reference "causal, last" \
        --axis recipe --plot break_even.svg

Each file is what `gemma-encoder study export` wrote of a study, all with the same axis but other
`max_train_rows`. A gain is the difference of the means over tasks (of each task's main metric, in
points), seed by seed; its interval is Student's t (95 %) over seeds. Seeds of an arm that lack a
task of their study don't count.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from gemma_encoder.cli.common import print_table
from gemma_encoder.errors import DataError
from gemma_encoder.evaluation import mean_interval
from gemma_encoder.json_files import write_json
from gemma_encoder.tasks import get_task

from .common import exit_status

Scores = dict[str, dict[int, dict[str, float]]]
"""By arm, seed and task, in points."""


@dataclass(frozen=True)
class Gain:
    """One arm over the reference after so many rows.

    Attributes:
        arm: Its level of the axis.
        rows: Training rows, the most of any trial of the study.
        points: Mean over seeds.
        half: Half of the 95 % interval; None with one seed.
        seeds: How many both arms have.
    """

    arm: str
    rows: int
    points: float
    half: float | None
    seeds: int


def main(argv: Sequence[str] | None = None) -> list[Gain]:
    """Print the gains, and draw them."""
    parser = argparse.ArgumentParser(
        prog="break_even", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="trials.csv of each study")
    parser.add_argument("--axis", default="recipe", help="the axis whose levels are compared")
    parser.add_argument("--reference", required=True, help="the level that the others are held against")
    parser.add_argument("--out", type=Path, help="write the gains as JSON to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this file, .svg or .png")
    options = parser.parse_args(argv)
    gains = [gain for path in options.files for gain in gains_of(path, options.axis, options.reference)]
    gains.sort(key=lambda gain: (gain.arm, gain.rows))
    print_table(f"Points over {options.reference!r}, mean of the tasks", [_in_words(gain) for gain in gains])
    if options.out:
        write_json(options.out, [asdict(gain) for gain in gains])
    if options.plot:
        _draw(gains, options.reference, options.plot)
    return gains


def gains_of(path: Path, axis: str, reference: str) -> list[Gain]:
    """Gains of the arms of one study.

    Raises:
        DataError: The file isn't an export with this axis, or has no whole seed of the reference.
    """
    scores, rows = _read(path, f"axis.{axis}")
    tasks = {task for seeds in scores.values() for found in seeds.values() for task in found}
    whole = {
        arm: {seed: mean(found.values()) for seed, found in seeds.items() if found.keys() == tasks}
        for arm, seeds in scores.items()
    }
    if not whole.get(reference):
        raise DataError(
            f"No seed of {reference!r} has all tasks ({', '.join(sorted(tasks))})",
            where=str(path),
            fix=f"give one of {', '.join(sorted(whole))} as --reference, or let the study end",
        )
    gains = []
    for arm, means in whole.items():
        seeds = sorted(means.keys() & whole[reference].keys())
        if arm != reference and seeds:
            points, half = mean_interval([means[seed] - whole[reference][seed] for seed in seeds])
            gains.append(Gain(arm, rows, points, half, len(seeds)))
    return gains


def _read(path: Path, column: str) -> tuple[Scores, int]:
    """Scores of the report's trials that are complete, and the rows they were trained on."""
    scores: Scores = {}
    rows = 0
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if column not in row or "stage" not in row:
                raise DataError(f"There is no column {column}", where=str(path), fix="give another --axis")
            if row["stage"] == "report" and row["state"] == "complete":
                value = float(row[f"report.{get_task(row['task']).metrics[0]}"])
                of_seed = scores.setdefault(row[column], {}).setdefault(int(row["seed"]), {})
                of_seed[row["task"]] = 100 * value
                rows = max(rows, int(row["train_rows"]))
    return scores, rows


def _in_words(gain: Gain) -> dict[str, Any]:
    return {
        "arm": gain.arm,
        "rows": f"{gain.rows:,}",
        "points": f"{gain.points:+.1f}" + (f" ± {gain.half:.1f}" if gain.half is not None else ""),
        "seeds": gain.seeds,
    }


def _draw(gains: Sequence[Gain], reference: str, path: Path) -> None:
    """Rows on a logarithmic axis, points with their intervals; arms beside each other."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    arms = list(dict.fromkeys(gain.arm for gain in gains))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "break-even"}):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color="black", linewidth=1)
        for number, arm in enumerate(arms):
            of_arm = [gain for gain in gains if gain.arm == arm]
            aside = 1.05 ** (number - (len(arms) - 1) / 2)
            axes.errorbar(
                [gain.rows * aside for gain in of_arm],
                [gain.points for gain in of_arm],
                yerr=[gain.half or 0 for gain in of_arm],
                marker="osD^vPX*"[number % 8],
                capsize=3,
                linewidth=1,
                label=arm,
            )
        rows = sorted({gain.rows for gain in gains})
        axes.set_xscale("log")
        axes.set_xticks(rows, [f"{each:,}" for each in rows])
        axes.minorticks_off()
        axes.set_xlim(rows[0] / 1.5, rows[-1] * 1.5)
        axes.set_xlabel("training rows of each task")
        axes.set_ylabel(f"points over {reference}")
        axes.grid(axis="y", alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    sys.exit(exit_status(main))
