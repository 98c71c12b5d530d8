"""Options of `benchmark` and `report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class BenchmarkOptions:
    """Which suite, which models, how often.

    Attributes:
        suite: glue or superglue; may stand first, without --suite.
        model: The decoder under test: gemma-3-270m, smollm2-135m, a folder, a .gguf file or a hub id.
        output: Folder of trials and results; runs/SUITE if not given. The same command goes on in it.
        tasks: Some of the suite's tasks (--tasks cola,rte); all if not given.
        seeds: How many seeds, from 0.
        baselines: Also train the same decoder as transformers' own classifier (causal, last token, padded)
            and an established encoder, on the same rows, steps and seeds.
        encoder_model: The established encoder, a folder or hub id, for --baselines.
        recipe: YAML file with hyper-parameters and numbers of rows for some tasks, in the form of ours
            (docs/benchmark.md); options on the command line come before it.
        warm_start: RTE, MRPC and STS-B (SuperGLUE: RTE and CB) start from the seed's model of MNLI; the stock
            classifier doesn't.
        wnli: Count WNLI in GLUE's average.
        jobs: Trials side by side; they share the cores.
        budget_minutes: Begin no trial that would probably end later than this.
        data_dir: Folder with the suite's files, if they aren't to come from the Hugging Face hub.
        data_source: Where tasks are looked for when there is no --data_dir; auto is bundled, then hub.
        submission: Also answer the official test sets, and zip the answers as the leaderboard takes them.
        keep_models: Keep the trained models, a gigabyte each for Gemma 3 270M.
        smoke: A run of minutes to see that everything works: one seed, 32 training and 64 validation rows of
            each task, one epoch, bundled tasks only where there is no --data_dir.
        dry_run: Print the trials and what they compute, run nothing.
    """

    suite: str
    model: str
    output: str | None = None
    tasks: list[str] | None = None
    seeds: int = 3
    baselines: bool = False
    encoder_model: str = "google-bert/bert-base-uncased"
    recipe: str | None = None
    warm_start: bool = False
    wnli: bool = False
    jobs: int = 1
    budget_minutes: float | None = None
    data_dir: str | None = None
    data_source: Literal["auto", "bundled", "hub"] = "hub"
    submission: bool = False
    keep_models: bool = False
    smoke: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class RecipeOptions:
    """Hyper-parameters of all trials instead of each task's recipe.

    Attributes:
        learning_rate: Peak learning rate of the backbone, and of all of the stock classifier.
        head_learning_rate: That of pooler and head.
        num_train_epochs: Passes over the training rows. --epochs for short.
        per_device_train_batch_size: Rows of one optimiser step. --batch_size for short.
        encoder_learning_rate: That of the established encoder.
        max_train_rows: Train on at most this many rows of each task, drawn with the trial's seed.
        max_validation_rows: Judge by at most this many rows of each split; for a first look only.
        bf16: Compute in bfloat16 (weights stay float32); by default where the machine does so natively.
        args: Any other field of EncoderTrainingArguments: --args.KEY VALUE, e.g. --args.tune lora; for the
            stock classifier those that transformers' own TrainingArguments has too.
    """

    learning_rate: float | None = None
    head_learning_rate: float | None = None
    num_train_epochs: float | None = None
    per_device_train_batch_size: int | None = None
    encoder_learning_rate: float | None = None
    max_train_rows: int | None = None
    max_validation_rows: int | None = None
    bf16: bool | None = None
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportOptions:
    """Which benchmark.

    Attributes:
        folder: Folder of a benchmark, finished or not (may stand first, without --folder); its results.* are
            made again from the trials' records.
        wnli: Count WNLI in GLUE's average.
    """

    folder: str
    wnli: bool = False
