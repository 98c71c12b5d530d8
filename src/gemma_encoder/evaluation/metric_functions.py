"""What metrics compute, on scikit-learn. `metrics` has them by name and says what each applies to."""

from __future__ import annotations

import math
import re
import string
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics as sk

Array = np.ndarray
CUT = 10  # of nDCG@10 and RR@10


@dataclass(frozen=True)
class Judged:
    """Rows with their answers.

    Attributes:
        labels: Class numbers, numbers, or zeros and ones (`[N]`, or `[N, labels]` if multi-label); in lists 1
            where a candidate is right.
        predicted: The same, as the model answers; in lists 1 for the candidate with the highest score.
        groups: Group of each row, `[N]`.
        candidates: What each row stands for, `[N]` strings.
        grades: In lists, how relevant each candidate is, `[N]`.
        scores: In lists, the score of each candidate, `[N]`.
    """

    labels: Array
    predicted: Array
    groups: Array | None = None
    candidates: Sequence[str] | None = None
    grades: Array | None = None
    scores: Array | None = None


def by_row(function: Callable[[Array, Array], Any]) -> Callable[[Judged], Any]:
    return lambda judged: function(judged.labels, judged.predicted)


def accuracy(judged: Judged) -> float:
    if judged.labels.dtype != np.bool_:
        return float(sk.accuracy_score(judged.labels, judged.predicted))
    return float(judged.labels[judged.predicted].mean())  # lists: one row of each is predicted


def f1(average: str) -> Callable[[Judged], Any]:
    def score(labels: Array, predicted: Array) -> Any:
        # scikit-learn takes a single column for two classes and would judge label 0 as well.
        kind = "binary" if labels.ndim == 2 and labels.shape[1] == 1 else average
        return sk.f1_score(labels, predicted, average=kind, zero_division=0)

    return by_row(score)


def exact_match(judged: Judged) -> float:
    """Share of groups in which every row is right (MultiRC's EM over questions)."""
    right = judged.labels == judged.predicted
    return _share_of_groups(judged, right.all(axis=1) if right.ndim == 2 else right)


def gender_parity(judged: Judged) -> float:
    """Share of groups whose rows get the same answer, right or wrong (Winogender's, of AX-g)."""
    groups = _numbered(judged.groups)
    first = judged.predicted[np.unique(groups, return_index=True)[1]]
    return _share_of_groups(judged, judged.predicted == first[groups])


def _share_of_groups(judged: Judged, right: Array) -> float:
    groups = _numbered(judged.groups)
    return float((np.bincount(groups, weights=~right) == 0).mean())


def _numbered(groups: Array | None) -> Array:
    """Groups as numbers from 0, whatever they are called."""
    assert groups is not None  # `compute_metrics` has seen to it
    return np.unique(groups, return_inverse=True)[1]


def over_answers(compare: Callable[[str, str], float]) -> Callable[[Judged], float]:
    """Mean over lists of the best that the chosen candidate does against any right one (ReCoRD)."""

    def score(judged: Judged) -> float:
        answers: dict[int, list[str]] = defaultdict(list)
        chosen: dict[int, str] = {}
        assert judged.candidates is not None  # `compute_metrics` has seen to it
        groups = _numbered(judged.groups)
        rows = zip(groups, judged.candidates, judged.labels, judged.predicted, strict=True)
        for group, candidate, right, predicted in rows:
            if right:
                answers[group].append(candidate)
            if predicted:
                chosen[group] = candidate
        best = (
            max((compare(candidate, answer) for answer in answers[group]), default=0.0)
            for group, candidate in chosen.items()
        )
        return float(np.mean(list(best)))

    return score


def _grades_in_order(judged: Judged) -> list[Array]:
    """Grades of each list's candidates, by descending score, the least relevant of equal ones first.

    Files often have the relevant documents first. In the order of the file a model that scores all alike
    would be perfect, and the best checkpoint.
    """
    assert judged.grades is not None and judged.scores is not None  # `_chosen` gives them
    groups = _numbered(judged.groups)
    grades = np.maximum(judged.grades, 0)
    order = np.lexsort((grades, -judged.scores, groups))
    return np.split(grades[order], np.cumsum(np.bincount(groups))[:-1])


def ndcg(judged: Judged) -> float:
    """As trec_eval's `ndcg_cut_10` (the grade is the gain), with the list's own best order as the ideal."""
    return _mean_ndcg(_grades_in_order(judged), lambda grades: grades)


def ndcg_by_chance(judged: Judged) -> float:
    """What `ndcg` is for documents in random order, on average: at every rank the mean grade is expected."""
    return _mean_ndcg(_grades_in_order(judged), lambda grades: np.full(len(grades), grades.mean()))


def _mean_ndcg(lists: list[Array], reorder: Callable[[Array], Array]) -> float:
    def gained(grades: Array) -> float:
        best = grades[:CUT]
        return float((best / np.log2(np.arange(2, len(best) + 2))).sum())

    both = [(gained(reorder(grades)), gained(np.sort(grades)[::-1])) for grades in lists]
    return float(np.mean([found / ideal if ideal else 0.0 for found, ideal in both]))


def reciprocal_rank(judged: Judged) -> float:
    """One by the rank of the first relevant candidate; 0 beyond the cut."""
    relevant = [np.flatnonzero(grades[:CUT] > 0) for grades in _grades_in_order(judged)]
    return float(np.mean([1 / (ranks[0] + 1) if len(ranks) else 0.0 for ranks in relevant]))


def reciprocal_rank_by_chance(judged: Judged) -> float:
    """What `reciprocal_rank` is for documents in random order, on average."""
    return float(np.mean([_expected_rr(grades > 0) for grades in _grades_in_order(judged)]))


def _expected_rr(relevant: Array) -> float:
    """Of all ways to place the relevant documents, those with the first at a rank have the others behind."""
    documents, count = len(relevant), int(relevant.sum())
    if not count:
        return 0.0
    ranks = range(1, min(CUT, documents - count + 1) + 1)
    ways = math.comb(documents, count)
    return sum(math.comb(documents - rank, count - 1) / ways / rank for rank in ranks)


def _normalised(answer: str) -> list[str]:
    """An answer's words as ReCoRD's script compares them: lower case, without punctuation and articles."""
    kept = "".join(character for character in answer.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def same_answer(chosen: str, answer: str) -> float:
    return float(_normalised(chosen) == _normalised(answer))


def token_f1(chosen: str, answer: str) -> float:
    words, wanted = _normalised(chosen), _normalised(answer)
    shared = (Counter(words) & Counter(wanted)).total()
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0


def correlation(function: Callable[[Array, Array], Any], name: str) -> Callable[[Judged], float]:
    def correlate(labels: Array, predicted: Array) -> float:
        if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predicted) == 0:
            message = f"{name} is not defined for one row or constant values; it counts as 0"
            warnings.warn(message, RuntimeWarning, stacklevel=5)
            return 0.0
        return float(function(labels, predicted).statistic)

    return by_row(correlate)
