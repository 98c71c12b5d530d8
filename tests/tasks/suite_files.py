"""A folder with eight rows of every task of the suites."""

from __future__ import annotations

import json
from pathlib import Path

from suite_records import HUB

from gemma_encoder.tasks import TASKS


def eight_rows(name: str) -> list[dict]:
    """The task's record eight times, with other labels and places by turns."""
    task, rows = TASKS[name], []
    for number in range(8):
        row = {**HUB[name], "idx": number}
        if name == "record":
            row |= {
                "answers": row["entities"][number % 2 : number % 2 + 1],
                "idx": {"passage": number, "query": 0},
            }
        elif name == "multirc":
            row |= {"label": number % 2, "idx": {"paragraph": 0, "question": number // 3, "answer": number}}
        elif name == "stsb":
            row["label"] = number / 2
        else:
            row["label"] = number % max(2, len(task.labels))
        rows.append(row)
    return rows


def write_suites(root: Path) -> Path:
    """Every task's splits as parts that are not the official ones; AX has no labels, as on the hub."""
    for name, task in TASKS.items():
        folder = root / ("superglue" if "super" in task.hub[0] else "glue") / task.hub[1]
        folder.mkdir(parents=True)
        splits = {task.train_split, task.validation_split, *task.more_splits, *task.test_splits}
        for split in splits:
            own = task.trained_on is None and split in (task.train_split, task.validation_split)
            rows = eight_rows(name)[: 8 if own else 6]  # what is only scored has fewer
            if name == "ax" or split not in (task.train_split, task.validation_split, *task.more_splits):
                rows = [{**row, "label": -1} for row in rows]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{split}_sample.jsonl").write_text(text)
    return root
