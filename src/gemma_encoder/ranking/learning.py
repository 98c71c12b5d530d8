"""Lists as training draws them: some documents of each, others in every epoch, tokenised when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset

from ..encoder import Encoder
from ..errors import DataError
from ..tasks import Split, Task, TaskData
from .lists import CandidateList
from .sampling import ListSampling

TEMPLATE = "Query: {text} Document: {text_pair}"
RANKING = Task(
    "ranking",
    ("query", "document"),
    "label",
    "ranking",
    ("relevance",),
    ("ndcg@10", "rr@10"),
    template=TEMPLATE,
)
"""Any lists of documents for queries; the template is RankT5's (arXiv 2210.10634)."""


@dataclass(frozen=True)
class TrainingLists:
    """Lists to train on, and which of their documents a step sees.

    Attributes:
        lists: The lists, with labels.
        sampling: How documents are drawn.
    """

    lists: Sequence[CandidateList]
    sampling: ListSampling = field(default_factory=ListSampling)

    def __len__(self) -> int:
        return len(self.lists)

    def tokenized(self, encoder: Encoder, seed: int) -> TokenizedLists:
        """The lists as items of training."""
        return TokenizedLists(encoder, self.lists, self.sampling, seed)


class TokenizedLists(torch.utils.data.Dataset):
    """Items of training: the documents of a list that this epoch sees, as token ids with labels.

    Args:
        encoder: Its tokenizer and template are used.
        lists: The lists.
        sampling: How documents are drawn.
        seed: Of the draws; with it, epoch and number of a list decide.

    Attributes:
        truncated: Documents that were cut to the maximal length so far.
    """

    def __init__(
        self, encoder: Encoder, lists: Sequence[CandidateList], sampling: ListSampling, seed: int
    ) -> None:
        self.encoder, self.lists, self.sampling, self.seed = encoder, lists, sampling, seed
        self.epoch = self.truncated = 0

    def __len__(self) -> int:
        return len(self.lists)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        drawn = self.sampling.draw(self.lists[index], self.seed, self.epoch, index)
        if drawn.labels is None:
            raise DataError(
                f"query {drawn.query_id!r} has no labels to learn from", fix="give judgments or scores"
            )
        tokens = self.encoder.tokenize([(drawn.query, document) for document in drawn.documents])
        self.truncated += sum(tokens.truncated)
        return [
            {"input_ids": ids, "labels": torch.tensor(label, dtype=torch.float64), "rows": index}
            for ids, label in zip(tokens.input_ids, drawn.labels, strict=True)
        ]

    def set_epoch(self, epoch: int) -> None:
        """Draw anew."""
        self.epoch = epoch

    def fingerprint(self) -> str:
        """Of the number of lists, the sampling, and the first and last list: reading all would take long."""
        ends = [self.lists[0], self.lists[len(self.lists) - 1]] if len(self.lists) else []
        return hashlib.sha256(repr((len(self.lists), self.sampling, ends)).encode()).hexdigest()[:16]


def ranking_data(
    train: TrainingLists,
    validation: Sequence[CandidateList],
    *,
    source: str = "",
    validation_source: str = "",
) -> TaskData:
    """What `train` takes: lists to learn from, and lists whose order judges (nDCG@10 and RR@10 over each).

    Raises:
        DataError: There is no list, or a validation list has no labels.
    """
    if not len(train):
        raise DataError("there is no list to train on", where=source, fix="give at least one")
    rows = validation_rows(validation, validation_source)
    return TaskData(
        RANKING, train, rows.rows, train_source=source, validation_source=validation_source or rows.source
    )


def validation_rows(lists: Sequence[CandidateList], source: str = "") -> Split:
    """Lists as rows to judge by, a row for each document.

    Raises:
        DataError: There is no list, or one has no labels.
    """
    columns: dict[str, list[Any]] = {
        name: [] for name in ("text", "text_pair", "label", "row", "group", "candidate")
    }
    for number, candidates in enumerate(lists):
        if candidates.labels is None:
            raise DataError(
                f"query {candidates.query_id!r} has no labels to judge by", where=source, fix="give judgments"
            )
        for name, text, label in zip(
            candidates.document_ids, candidates.documents, candidates.labels, strict=True
        ):
            values = (candidates.query, text, label, number + 1, number, name)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    if not columns["text"]:
        raise DataError("there is no list to judge by", where=source, fix="give at least one")
    return Split(Dataset.from_dict(columns), source)
