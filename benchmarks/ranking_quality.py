"""What a small re-ranker learns: losses, list lengths and attention, judged on TREC DL 2019.

    python -m benchmarks.ranking_quality --data-dir ir --losses softmax poly1 --list-sizes 8 36 --seeds 0 1 2

`--data-dir` has the folders trec-dl-2019-passage, trec-dl-2020-passage, trec-dl-2021-passage and
trec-dl-2022-passage-noqrels, laid out as BEIR's sets are, with first stages' runs in `runs/`. A trial trains
on lists of the years from 2020 on, re-ranks BM25's best 100 of 2019 and is judged by all judgments of 2019.
The training refuses queries of 2019 (`train --unseen_queries`), and no run of 2019 is a teacher.

With `--warm-up-rows N` all trials begin with what N pairs of STS-B teach (`--glue-dir` has them): a decoder
that has never compared two texts may learn nothing from a few thousand documents. With
`--question-documents N` as many documents of other questions follow (`benchmarks.questions` makes lists of
QNLI's and BoolQ's), before a document of TREC is seen. Each arm learns these once, with seed 0: seeds differ
in what comes behind.

All trials see the same number of documents, about as many in a step. Each leaves a line in `--results`; a
trial that has its line is not run again. `--table` only prints.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from threading import Lock
from typing import Any

from .common import exit_status
from .trials import (
    ARMS,
    add_trial_options,
    file_name,
    gemma_encoder,
    in_words,
    markdown_table,
    read_records,
    run_missing,
)

TEST = "trec-dl-2019-passage"
JUDGED = ["trec-dl-2020-passage", "trec-dl-2021-passage"]
TAUGHT = [*JUDGED, "trec-dl-2022-passage-noqrels"]
TEACHERS = ["repllama", "spladepp_ed", "tasb", "ada2"]
"""Those of them that a year has are averaged."""
TEACHER_LOSSES = ("margin_mse", "kl")
MEASURES = ("nDCG@10", "RR@10", "AP", "R@100")
DEPTH = 100
MAX_LENGTH = "192"
NO_DROPOUT = ("--dropout.feed_forward", "0", "--dropout.head", "0")
LAST_WEIGHTS = (
    *("--args.eval_strategy", "no", "--args.save_strategy", "no"),
    *("--args.load_best_model_at_end", "false"),
)
_WARMING_UP = Lock()


@dataclass(frozen=True)
class Trial:
    """One training run.

    Attributes:
        loss: The ranking loss. Those of a teacher learn from teachers' scores, the others from judgments.
        list_size: Documents of a list that a step sees.
        documents: Documents seen in all.
        step_documents: Documents of an optimiser step, about: a step has whole lists.
        warm_up_rows: Pairs of STS-B learnt before the lists.
        question_documents: Documents of other questions learnt between them.
        dtype: Type of the weights when the candidates of 2019 are scored.
    """

    model: str
    loss: str
    list_size: int
    arm: str
    seed: int
    documents: int
    learning_rate: float
    step_documents: int
    warm_up_rows: int = 0
    question_documents: int = 0
    dtype: str = "float32"

    @property
    def labels(self) -> str:
        """Where the labels come from."""
        return "teachers" if self.loss in TEACHER_LOSSES else "judgments"

    @property
    def name(self) -> str:
        """A folder name."""
        parts = [self.model, *(self.loss, self.list_size, self.arm, f"{self.learning_rate:g}")]
        parts += [self.documents, self.step_documents, self.warm_up_rows, self.question_documents]
        return file_name([*parts, self.dtype, self.seed])

    @property
    def pairs_name(self) -> str:
        """A folder name of the model that was trained on pairs, the same for all losses, lists and seeds."""
        return file_name(["stsb", self.model, self.arm, self.warm_up_rows])

    @property
    def questions_name(self) -> str:
        """The same of the model that learnt questions then."""
        return file_name(["questions", self.model, self.arm, self.warm_up_rows, self.question_documents])

    def pairs_arguments(self, glue: Path, output: Path) -> list[str]:
        """Of `gemma-encoder train`: STS-B in steps of eight pairs; the lists go on with its head."""
        return [
            *("train", "--overwrite", "--output", str(output), "--model", self.model),
            *("--task", "stsb", "--data_dir", str(glue), "--max_train_rows", str(self.warm_up_rows)),
            *("--template", "Query: {text} Document: {text_pair}", "--max_length", MAX_LENGTH),
            *("--epochs", "1", "--per_device_train_batch_size", "8"),
            *(*NO_DROPOUT, *ARMS[self.arm]),
            *("--learning_rate", "5e-5", "--head_learning_rate", "5e-4", "--seed", "0"),
        ]

    def questions_arguments(self, model: str, lists: Sequence[Path], unseen: Path, output: Path) -> list[str]:
        """Of `gemma-encoder train`: lists of eight, four in a step, one document of which has the answer."""
        return [
            *("train", "--overwrite", "--output", str(output), "--model", model),
            *("--train_lists", ",".join(map(str, lists)), "--unseen_queries", str(unseen)),
            *("--list_size", "8", "--max_length", MAX_LENGTH, "--validation_fraction", "0.01"),
            *(*NO_DROPOUT, *ARMS[self.arm], *LAST_WEIGHTS, "--max_tokens", "4096"),
            *("--learning_rate", "3e-5", "--head_learning_rate", "3e-5", "--seed", "0"),
            *("--per_device_train_batch_size", "4"),
            *("--args.max_steps", str(self.question_documents // 32)),
        ]

    def arguments(self, model: str, lists: Sequence[Path], unseen: Path, output: Path) -> list[str]:
        """Of `gemma-encoder train`; judged by a part of its own queries, which nothing depends on."""
        head_rate = (1 if self.warm_up_rows else 10) * self.learning_rate  # what pairs taught is not new
        in_step = max(1, round(self.step_documents / self.list_size))
        steps = round(self.documents / (self.list_size * in_step))
        return [
            *("train", "--overwrite", "--output", str(output), "--model", model),
            *("--train_lists", ",".join(map(str, lists)), "--unseen_queries", str(unseen)),
            *("--list_size", str(self.list_size), "--ranking_loss", self.loss),
            *("--list_sampling", "uniform" if self.labels == "teachers" else "positives"),
            *("--list_positives", "1", "--max_length", MAX_LENGTH, "--validation_fraction", "0.01"),
            *(*NO_DROPOUT, *ARMS[self.arm]),
            *("--learning_rate", str(self.learning_rate)),
            *("--head_learning_rate", str(head_rate), "--seed", str(self.seed)),
            *("--per_device_train_batch_size", str(in_step), "--args.max_steps", str(steps)),
            *("--max_tokens", "4096"),  # a list of 36 in one pass, most often
            *LAST_WEIGHTS,
        ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(
        prog="ranking_quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_trial_options(parser, "docs/results/ranking/trec_dl.jsonl", "runs/ranking")
    parser.add_argument("--data-dir", type=Path, help="folder with the TREC DL folders")
    parser.add_argument("--losses", nargs="+", default=["softmax"])
    parser.add_argument("--list-sizes", nargs="+", type=int, default=[8])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--documents", type=int, default=3200, help="documents seen in training")
    parser.add_argument("--step-documents", type=int, default=32, help="of an optimiser step, about")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--warm-up-rows", type=int, default=0, help="pairs of STS-B to learn first")
    parser.add_argument(
        "--question-documents", type=int, default=0, help="documents of --question-lists to learn then"
    )
    parser.add_argument("--question-lists", type=Path, nargs="+", default=[], help="made of other questions")
    parser.add_argument("--glue-dir", type=Path, help="folder with STS-B, for --warm-up-rows")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="to score 2019 in"
    )
    parser.add_argument("--jobs", type=int, default=1, help="trials at once, which share the cores")
    options = parser.parse_args(argv)
    done = read_records(options.results, Trial)
    if not options.table:
        if not options.data_dir:
            parser.error("--data-dir is needed")
        if options.warm_up_rows and not options.glue_dir:
            parser.error("--warm-up-rows needs --glue-dir")
        if options.question_documents and not (options.question_lists and options.warm_up_rows):
            parser.error("--question-documents needs --question-lists and --warm-up-rows")
        names = (
            "documents",
            "learning_rate",
            "step_documents",
            "warm_up_rows",
            "question_documents",
            "dtype",
        )
        budget = [getattr(options, name) for name in names]
        trials = [
            Trial(options.model, loss, size, arm, seed, *budget)
            for seed in options.seeds
            for arm in options.arms
            for loss in options.losses
            for size in options.list_sizes
        ]
        options.work.mkdir(parents=True, exist_ok=True)
        run_missing(
            trials,
            done,
            lambda trial: run(trial, options),
            options.results,
            options.jobs,
            lambda record: f"nDCG@10 {record['measures']['nDCG@10']['mean']:.4f}",
        )
    print(table(done))


def run(trial: Trial, options: argparse.Namespace) -> dict[str, Any]:
    """Train, re-rank, judge; returns the trial's line."""
    data, work = options.data_dir, options.work
    model, log, test = work / trial.name, work / f"{trial.name}.log", data / TEST
    out, judged = work / f"{trial.name}.trec", work / f"{trial.name}.json"
    bm25, qrels = test / "runs" / "bm25.trec.gz", test / "qrels.trec"
    lists = [_lists(trial.labels, data / year, work, log) for year in _years(trial.labels)]
    begin = _warmed_up(trial, options, log) if trial.warm_up_rows else trial.model
    gemma_encoder(trial.arguments(begin, lists, test / "queries.jsonl.gz", model), log)
    gemma_encoder(
        [
            *("rank", "--model", str(model), "--collection", str(test), "--run", str(bm25)),
            *("--depth", str(DEPTH), "--dtype", trial.dtype, "--output", str(out), "--overwrite"),
        ],
        log,
    )
    gemma_encoder(
        [
            *("evaluate", "--run", str(out), "--against", str(bm25), "--qrels", str(qrels)),
            *("--measures", ",".join(MEASURES), "--min_relevance", "2"),
            *("--json_out", str(judged), "--overwrite"),
        ],
        log,
    )
    trained = json.loads((model / "run.json").read_text(encoding="utf-8"))
    found = json.loads(judged.read_text(encoding="utf-8"))
    shutil.rmtree(model)  # a gigabyte of weights
    kept = ("steps", "tokens", "tokens_per_second", "wall_seconds", "versions", "hardware")
    return {
        **asdict(trial),
        "measures": {name: _less(found["run"]["measures"][name], "per_query") for name in MEASURES},
        "per_query": found["run"]["measures"]["nDCG@10"]["per_query"],
        "bm25": {name: found["against"]["measures"][name]["mean"] for name in MEASURES},
        "comparison": {name: _less(found["comparison"][name], "per_query") for name in MEASURES},
        **{name: trained[name] for name in kept},
    }


def _warmed_up(trial: Trial, options: argparse.Namespace, log: Path) -> str:
    """The model that lists go on from; the first trial that needs it trains it."""
    pairs, questions = options.work / trial.pairs_name, options.work / trial.questions_name
    unseen = options.data_dir / TEST / "queries.jsonl.gz"
    with _WARMING_UP:
        if not (pairs / "run.json").is_file():
            gemma_encoder(trial.pairs_arguments(options.glue_dir, pairs), log)
        if not trial.question_documents:
            return str(pairs)
        if not (questions / "run.json").is_file():
            lists = options.question_lists
            gemma_encoder(trial.questions_arguments(str(pairs), lists, unseen, questions), log)
    return str(questions)


def _less(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


def _years(labels: str) -> list[str]:
    return TAUGHT if labels == "teachers" else JUDGED


def _lists(labels: str, year: Path, work: Path, log: Path) -> Path:
    """Lists of a year: all that its runs have found, with judgments or with the better runs' scores."""
    path = work / f"{labels}-{year.name}.jsonl"
    if not path.is_file():
        runs = sorted(year.glob("runs/*.trec.gz"))
        labelled = ["--qrels", str(year / "qrels.trec")]
        if labels == "teachers":
            teachers = [run for run in runs if run.name.split(".")[0] in TEACHERS]
            labelled = ["--teachers", ",".join(map(str, teachers))]
        gemma_encoder(
            [
                *("candidates", "--collection", str(year), "--run", ",".join(map(str, runs))),
                *("--depth", "300", "--skip_missing", "--output", str(path), *labelled),
            ],
            log,
        )
    return path


def table(results: dict[Trial, dict[str, Any]]) -> str:
    """Markdown: a row for each setting, means over seeds with their 95 % t interval.

    The interval over queries and p (against BM25) are those of the first seed.
    """
    of_setting: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for trial, record in results.items():
        budget = (
            trial.warm_up_rows,
            trial.question_documents,
            trial.documents,
            f"{trial.learning_rate:g}",
            trial.dtype,
        )
        of_setting[(trial.model, trial.arm, trial.loss, trial.list_size, *budget)].append(record)
    titles = (
        "model, arm, loss, list, pairs before, questions before, documents, learning rate, scored in, "
        "seeds, nDCG@10, interval over queries (first seed), against BM25, p, RR@10, AP"
    )
    rows = []
    for setting, records in sorted(of_setting.items(), key=lambda each: str(each[0])):
        first = records[0]
        low, high = first["measures"]["nDCG@10"]["interval"]
        gain = first["comparison"]["nDCG@10"]
        values = {name: [each["measures"][name]["mean"] for each in records] for name in MEASURES}
        rows.append(
            [
                *setting,
                len(records),
                in_words(values["nDCG@10"], ".3f"),
                f"{low:.3f} to {high:.3f}",
                f"{fmean(values['nDCG@10']) - first['bm25']['nDCG@10']:+.3f}",
                f"{gain['p_value']:.4f}",
                in_words(values["RR@10"], ".3f"),
                in_words(values["AP"], ".3f"),
            ]
        )
    return markdown_table(titles.split(", "), rows)


if __name__ == "__main__":
    sys.exit(exit_status(main))
