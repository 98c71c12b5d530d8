"""Scores of candidates: a stream of lists through an encoder, and `Reranker` for a program's own queries."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..encoder import Encoder
from ..errors import ConfigError, DataError
from ..scoring import DEFAULT_BUFFER_ROWS, DEFAULT_MAX_TOKENS, score
from . import mteb
from .lists import CandidateList


class ScoredList(NamedTuple):
    """A list and what the encoder says of it.

    Attributes:
        candidates: The list.
        scores: Of its documents, float32 `[documents]`.
        truncated: Texts of its documents that were cut to the maximal length.
        no_room: Whether the query left nothing of a document; those documents have equal scores.
    """

    candidates: CandidateList
    scores: np.ndarray
    truncated: int
    no_room: bool = False


def rerank(
    encoder: Encoder,
    lists: Iterable[CandidateList],
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    buffer_rows: int = DEFAULT_BUFFER_ROWS,
) -> Iterator[ScoredList]:
    """Score the documents of each list, as a stream. A text that stands in a list twice is scored once.

    Args:
        encoder: One that scores pairs, with a single score or two classes (see `relevance`).
        lists: As many as there are.
        max_tokens: Most tokens in one forward pass; changes speed and memory, never the scores.
        buffer_rows: Pairs held in memory; lists are drawn from `lists` that far ahead.

    Yields:
        Each list in order.

    Raises:
        ConfigError: The encoder doesn't score pairs, or `max_tokens` or `buffer_rows` is below 1.
    """
    check_encoder(encoder)
    waiting: deque[tuple[CandidateList, dict[str, int]]] = deque()

    def pairs() -> Iterator[tuple[str, str]]:
        for candidates in lists:
            texts: dict[str, int] = {}
            for text in candidates.documents:
                texts.setdefault(text, len(texts))
            waiting.append((candidates, texts))
            for text in texts:
                yield candidates.query, text

    scores: list[float] = []
    cut, no_room = 0, False
    for scored in score(encoder, pairs(), max_tokens=max_tokens, buffer_rows=buffer_rows):
        scores.append(relevance(scored.logits))
        cut += scored.truncated
        no_room |= scored.no_room
        candidates, texts = waiting[0]
        if len(scores) == len(texts):
            waiting.popleft()
            found = np.array([scores[texts[text]] for text in candidates.documents], np.float32)
            yield ScoredList(candidates, found, cut, no_room)
            scores, cut, no_room = [], 0, False


def relevance(logits: np.ndarray) -> float:
    """The one number of `[num_labels]` scores that documents are ordered by: the score itself, or by how much
    the second of two classes is ahead."""
    return float(logits[0] if len(logits) == 1 else logits[1] - logits[0])


def check_encoder(encoder: Encoder) -> None:
    """Refuse an encoder that can't order documents.

    Raises:
        ConfigError: It takes single texts, or has more than two labels.
    """
    if not encoder.config.text.is_pair:
        raise ConfigError(
            "The model takes one text, a re-ranker takes pairs", fix="use one that was trained on pairs"
        )
    labels = encoder.config.labels
    classes = encoder.config.problem_type == "single_label_classification"
    if len(labels) != 1 and not (classes and len(labels) == 2):
        raise ConfigError(
            f"The model has {len(labels)} labels ({', '.join(labels)}): they give no order",
            fix="use one with a single score (ranking, regression) or two classes",
        )


@dataclass(frozen=True)
class RankedDocument:
    """A document where it belongs.

    Attributes:
        index: Its place among the documents given.
        score: The higher the more relevant; comparable within a query only.
        text: The document.
    """

    index: int
    score: float
    text: str


class Reranker:
    """Puts the most relevant documents first.

        reranker = Reranker.from_pretrained("my-reranker")
        for document in reranker.rank("how do planes fly", documents, top_k=10):
            print(document.score, document.index, document.text)

    It is also a cross-encoder for mteb 2: `mteb.evaluate(reranker, tasks)`.

    Args:
        encoder: A trained encoder of pairs.
        max_tokens: Most tokens in one forward pass.
        name: What mteb calls it in its results, best as `organisation/model`.

    Raises:
        ConfigError: The encoder can't order documents.
    """

    def __init__(
        self, encoder: Encoder, *, max_tokens: int = DEFAULT_MAX_TOKENS, name: str = "reranker"
    ) -> None:
        check_encoder(encoder)
        self.encoder, self.max_tokens, self.name = encoder, max_tokens, name

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        name: str | None = None,
    ) -> Reranker:
        """Load a folder that `train` or `save_pretrained` wrote; options as in `Encoder.from_pretrained`.

        `name` is that of the folder if it is None.
        """
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        given = {name: value for name, value in options.items() if value is not None}
        encoder = Encoder.from_pretrained(folder, **given)
        return cls(encoder, max_tokens=max_tokens, name=name or Path(folder).resolve().name)

    def rank(self, query: str, documents: Sequence[str], *, top_k: int | None = None) -> list[RankedDocument]:
        """The documents, best first; of equal scores the one that was given first.

        Args:
            query: The query.
            documents: Its candidates.
            top_k: Give back this many.

        Raises:
            DataError: The query is no string, or `documents` no list of them.
            ConfigError: `top_k` is no whole number of at least 1.
        """
        return self.rank_many([query], [documents], top_k=top_k)[0]

    def rank_many(
        self, queries: Sequence[str], documents: Sequence[Sequence[str]], *, top_k: int | None = None
    ) -> list[list[RankedDocument]]:
        """As `rank`, for several queries with candidates of their own; faster than one by one.

        Raises:
            DataError: There are not as many lists of documents as queries; or as for `rank`.
            ConfigError: `top_k` is no whole number of at least 1.
        """
        whole = isinstance(top_k, int | np.integer) and not isinstance(top_k, bool)
        if top_k is not None and (not whole or top_k < 1):
            raise ConfigError(f"top_k is {top_k!r}", fix="use a whole number of at least 1, or leave it out")
        _check_texts(queries, "queries")
        if not _in_order(documents) or len(queries) != len(documents):
            what = f"{len(documents)} lists" if _in_order(documents) else f"a {type(documents).__name__}"
            raise DataError(
                f"There are {len(queries)} queries, and for their documents {what}",
                fix="give a list of queries, and for each a list of documents",
            )
        for place, each in enumerate(documents):
            _check_texts(each, "documents", where=f"query {place + 1} of {len(queries)}")
        filled = {place for place, each in enumerate(documents) if len(each)}
        lists = (
            CandidateList(str(place), queries[place], tuple(map(str, range(len(each)))), tuple(each))
            for place, each in enumerate(documents)
            if place in filled
        )
        found = rerank(self.encoder, lists, max_tokens=self.max_tokens)
        return [_best(next(found), top_k) if place in filled else [] for place in range(len(documents))]

    def predict(
        self,
        inputs1: DataLoader,
        inputs2: DataLoader,
        *,
        show_progress_bar: bool = True,
        precision: str = "float32",
        **known: Any,
    ) -> np.ndarray:
        """Score pairs as mteb hands them over; for your own texts there is `rank`.

        mteb's prompts for a task are not used; an instruction that stands in its data is part of the query.
        The batch size doesn't matter: batches are joined and cut by `max_tokens`.

        Args:
            inputs1: The query of each pair.
            inputs2: The document of each pair.
            show_progress_bar: Show how many pairs are scored.
            precision: Only `float32`.
            **known: What else mteb says about the task and how it asks; changes nothing.

        Returns:
            The scores, float32 `[pairs]`.

        Raises:
            DataError: The inputs are no `DataLoader`s.
            ConfigError: Scores of another precision are asked for.
        """
        if not isinstance(inputs1, DataLoader) or not isinstance(inputs2, DataLoader):
            raise DataError("predict takes mteb's DataLoaders", fix="use rank for texts of your own")
        if precision != "float32":
            raise ConfigError(f"precision is {precision!r}", fix="leave it out: scores are float32")
        found = [np.zeros(0, np.float32)]
        total = len(inputs1.dataset)  # type: ignore[arg-type]
        hidden = None if show_progress_bar else True  # None: shown on a terminal only
        with tqdm(total=total, desc="Re-ranking", unit=" pairs", disable=hidden) as bar:
            lists = mteb.candidate_lists(inputs1, inputs2)
            for scored in rerank(self.encoder, lists, max_tokens=self.max_tokens):
                found.append(scored.scores)
                bar.update(len(scored.scores))
        return np.concatenate(found)

    @property
    def mteb_model_meta(self) -> Any:
        """mteb's `ModelMeta`: name, size, a revision that changes with the weights; None where unknown.

        Raises:
            ConfigError: mteb is not installed.
        """
        return mteb.model_meta(self.encoder, self.name)


def _best(scored: ScoredList, top_k: int | None) -> list[RankedDocument]:
    order = np.argsort(-scored.scores, kind="stable")[:top_k].tolist()
    documents = scored.candidates.documents
    return [RankedDocument(place, float(scored.scores[place]), documents[place]) for place in order]


def _in_order(values: object) -> bool:
    """Whether it has places, and so can be gone through twice."""
    with_places = hasattr(values, "__len__") and hasattr(values, "__getitem__")
    return with_places and not isinstance(values, str | bytes | Mapping)


def _check_texts(texts: object, name: str, where: str | None = None) -> None:
    """Refuse what is no list of strings.

    Raises:
        DataError: Says what it is, and the place of what is no string.
    """
    if isinstance(texts, str):
        raise DataError(f"The {name} are one string, {texts[:60]!r}", where=where, fix="give a list of texts")
    if not _in_order(texts):
        what = f"The {name} are a {type(texts).__name__}, which has no places"
        raise DataError(what, where=where, fix="give a list of texts")
    for place, text in enumerate(cast("Sequence[object]", texts)):
        if not isinstance(text, str):
            raise DataError(
                f"{name}[{place}] is a {type(text).__name__}, no text", where=where, fix="give strings"
            )
