"""Answers to the test sets as the leaderboards of GLUE and SuperGLUE take them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks import Split, Task
from ..tasks.base import CANDIDATE, GROUP, INDEX, by_group
from .plan import RESULT_FILE, Plan
from .suites import Suite

FOLDER = "submission"
_GLUE_FILES = {
    ("cola", "test"): "CoLA.tsv",
    ("sst2", "test"): "SST-2.tsv",
    ("mrpc", "test"): "MRPC.tsv",
    ("stsb", "test"): "STS-B.tsv",
    ("qqp", "test"): "QQP.tsv",
    ("mnli", "test_matched"): "MNLI-m.tsv",
    ("mnli", "test_mismatched"): "MNLI-mm.tsv",
    ("qnli", "test"): "QNLI.tsv",
    ("rte", "test"): "RTE.tsv",
    ("wnli", "test"): "WNLI.tsv",
    ("ax", "test"): "AX.tsv",
}
_SUPERGLUE_FILES = {
    ("boolq", "test"): "BoolQ.jsonl",
    ("cb", "test"): "CB.jsonl",
    ("copa", "test"): "COPA.jsonl",
    ("multirc", "test"): "MultiRC.jsonl",
    ("record", "test"): "ReCoRD.jsonl",
    ("superglue_rte", "test"): "RTE.jsonl",
    ("wic", "test"): "WiC.jsonl",
    ("wsc", "test"): "WSC.jsonl",
    ("axb", "test"): "AX-b.jsonl",
    ("axg", "test"): "AX-g.jsonl",
}
FILES = {"glue": _GLUE_FILES, "superglue": _SUPERGLUE_FILES}
"""The file of each test set, by suite, task and split."""

_BY_NAME = ("mnli", "qnli", "rte", "ax")
"""GLUE's tasks whose answers are names of classes; the others' are numbers."""


def write_answers(
    suite: Suite, task: Task, split: str, rows: Split, scores: np.ndarray, folder: Path
) -> Path:
    """Write the answers to one test set.

    Args:
        suite: Says which leaderboard.
        task: The task, or the diagnostic.
        split: Name of its test set.
        rows: Its rows, read without labels.
        scores: The model's scores of them, `[N, num_labels]`.
        folder: Where to.

    Returns:
        The file, named and written as the leaderboard wants it: for GLUE a TSV file with `index` (from 0, in
        the order of the test set) and `prediction`, for SuperGLUE a line of JSON with `idx` and `label` for
        each example, MultiRC's nested as its data are.
    """
    path = folder / FILES[suite.name][(task.name, split)]
    folder.mkdir(parents=True, exist_ok=True)
    if suite.name == "glue":
        answers = _glue_answers(task, scores)
        lines = ["index\tprediction", *(f"{index}\t{answer}" for index, answer in enumerate(answers))]
    else:
        lines = [json.dumps(answer) for answer in _superglue_answers(task, rows, scores)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def zip_answers(plan: Plan, root: Path) -> tuple[list[Path], list[str]]:
    """Zip the answers of each seed's models.

    Returns:
        The zip files, one for each seed whose answers are complete, and what the others lack, with the reason
        if a trial's record tells it.
    """
    written, missing = [], []
    wanted = FILES[plan.suite].values()
    for seed in range(plan.seeds):
        found = {path.name: path for path in root.glob(f"trials/*/main/seed-{seed}/{FOLDER}/*")}
        lacking = [name for name in wanted if name not in found]
        if lacking:
            why = _reasons(plan, root, seed)
            told = (f"{name} ({why[name]})" if name in why else name for name in lacking)
            missing.append(f"seed {seed}: {', '.join(told)}")
            continue
        target = root / f"submission-seed-{seed}.zip"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in wanted:
                archive.write(found[name], name)
        written.append(target)
    return written, missing


def _reasons(plan: Plan, root: Path, seed: int) -> dict[str, str]:
    """Why a seed's models did not answer a test set, by its file."""
    records = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in root.glob(f"trials/*/main/seed-{seed}/{RESULT_FILE}")
    )
    return {
        FILES[plan.suite][(each["task"], each["split"])]: each["why"]
        for record in records
        for each in record.get("unanswered", ())
    }


def _glue_answers(task: Task, scores: np.ndarray) -> list[str]:
    if task.problem_type == "regression":
        return [f"{value:.3f}" for value in np.clip(scores[:, 0], 0.0, 5.0)]
    chosen = scores.argmax(axis=1).tolist()
    return [task.labels[index] if task.name in _BY_NAME else str(index) for index in chosen]


def _superglue_answers(task: Task, rows: Split, scores: np.ndarray) -> Iterator[dict[str, Any]]:
    """A dictionary a line, in the order of the test set."""
    indices = [json.loads(index) for index in rows.rows[INDEX]]
    if task.problem_type == "ranking":
        yield from _chosen(task, rows, scores[:, 0], indices)
    elif task.name == "multirc":
        yield from _nested(indices, scores.argmax(axis=1).tolist())
    else:
        # WSC's own files and its leaderboard write True and False.
        names = [name.capitalize() for name in task.labels] if task.name == "wsc" else task.labels
        for number, (index, chosen) in enumerate(zip(indices, scores.argmax(axis=1), strict=True)):
            yield {"idx": number if index is None else int(index), "label": names[chosen]}


def _chosen(task: Task, rows: Split, scores: np.ndarray, indices: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """COPA: the number of the better choice; ReCoRD: the best entity."""
    candidates = rows.rows[CANDIDATE] if task.name == "record" else None
    for of_group in by_group(rows.rows[GROUP]):
        best = int(np.argmax(scores[of_group]))
        index = indices[of_group[0]]
        index = index["query"] if isinstance(index, dict) else index
        yield {"idx": index, "label": best if candidates is None else candidates[of_group[best]]}


def _nested(indices: Sequence[dict[str, int]], answers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """MultiRC: answers in questions in paragraphs."""
    paragraphs: dict[int, dict[int, list[dict[str, int]]]] = {}
    for index, answer in zip(indices, answers, strict=True):
        of_question = paragraphs.setdefault(index["paragraph"], {}).setdefault(index["question"], [])
        of_question.append({"idx": index["answer"], "label": answer})
    for paragraph, questions in paragraphs.items():
        listed = [{"idx": question, "answers": answers} for question, answers in questions.items()]
        yield {"idx": paragraph, "passage": {"questions": listed}}
