"""Token embeddings frozen, trained by the rows that occur, and trained whole: time, memory and dev metric.

    python -m benchmarks.embeddings --data-dir glue --task mrpc --rows 1280 --seeds 0 1 2

Every trial is one `gemma-encoder train`, and leaves a line in `--results`; a trial that has its line is not
run again. `--table` only prints.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .trials import (
    PROGRAM,
    add_trial_options,
    file_name,
    in_words,
    markdown_table,
    read_records,
    run_missing,
    trained,
)

FROZEN, ROWS, WHOLE = "frozen", "rows that occur", "whole"
# `train` has no option for this: it is only what the rows that occur are measured against.
WITH_THE_WHOLE_TABLE = """
import sys
from contextlib import nullcontext
from gemma_encoder.cli.main import main
from gemma_encoder.training import training
training.only_rows_of = lambda *given: nullcontext()
sys.exit(main(sys.argv[1:]))
"""
ARMS = {FROZEN: PROGRAM, ROWS: PROGRAM, WHOLE: ("-c", WITH_THE_WHOLE_TABLE)}
"""What Python runs for each."""


@dataclass(frozen=True)
class Trial:
    """One training run."""

    model: str
    task: str
    rows: int
    embeddings: str
    seed: int

    @property
    def name(self) -> str:
        """A folder name."""
        return file_name([self.task, self.rows, self.embeddings, self.seed])

    def arguments(self, data_dir: str, output: Path) -> list[str]:
        """Of the `gemma-encoder train` that runs it; judged once, at the end."""
        return [
            *("train", "--overwrite", "--output", str(output)),
            *("--model", self.model, "--task", self.task, "--data_dir", data_dir),
            *("--max_train_rows", str(self.rows), "--num_train_epochs", "1", "--learning_rate", "5e-5"),
            *("--train_embeddings", str(self.embeddings != FROZEN).lower(), "--seed", str(self.seed)),
            *("--args.eval_strategy", "no", "--args.save_strategy", "no"),
            *("--args.load_best_model_at_end", "false"),
        ]


def run(trial: Trial, data_dir: str, work: Path) -> dict[str, Any]:
    """Run a trial and return its line: the trial, its metrics, and what it took."""
    output, log = work / trial.name, work / f"{trial.name}.log"
    kept = ["metrics", "steps", "tokens", "tokens_per_second", "train_seconds", "peak_memory"]
    kept += ["parameters", "compiled_layers", "versions", "hardware"]
    arguments = trial.arguments(data_dir, output)
    return asdict(trial) | trained(arguments, output, log, kept, ARMS[trial.embeddings])


def table(results: dict[Trial, dict[str, Any]]) -> str:
    """Markdown: dev metric as mean over seeds with its 95 % interval, and against the whole table by seed."""
    found: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = defaultdict(dict)
    for trial, record in results.items():
        found[trial.task, trial.rows, record["main_metric"], trial.embeddings][trial.seed] = record
    rows = []
    for (task, count, metric, arm), seeds in sorted(found.items()):
        whole = found.get((task, count, metric, WHOLE), {})
        points = {seed: 100 * record["metrics"][metric] for seed, record in seeds.items()}
        differences = [
            points[seed] - 100 * whole[seed]["metrics"][metric] for seed in points if seed in whole
        ]
        rows.append(
            [
                *(task, count, arm, len(seeds), metric, in_words(list(points.values()))),
                in_words(differences, "+.1f") if arm != WHOLE and len(differences) > 1 else "",
                f"{median(record['train_seconds'] for record in seeds.values()):.0f}",
                f"{median(record['tokens_per_second'] for record in seeds.values()):,.0f}",
                f"{max(record['peak_memory']['host_bytes'] for record in seeds.values()) / 2**30:.1f}",
            ]
        )
    titles = "task, rows, embeddings, seeds, metric, mean ± interval, against the whole table, seconds"
    return markdown_table([*titles.split(", "), "tokens/s", "GiB at most"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_trial_options(parser, "docs/results/embeddings.jsonl", "runs/embeddings")
    parser.add_argument("--data-dir", help="folder with the task's files, as for `gemma-encoder train`")
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--rows", type=int, default=1280)
    parser.add_argument("--embeddings", nargs="+", choices=ARMS, default=list(ARMS))
    options = parser.parse_args(arguments)
    done = read_records(options.results, Trial)
    if not options.table:
        if not options.data_dir:
            parser.error("--data-dir is needed")
        options.work.mkdir(parents=True, exist_ok=True)
        run_missing(
            [
                Trial(options.model, options.task, options.rows, arm, seed)
                for seed in options.seeds
                for arm in options.embeddings
            ],
            done,
            lambda trial: run(trial, options.data_dir, options.work),
            options.results,
            1,
            lambda record: f"{record['metrics'][record['main_metric']]:.4f}, {record['train_seconds']:.0f} s",
        )
    print(table(done))


if __name__ == "__main__":
    main()
