"""One trial: train, score the task's splits and the diagnostics, leave the record and the scores.

A trial runs in a process of its own (`python -m gemma_encoder.benchmark FOLDER TASK ARM SEED`), so that
nothing it does to memory or random states reaches another one.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..encoder import Encoder
from ..errors import DataError, NoLabelsError, NoSplitError
from ..evaluation import compute_metrics, majority_baseline
from ..evaluation.evaluate import texts
from ..json_files import write_json
from ..scoring import score_all
from ..tasks import Split, Task, TaskData, get_task, load_split, load_task
from ..tasks.base import GROUP
from ..tasks.files import sample
from ..training import EncoderTrainingArguments, train
from ..training.checkpoint_folder import checkpoint_folder, last_checkpoint
from ..training.run_record import RUN_FILE
from .arms import established_encoder, main_encoder
from .plan import RESULT_FILE, Plan, Trial
from .stock import StockClassifier
from .submission import FILES, FOLDER, write_answers

logger = logging.getLogger(__name__)

MODEL = "model"

Told = list[dict[str, str]]
"""Splits that a record has no result of: `task`, `split` and `why`."""


@dataclass(frozen=True)
class SplitResult:
    """How a model does on one split.

    Attributes:
        task: The task, or the diagnostic.
        split: Name of the split.
        metrics: The task's metrics.
        baseline: The same for a predictor that knows no text.
        rows: Rows judged.
        note: What makes the rows other than the official split; empty if nothing does.
        scores: File with scores and labels, beside the record.
    """

    task: str
    split: str
    metrics: dict[str, float]
    baseline: dict[str, float]
    rows: int
    note: str
    scores: str


def run_trial(plan: Plan, trial: Trial, root: Path) -> dict[str, Any]:
    """Run a trial, or go on with one that was killed, and write its record.

    Args:
        plan: The benchmark.
        trial: Which of its trials.
        root: The benchmark's folder.

    Returns:
        The content of `trial.json`.

    Raises:
        GemmaEncoderError: Data, model or options are not as they should be.
    """
    started = time.perf_counter()
    folder = root / trial.folder
    resumed = last_checkpoint(checkpoint_folder(folder / MODEL)) is not None or (folder / MODEL).is_dir()
    task = get_task(trial.task)
    max_train_rows = plan.recipes[trial.task]["max_train_rows"]
    data = load_task(trial.task, plan.data_dir, max_train_rows, trial.seed, plan.data_source)
    validation = _some(plan, task, data.judged_by)
    data = replace(data, validation=validation.rows, validation_note=validation.note)
    more, left_out = _more_splits(plan, task)
    train_arm = _train_stock if trial.arm == "stock" else _train
    trained = train_arm(plan, trial, data, root)
    results = [_judge(trained.scores, task, task.validation_split, data.judged_by, folder)]
    for judged, split, rows in more:
        results.append(_judge(trained.score(rows), judged, split, rows, folder))
    answers = plan.submission and trial.arm == "main"
    unanswered = _answer_tests(plan, task, trained.score, folder) if answers else []
    record = {
        "trial": asdict(trial),
        "suite": plan.suite,
        "model": plan.encoder_model if trial.arm == "encoder" else plan.model,
        "warm_start": plan.starts_warm(trial),
        "embeddings_trained": trained.embeddings_trained,
        "train_rows": len(data.train),
        "train_note": data.train_note,
        "results": [asdict(result) for result in results],
        "left_out": left_out,
        "unanswered": unanswered,
        "minutes": round((time.perf_counter() - started) / 60, 3),
        "resumed": resumed,  # then the minutes are those of the last part
        "run": trained.run,
    }
    write_json(folder / RESULT_FILE, record)
    return record


def training_arguments(plan: Plan, trial: Trial, folder: Path) -> EncoderTrainingArguments:
    """A trial's options: those of its recipe, and those that all trials share."""
    recipe = plan.recipes[trial.task]
    return EncoderTrainingArguments(
        output_dir=str(folder / MODEL),
        seed=trial.seed,
        learning_rate=recipe["encoder_learning_rate" if trial.arm == "encoder" else "learning_rate"],
        head_learning_rate=recipe["head_learning_rate"],
        num_train_epochs=recipe["num_train_epochs"],
        per_device_train_batch_size=recipe["batch_size"],
        **plan.training,
    )


@dataclass(frozen=True)
class _Trained:
    """What a trial's training gave.

    Attributes:
        run: The record of the training run.
        scores: Scores of the validation rows.
        score: Scores other rows.
        embeddings_trained: Whether the token embeddings learnt, most of a small decoder's parameters.
    """

    run: dict[str, Any]
    scores: np.ndarray
    score: Callable[[Split], np.ndarray]
    embeddings_trained: bool


def _train(plan: Plan, trial: Trial, data: TaskData, root: Path) -> _Trained:
    """Train `main` or `encoder`; goes on from the last checkpoint, or from the model, of a killed trial."""
    args = training_arguments(plan, trial, root / trial.folder)
    output = Path(str(args.output_dir))
    embeddings = args.tune == "full" and args.train_embeddings

    def score(split: Split) -> np.ndarray:
        device = encoder.device.type
        with torch.autocast(device, torch.bfloat16, enabled=args.bf16):
            return score_all(encoder, texts(split.rows), max_tokens=args.eval_max_tokens)

    if (output / RUN_FILE).is_file():  # only what comes after training was interrupted
        encoder = Encoder.from_pretrained(output)
        run = json.loads((output / RUN_FILE).read_text(encoding="utf-8"))
        return _Trained(run, score(data.judged_by), score, embeddings)
    make = established_encoder if trial.arm == "encoder" else main_encoder
    encoder = make(plan, data.task, trial.seed)
    parent = plan.parent(trial)
    if parent is not None:
        _start_from(encoder, root / parent.folder / MODEL)
    resume = last_checkpoint(checkpoint_folder(output)) is not None
    result = train(encoder, data, args, resume=resume, overwrite=True)
    return _Trained(result.run, result.scores, score, embeddings)


def _train_stock(plan: Plan, trial: Trial, data: TaskData, root: Path) -> _Trained:
    classifier = StockClassifier(plan, data, training_arguments(plan, trial, root / trial.folder))
    run = classifier.train()
    return _Trained(run, classifier.score(data.judged_by), classifier.score, classifier.embeddings_trained)


def _start_from(encoder: Encoder, folder: Path) -> None:
    """Take over the backbone of a trained model; pooler and head stay new."""
    trained = Encoder.from_pretrained(folder)
    encoder.stock_backbone.load_state_dict(trained.stock_backbone.state_dict())


def _some(plan: Plan, task: Task, split: Split) -> Split:
    """The part of a split that the plan judges by: all of it, if the plan says no more."""
    return sample(
        split,
        plan.recipes[task.trained_on or task.name]["max_validation_rows"],
        0,
        lists=GROUP in split.rows.column_names,
    )


def _more_splits(plan: Plan, task: Task) -> tuple[list[tuple[Task, str, Split]], Told]:
    """The other splits that the model will be judged by, and those left out: not there, or labels hidden.

    They are read before training, so that a bad row in one costs no more than a bad row to train on.
    """
    found: list[tuple[Task, str, Split]] = []
    left_out: Told = []
    splits = [(task, split) for split in task.more_splits]
    splits += [(get_task(name), get_task(name).validation_split) for name in plan.diagnostics(task.name)]
    for judged, split in splits:
        try:
            rows = load_split(judged, split, plan.data_dir, source=plan.data_source)
        except (NoSplitError, NoLabelsError) as error:
            hidden = isinstance(error, NoLabelsError)
            why = "its labels are hidden" if hidden else "it is not among the data"
            logger.warning("%s %s is left out: %s", judged.name, split, error)
            left_out.append({"task": judged.name, "split": split, "why": why})
        else:
            found.append((judged, split, _some(plan, judged, rows)))
    return found, left_out


def _answer_tests(plan: Plan, task: Task, score: Callable[[Split], np.ndarray], folder: Path) -> Told:
    """Write the answers to the suite's test sets; gives those that there are no answers to."""
    unanswered: Told = []
    for name in (task.name, *plan.diagnostics(task.name)):
        judged = get_task(name)
        for split in judged.test_splits:
            if (name, split) not in FILES[plan.suite]:  # SuperGLUE's warm start is from a task of GLUE
                continue
            try:
                rows = load_split(judged, split, plan.data_dir, source=plan.data_source, labelled=False)
                why = rows.note  # a leaderboard takes answers to all of the official rows only
            except DataError as error:
                why = error.what
            if why:
                logger.warning("%s %s is not answered: %s", name, split, why)
                unanswered.append({"task": name, "split": split, "why": why})
            else:
                write_answers(plan.of_suite, judged, split, rows, score(rows), folder / FOLDER)
    return unanswered


def _judge(scores: np.ndarray, task: Task, split: str, rows: Split, folder: Path) -> SplitResult:
    labels, together = np.asarray(rows.rows["label"][:]), rows.together()
    file = f"scores-{task.name}-{split}.npz"
    kept = {name: np.asarray(values) for name, values in together.items() if values is not None}
    columns: dict[str, Any] = {"scores": scores.astype(np.float32), "labels": labels, **kept}
    np.savez_compressed(folder / file, **columns)
    return SplitResult(
        task.name,
        split,
        compute_metrics(task.metrics, scores, labels, **together),
        majority_baseline(labels, task.metrics, task.problem_type, num_labels=len(task.labels), **together),
        len(labels),
        rows.note,
        file,
    )


def remove_model(root: Path, trial: Trial) -> None:
    """Delete a trial's weights; its record and scores stay."""
    model = root / trial.folder / MODEL
    for folder in (model, checkpoint_folder(model)):
        shutil.rmtree(folder, ignore_errors=True)
