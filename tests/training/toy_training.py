"""A toy task that a tiny encoder learns in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset

from gemma_encoder.encoder import Encoder
from gemma_encoder.tasks import Task, TaskData
from gemma_encoder.testing import tiny_decoder

TASK = Task(
    name="toy",
    text_columns=("text",),
    label_column="label",
    problem_type="single_label_classification",
    labels=("bad", "good"),
    metrics=("accuracy",),
)


def toy_rows(count: int, seed: int, *, label: Callable[[int], Any] = int) -> Dataset:
    """Texts of 2 to 12 words that say what their class is; rows are numbered from 2, as in a file."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(count):
        good, words = (int(torch.randint(high, (1,), generator=generator)) for high in (2, 11))
        text = " ".join(["good" if good else "bad", *["word"] * (words + 1)])
        rows.append({"text": text, "label": label(good), "row": index + 2})
    return Dataset.from_list(rows)


def toy_data(train_rows: int = 20, **task: Any) -> TaskData:
    """The toy task's rows."""
    return TaskData(replace(TASK, **task), toy_rows(train_rows, 0), toy_rows(8, 1))


def new_encoder(family: str = "gemma3", **options: Any) -> Encoder:
    """A tiny encoder for the toy task, the same each time."""
    return Encoder.from_decoder(tiny_decoder(family), seed=0, **{"labels": TASK.labels, **options})


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    """A copy of an encoder's state."""
    return {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference between two states of the same names."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)
