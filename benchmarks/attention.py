"""Bidirectional or causal: the same decoder, rows and steps, several seeds.

    python -m benchmarks.attention --data-dir glue --tasks cola=3200 rte --learning-rates 5e-5 --seeds 0 1 2

Every trial is one `gemma-encoder train`, and leaves a line in `--results`; a trial that has its line is not
run again, so the command can be stopped and repeated, and more seeds or tasks added. `--table` only prints.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .trials import ARMS as COMPARED
from .trials import (
    add_trial_options,
    file_name,
    in_words,
    markdown_table,
    read_records,
    run_missing,
    trained,
)

ARMS = {
    **COMPARED,
    "bidirectional + mean, embeddings trained": [
        *("--attention", "bidirectional", "--pooling.kind", "mean", "--train_embeddings"),
    ],
    # What transformers' ...ForSequenceClassification does: a linear layer on the last token, nothing else.
    "stock classifier": [
        *("--attention", "causal", "--pooling.kind", "last_k", "--eos", "false"),
        *("--head.depth", "0", "--head.norm", "none", "--dropout", "0"),
    ],
}
REFERENCE = "bidirectional + mean"
HEAD_RATE = {"stock classifier": 1.0}
"""The head's learning rate as a multiple of the backbone's; 10 in the other arms."""


@dataclass(frozen=True)
class Trial:
    """One training run. `rows` is None for all there are."""

    model: str
    task: str
    rows: int | None
    arm: str
    learning_rate: float
    seed: int
    epochs: int = 1

    @property
    def name(self) -> str:
        """A folder name."""
        parts = [self.model, self.task, self.rows or "all", self.arm, f"{self.learning_rate:g}", self.seed]
        if self.epochs > 1:
            parts.append(f"{self.epochs}_epochs")
        return file_name(parts)

    def arguments(self, data_dir: str, output: Path) -> list[str]:
        """Of the `gemma-encoder train` that runs it; judged once, at the end."""
        head_rate = self.learning_rate * HEAD_RATE.get(self.arm, 10.0)
        return [
            *("train", "--overwrite", "--output", str(output)),
            *("--model", self.model, "--task", self.task, "--data_dir", data_dir),
            *(("--max_train_rows", str(self.rows)) if self.rows else ()),
            *("--dropout.feed_forward", "0.1", "--dropout.head", "0.1", *ARMS[self.arm]),
            *("--num_train_epochs", str(self.epochs), "--per_device_train_batch_size", "16"),
            *("--learning_rate", str(self.learning_rate), "--head_learning_rate", str(head_rate)),
            *("--seed", str(self.seed), "--args.eval_strategy", "no", "--args.save_strategy", "no"),
            *("--args.load_best_model_at_end", "false"),
        ]


def run(trial: Trial, data_dir: str, work: Path) -> dict[str, Any]:
    """Run a trial and return its line: the trial, its metrics, and how it was run."""
    output = work / trial.name
    kept = ["metrics", "baseline", "steps", "tokens", "tokens_per_second", "wall_seconds"]
    kept += ["versions", "hardware"]
    log = work / f"{trial.name}.log"
    return asdict(trial) | trained(trial.arguments(data_dir, output), output, log, kept)


def table(results: dict[Trial, dict[str, Any]]) -> str:
    """Markdown: main metric in points, mean over seeds with its 95 % t interval, per task, arm and rate.

    The last column is the difference to bidirectional + mean, seed by seed, over two seeds or more.
    """
    scores: dict[tuple[Any, ...], dict[int, float]] = defaultdict(dict)
    baselines = {}
    for trial, record in results.items():
        setting = (trial.model, trial.task, trial.rows, trial.epochs, record["main_metric"])
        baselines[setting] = 100 * record["baseline"][record["main_metric"]]
        score = 100 * record["metrics"][record["main_metric"]]
        scores[(setting, trial.learning_rate, trial.arm)][trial.seed] = score
    columns = "model, task, train rows, epochs, metric, majority, learning rate, arm, seeds, mean ± interval"
    names = [*columns.split(", "), f"against {REFERENCE}"]
    rows = []
    for setting, rate, arm in sorted(scores, key=lambda key: (*map(str, key[:2]), list(ARMS).index(key[2]))):
        model, task, rows_used, epochs, metric = setting
        seeds = scores[(setting, rate, arm)]
        reference = scores.get((setting, rate, REFERENCE), {})
        pairs = [seeds[seed] - reference[seed] for seed in seeds if arm != REFERENCE and seed in reference]
        rows.append(
            [
                *(model, task, rows_used or "all", epochs, metric, f"{baselines[setting]:.1f}", f"{rate:g}"),
                *(arm, len(seeds), in_words(list(seeds.values()))),
                in_words(pairs, "+.1f") if len(pairs) > 1 else "",
            ]
        )
    return markdown_table(names, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_trial_options(parser, "docs/results/attention.jsonl", "runs/attention")
    parser.add_argument("--data-dir", help="folder with the tasks' files, as for `gemma-encoder train`")
    parser.add_argument("--tasks", nargs="+", metavar="TASK[=ROWS]", default=["sst2=3200"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS)[:2])
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[2e-5, 5e-5])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="trials at once, which share the cores")
    options = parser.parse_args(arguments)
    done = read_records(options.results, Trial)
    if not options.table:
        if not options.data_dir:
            parser.error("--data-dir is needed")
        trials = [
            Trial(options.model, task, int(rows) if rows else None, arm, rate, seed, options.epochs)
            for seed in options.seeds
            for task, _, rows in (each.partition("=") for each in options.tasks)
            for rate in options.learning_rates
            for arm in options.arms
        ]
        options.work.mkdir(parents=True, exist_ok=True)
        run_missing(
            trials,
            done,
            lambda trial: run(trial, options.data_dir, options.work),
            options.results,
            options.jobs,
            lambda record: " ".join(f"{name} {value:.4f}" for name, value in record["metrics"].items()),
        )
    print(table(done))


if __name__ == "__main__":
    main()
