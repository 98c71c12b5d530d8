"""Runs over a collection as lists, and what is missing on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Literal, get_args

from ..errors import ConfigError, DataError
from .lists import CandidateList, Lists, SelectedLists
from .runs import ranked

MissingPositives = Literal["add", "leave"]


@dataclass
class Gaps:
    """What a run and judgments name that isn't there, counted.

    Attributes:
        queries_without_text: Queries of the run that the queries' file lacks.
        documents_without_text: Candidates that the corpus lacks, those of all queries together.
        queries_without_positive: Queries without a relevant document among their candidates.
        missing_positives: Relevant documents that the run does not have.
        positives_without_text: Of these, documents that the corpus lacks too.
        queries_without_candidates: Queries that are asked for, but the run has no document for them.
        queries_without_judgments: Queries of the run, left out since nobody has judged them.
        judged_queries_without_text: Queries with judgments that the queries' file lacks.
        judgments_without_text: Judgments, of any grade, of documents that the corpus lacks.
        examples: Some of what has no text, for a message.
    """

    queries_without_text: int = 0
    documents_without_text: int = 0
    queries_without_positive: int = 0
    missing_positives: int = 0
    positives_without_text: int = 0
    queries_without_candidates: int = 0
    queries_without_judgments: int = 0
    judged_queries_without_text: int = 0
    judgments_without_text: int = 0
    examples: list[str] = field(default_factory=list)


class RunLists(Lists):
    """The candidates of a run, with texts and judgments; texts are looked up as lists are asked for.

    Documents without a judgment have the label 0, as everywhere in information retrieval.

    Args:
        run: Scores by query and document; of each query the best `depth` are taken, in trec_eval's order.
        queries: Texts of queries.
        corpus: Texts of documents.
        qrels: Judgments; None leaves the lists without labels.
        depth: Candidates of each query.
        missing_positives: Relevant documents that the run lacks are put behind it (`add`, for training) or
            left out (`leave`, for judging, where they count in the ideal ranking).
        with_positives_only: Leave out queries without a relevant candidate: they teach nothing.
        strict: Refuse a run with queries or documents that have no text; otherwise they are left out and
            counted in `gaps`.
        source: Where all this came from.

    Attributes:
        gaps: What isn't there.

    Raises:
        ConfigError: An option is not allowed.
        DataError: There is nothing to rank; or `strict` and a text is missing.
    """

    def __init__(
        self,
        run: Mapping[str, Mapping[str, float]],
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        qrels: Mapping[str, Mapping[str, int]] | None = None,
        *,
        depth: int = 100,
        missing_positives: MissingPositives = "leave",
        with_positives_only: bool = False,
        strict: bool = True,
        source: str = "",
    ) -> None:
        if depth < 1:
            raise ConfigError(f"depth is {depth}", fix="use at least 1")
        if missing_positives not in get_args(MissingPositives):
            allowed = ", ".join(get_args(MissingPositives))
            raise ConfigError(f"missing_positives is {missing_positives!r}", fix=f"use one of {allowed}")
        self.source, self.gaps = source, Gaps()
        self._queries, self._corpus, self._qrels = queries, corpus, qrels
        self._candidates: list[tuple[str, tuple[str, ...]]] = []
        self._found: list[int] = []  # how many of them the run has; the others were added
        for query, scores in run.items():
            if query not in queries:
                self.gaps.queries_without_text += 1
                self.gaps.examples.append(f"query {query}")
                continue
            best = [name for name, _ in ranked(scores)[:depth]]
            there, missing = self._with_text(query, best)
            names = (*there, *missing) if missing_positives == "add" else there
            if not names:
                self.gaps.queries_without_candidates += 1
                continue
            if qrels is not None and not any(self._grade(query, name) > 0 for name in names):
                self.gaps.queries_without_positive += 1
                if with_positives_only:
                    continue
            self._candidates.append((query, names))
            self._found.append(len(there))
        self._refuse(strict)

    def _with_text(self, query: str, best: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Candidates that have a text, and relevant documents with a text that are none."""
        there = tuple(name for name in best if name in self._corpus)
        lost = [name for name in best if name not in self._corpus]
        self.gaps.documents_without_text += len(lost)
        self.gaps.examples += [f"document {name} of query {query}" for name in lost[:1]]
        known = set(best)
        relevant = [name for name in (self._qrels or {}).get(query, {}) if self._grade(query, name) > 0]
        missing = [name for name in relevant if name not in known]
        self.gaps.missing_positives += len(missing)
        found = tuple(name for name in missing if name in self._corpus)
        self.gaps.positives_without_text += len(missing) - len(found)
        return there, found

    def _grade(self, query: str, name: str) -> int:
        return (self._qrels or {}).get(query, {}).get(name, 0)

    def _refuse(self, strict: bool) -> None:
        gaps = self.gaps
        if strict and gaps.examples:
            raise DataError(
                f"{gaps.queries_without_text} queries and {gaps.documents_without_text} documents of the run "
                f"have no text, {', '.join(gaps.examples[:3])} among them",
                fix="give the corpus and queries that the run was made with, or leave out what has no text",
            )
        if not self._candidates and gaps.queries_without_positive:
            raise DataError(
                f"none of the {gaps.queries_without_positive:,} queries with candidates has a relevant one",
                where=self.source,
                fix="check that the judgments have grades above 0 and the document ids of the run",
            )
        if not self._candidates:
            raise DataError(
                "no query of the run has candidates to rank",
                fix="check that run, queries, corpus and judgments are of one collection",
            )

    def __len__(self) -> int:
        return len(self._candidates)

    def _at(self, index: int) -> CandidateList:
        query, names = self._candidates[index]
        texts = tuple(self._corpus[name] for name in names)
        return CandidateList(query, self._queries[query], names, texts, self._labels(query, names))

    def _labels(self, query: str, names: Sequence[str]) -> tuple[float, ...] | None:
        if self._qrels is None:
            return None
        return tuple(float(max(0, self._grade(query, name))) for name in names)

    def labels(self) -> Iterator[tuple[float, ...] | None]:
        """The labels of each list, without looking texts up."""
        return (self._labels(query, names) for query, names in self._candidates)

    def queries(self) -> list[str]:
        """The text of each list's query."""
        return [self._queries[query] for query, _ in self._candidates]

    def select(self, places: Sequence[int]) -> SelectedLists:
        """The lists at these places, in this order."""
        return SelectedLists(self, places)

    def to_judge(self, places: Sequence[int]) -> SelectedLists:
        """The lists at these places without added positives, which no first stage would have found.

        What has no candidate but those is left out.
        """
        judged = copy(self)
        judged._candidates = [
            (query, names[:found])
            for (query, names), found in zip(self._candidates, self._found, strict=True)
        ]
        return SelectedLists(judged, [place for place in places if self._found[place]])
