"""Lists as training draws them: some documents of each, others in every epoch, tokenised when asked for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset

from ..encoder import Encoder
from ..errors import ConfigError, DataError
from ..losses import RankingLoss
from ..losses.lambda_loss import INSTEAD, LARGEST_GRADE
from ..tasks import Split, Task, TaskData
from .list_files import hub_lists, read_lists
from .lists import CandidateList, JoinedLists, Lists
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

    def draw(self, seed: int, epoch: int = 0) -> Iterator[CandidateList]:
        """What an epoch sees of the lists."""
        for number, candidates in enumerate(self.lists):
            yield self.sampling.draw(candidates, seed, epoch, number)

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
        epoch: Whose documents are drawn.
    """

    def __init__(
        self, encoder: Encoder, lists: Sequence[CandidateList], sampling: ListSampling, seed: int
    ) -> None:
        self.encoder, self.lists, self.sampling, self.seed = encoder, lists, sampling, seed
        self.epoch = 0
        self._cut: set[tuple[int, str]] = set()
        self._no_room: set[int] = set()

    @property
    def truncated(self) -> int:
        """Documents of lists that were cut to the maximal length, of those that this process has drawn."""
        return len(self._cut)

    @property
    def no_room(self) -> int:
        """Lists whose query left nothing of a document, of those that this process has drawn."""
        return len(self._no_room)

    def __len__(self) -> int:
        return len(self.lists)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        drawn = self.sampling.draw(self.lists[index], self.seed, self.epoch, index)
        if drawn.labels is None:
            raise DataError(
                f"query {drawn.query_id!r} has no labels to learn from", fix="give judgments or scores"
            )
        tokens = self.encoder.tokenize([(drawn.query, document) for document in drawn.documents])
        cut = zip(drawn.document_ids, tokens.truncated, strict=True)
        self._cut |= {(index, name) for name, truncated in cut if truncated}
        if any(tokens.no_room):
            self._no_room.add(index)
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
    note: str = "",
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
        RANKING,
        train,
        rows.rows,
        train_note=note,
        train_source=source,
        validation_source=validation_source,
    )


_OF_ORDER = ("pairwise", "listmle", "lambda")
_OF_WEIGHTS = ("softmax", "poly1", "lambda")


def check_labels(lists: Lists, loss: RankingLoss) -> str:
    """Look at all labels, so that what can't teach is found before training and not when it is drawn.

    Returns:
        How many lists teach this loss nothing, for a message; empty if all teach.

    Raises:
        DataError: A list has no labels, or negative fractions, a teacher's, where the loss takes them as
            weights, or labels too large for `lambda`; or no list teaches anything.
    """
    idle = 0
    for part in lists.parts:
        for place, labels in enumerate(part.labels()):
            what = fix = ""
            if labels is None:
                what, fix = "no labels to learn from", "give judgments or scores, or leave it out"
            elif loss in _OF_WEIGHTS and any(label < 0 and label % 1 for label in labels):  # judges' -2 is 0
                what = f"the label {min(labels):g}, and the loss {loss} takes labels as weights"
                fix = "learn a teacher's scores with kl or margin_mse; write 0 for what is not relevant"
            elif loss == "lambda" and max(labels) > LARGEST_GRADE:
                what = f"the label {max(labels):g}, and lambda takes 2^label as gain, which overflows"
                fix = INSTEAD
            if what:
                raise DataError(
                    f"query {part[place].query_id!r} has {what}",
                    where=f"{part.source}, list {place + 1}",
                    fix=fix,
                )
            idle += not _teaches(labels or (), loss)
    lacks = "one document alone"
    if loss in _OF_ORDER:
        lacks = "labels that are all equal"
    elif loss in ("softmax", "poly1"):
        lacks = "no relevant document, or one document alone"
    elif loss == "pointwise":
        lacks = "no relevant document"
    if idle and idle == len(lists):
        raise DataError(
            f"all {idle:,} lists have {lacks}: the loss {loss} would learn nothing from them",
            where=lists.source,
            fix="check the labels; relevant is what is above 0",
        )
    return f"{idle:,} of {len(lists):,} lists have {lacks}" if idle else ""


def _teaches(labels: Sequence[float], loss: RankingLoss) -> bool:
    """Whether a list has a loss that isn't always 0; of `pointwise` whether something is relevant."""
    if loss in _OF_ORDER:
        return len(set(labels)) > 1
    if loss == "pointwise":
        return max(labels) > 0
    return len(labels) > 1 and (loss not in _OF_WEIGHTS or max(labels) > 0)


def load_lists(names: Sequence[str]) -> Lists:
    """Lists of files, and of data sets of the hub (`hub:NAME`, or `hub:NAME:CONFIG`), one after the other.

    Raises:
        DataError: They can't be read.
    """
    parts = [_load(name) for name in names]
    return parts[0] if len(parts) == 1 else JoinedLists(parts)


def _load(name: str) -> Lists:
    if not name.startswith("hub:"):
        return read_lists(name)
    hub, _, config = name.removeprefix("hub:").partition(":")
    return hub_lists(hub, config=config or None)


def hold_out(lists: Lists, fraction: float, seed: int) -> tuple[Lists, Lists]:
    """Lists to train on and to judge by; all lists of a query are on one side. Relevant documents that were
    added to a run's candidates are on the first side only.

    Args:
        lists: All lists.
        fraction: The part of the queries that is held out, at least one.
        seed: Decides which.

    Raises:
        ConfigError: `fraction` is not between 0 and 1.
        DataError: There is only one query.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"validation_fraction is {fraction}", fix="use a number between 0 and 1")
    names = [_same(query) for query in lists.queries()]
    queries = sorted(set(names))
    if len(queries) < 2:
        raise DataError("there is one query only", where=lists.source, fix="give lists to judge by")
    random.Random(seed).shuffle(queries)
    held = set(queries[: max(1, min(len(queries) - 1, round(fraction * len(queries))))])
    sides = [[place for place, name in enumerate(names) if (name in held) == side] for side in (False, True)]
    return lists.select(sides[0]), lists.to_judge(sides[1])


def refuse_shared_queries(train: Iterable[str], unseen: Iterable[str], use: str = "judged by") -> None:
    """See to it that nothing is judged by a query that was trained on; by text, ids differ between files.

    Args:
        train: Texts of the queries trained on.
        unseen: Texts of those that must not be among them.
        use: What they are for, in the error.

    Raises:
        DataError: Names some of them.
    """
    other = {_same(query) for query in unseen}
    shared = sorted({query for query in train if _same(query) in other})
    if shared:
        raise DataError(
            f"{len(shared)} of the queries would be both trained on and {use}, {shared[0]!r} among them",
            fix="leave them out on one side",
        )


def _same(query: str) -> str:
    """Equal for queries that differ in case and white space only."""
    return " ".join(query.lower().split())


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
