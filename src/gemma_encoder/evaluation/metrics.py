"""Official metrics by name, on scikit-learn and scipy; the baseline that knows no text; intervals over
seeds.

Rows may be judged in groups: the answers to one question, the candidates of one list, the two sentences of a
minimal pair. In a ranking task each row is a candidate and its group the list it competes in.
"""

from __future__ import annotations

import re
import string
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from ..errors import ConfigError, DataError
from ..losses import ProblemType
from ..scoring import labels_on
from ..tasks.base import CANDIDATE, GROUP

Array = np.ndarray
Kind = Literal["binary", "classes", "multi_label", "numbers", "lists"]


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


@dataclass(frozen=True)
class Metric:
    """How a metric is computed, what it applies to, which way is up, and what rows must have."""

    function: Callable[[Judged], Any]
    kinds: tuple[Kind, ...]
    higher_is_better: bool = True
    needs_groups: bool = False
    needs_candidates: bool = False


def _by_row(function: Callable[[Array, Array], Any]) -> Callable[[Judged], Any]:
    return lambda judged: function(judged.labels, judged.predicted)


def _accuracy(judged: Judged) -> float:
    if judged.labels.dtype != np.bool_:
        return float(sk.accuracy_score(judged.labels, judged.predicted))
    return float(judged.labels[judged.predicted].mean())  # lists: one row of each is predicted


def _f1(average: str) -> Callable[[Judged], Any]:
    def score(labels: Array, predicted: Array) -> Any:
        # scikit-learn takes a single column for two classes and would judge label 0 as well.
        kind = "binary" if labels.ndim == 2 and labels.shape[1] == 1 else average
        return sk.f1_score(labels, predicted, average=kind, zero_division=0)

    return _by_row(score)


def _exact_match(judged: Judged) -> float:
    """Share of groups in which every row is right (MultiRC's EM over questions)."""
    return _share_of_groups(judged, judged.labels == judged.predicted)


def _gender_parity(judged: Judged) -> float:
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


def _over_answers(compare: Callable[[str, str], float]) -> Callable[[Judged], float]:
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
    """Grades of each list's candidates, by descending score, the first of equal ones first."""
    assert judged.grades is not None and judged.scores is not None  # `_chosen` gives them
    groups = _numbered(judged.groups)
    order = np.lexsort((-judged.scores, groups))
    ends = np.cumsum(np.bincount(groups))[:-1]
    return np.split(np.maximum(judged.grades[order], 0), ends)


def _ndcg(judged: Judged) -> float:
    """As trec_eval's `ndcg_cut_10` (the grade is the gain), with the list's own best order as the ideal."""

    def gained(grades: Array) -> float:
        best = grades[:CUT]
        return float((best / np.log2(np.arange(2, len(best) + 2))).sum())

    ideals = [(gained(grades), gained(np.sort(grades)[::-1])) for grades in _grades_in_order(judged)]
    return float(np.mean([found / ideal if ideal else 0.0 for found, ideal in ideals]))


def _reciprocal_rank(judged: Judged) -> float:
    """One by the rank of the first relevant candidate; 0 beyond the cut."""
    relevant = [np.flatnonzero(grades[:CUT] > 0) for grades in _grades_in_order(judged)]
    return float(np.mean([1 / (ranks[0] + 1) if len(ranks) else 0.0 for ranks in relevant]))


def _normalised(answer: str) -> list[str]:
    """An answer's words as ReCoRD's script compares them: lower case, without punctuation and articles."""
    kept = "".join(character for character in answer.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def _same_answer(chosen: str, answer: str) -> float:
    return float(_normalised(chosen) == _normalised(answer))


def _token_f1(chosen: str, answer: str) -> float:
    words, wanted = _normalised(chosen), _normalised(answer)
    shared = (Counter(words) & Counter(wanted)).total()
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0


def _correlation(function: Callable[[Array, Array], Any], name: str) -> Callable[[Judged], float]:
    def correlate(labels: Array, predicted: Array) -> float:
        if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predicted) == 0:
            message = f"{name} is not defined for one row or constant values; it counts as 0"
            warnings.warn(message, RuntimeWarning, stacklevel=5)
            return 0.0
        return float(function(labels, predicted).statistic)

    return _by_row(correlate)


CUT = 10  # of nDCG@10 and RR@10

_ALL_CLASSES: tuple[Kind, ...] = ("binary", "classes", "multi_label")

METRICS: dict[str, Metric] = {
    "accuracy": Metric(_accuracy, (*_ALL_CLASSES, "lists")),
    "f1": Metric(_f1("binary"), ("binary",)),
    "f1_macro": Metric(_f1("macro"), _ALL_CLASSES),
    "f1_micro": Metric(_f1("micro"), _ALL_CLASSES),
    "matthews": Metric(_by_row(sk.matthews_corrcoef), ("binary", "classes")),
    "exact_match": Metric(_exact_match, _ALL_CLASSES, needs_groups=True),
    "gender_parity": Metric(_gender_parity, ("binary", "classes"), needs_groups=True),
    "answer_f1": Metric(_over_answers(_token_f1), ("lists",), needs_candidates=True),
    "answer_exact_match": Metric(_over_answers(_same_answer), ("lists",), needs_candidates=True),
    "ndcg@10": Metric(_ndcg, ("lists",)),
    "rr@10": Metric(_reciprocal_rank, ("lists",)),
    "pearson": Metric(_correlation(stats.pearsonr, "pearson"), ("numbers",)),
    "spearman": Metric(_correlation(stats.spearmanr, "spearman"), ("numbers",)),
    "mse": Metric(_by_row(sk.mean_squared_error), ("numbers",), higher_is_better=False),
    "mae": Metric(_by_row(sk.mean_absolute_error), ("numbers",), higher_is_better=False),
}


def compute_metrics(
    names: Sequence[str],
    scores: Array,
    labels: Any,
    *,
    groups: Any = None,
    candidates: Sequence[str] | None = None,
) -> dict[str, float]:
    """Judge scores.

    The class predicted is the one with the highest score (the first of equal ones); in multi-label data every
    label that applies (`scoring.labels_on`). `f1` is that of class 1; `f1_macro` is the mean over the classes
    that occur in labels or predictions (multi-label: over all labels), a class without a hit counting 0;
    multi-label `accuracy` wants the whole row right. `matthews` of constant predictions is 0, and so are
    `pearson` and `spearman` where they are not defined (constant labels or predictions, a single row), with a
    RuntimeWarning.

    One score a row and `groups` are lists: the candidate with the highest score of its list is chosen (the
    first of equal ones), and `accuracy` is the share of lists where it is right. `answer_f1` and
    `answer_exact_match` compare the words of the chosen candidate with those of the right ones, and take the
    best. `ndcg@10` and `rr@10` are means over lists, of which one without a relevant candidate counts 0; the
    ideal of `ndcg@10` is that of the list, which lacks what was not retrieved. `exact_match` is the share of
    groups in which all rows are right, `gender_parity` the share whose rows get the same answer.

    Args:
        names: Which metrics, of `METRICS`.
        scores: `[N, num_labels]` logits; for regression `[N, 1]` or `[N]`.
        labels: `[N]` class numbers, `[N]` numbers, or `[N, num_labels]` zeros and ones.
        groups: Which rows are judged together, int `[N]`.
        candidates: What each row stands for, `[N]`.

    Returns:
        A value for each name, in the order of `names`.

    Raises:
        ConfigError: A metric has an unknown name, or does not fit the data.
        DataError: There are no rows, shapes don't match, a score is not finite, a label is no class.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    groups = None if groups is None else np.asarray(groups)
    if groups is not None and scores.size == len(scores):
        _check(names, "lists")
        judged = _chosen(_finite(scores, labels), labels, groups, candidates)
    else:
        kind, labels, predicted = _prepare(names, scores, labels)
        _check(names, kind)
        judged = Judged(labels, predicted, groups, candidates)
    _check_columns(names, groups is not None, candidates is not None)
    return {name: float(METRICS[name].function(judged)) for name in names}


def _chosen(scores: Array, grades: Array, groups: Array, candidates: Sequence[str] | None) -> Judged:
    """Each list's candidate with the highest score, the first of equal ones."""
    order = np.lexsort((-scores[:, 0], groups))  # stable: equal scores stay in their order
    firsts = order[np.unique(groups[order], return_index=True)[1]]
    predicted = np.zeros(len(groups), dtype=bool)
    predicted[firsts] = True
    return Judged(grades > 0, predicted, groups, candidates, grades, scores[:, 0])


def check_metrics(
    names: Sequence[str],
    problem_type: ProblemType,
    num_labels: int,
    *,
    groups: bool = False,
    candidates: bool = False,
) -> None:
    """Refuse unknown or unfitting metrics before hours are spent on training.

    Args:
        names: Which metrics.
        problem_type: What the labels are.
        num_labels: How many classes there are.
        groups: Whether rows come in groups.
        candidates: Whether rows say what they stand for.

    Raises:
        ConfigError: Names the metric and those that fit.
    """
    classes: Kind = "binary" if num_labels == 2 else "classes"
    kinds: dict[ProblemType, Kind] = {
        "single_label_classification": classes,
        "multi_label_classification": "multi_label",
        "regression": "numbers",
        "ranking": "lists",
    }
    _check(names, kinds[problem_type])
    _check_columns(names, groups, candidates)


def higher_is_better(name: str) -> bool:
    """Which way is up for a metric."""
    _check((name,), None)
    return METRICS[name].higher_is_better


def majority_baseline(
    labels: Any,
    names: Sequence[str],
    problem_type: ProblemType,
    *,
    num_labels: int | None = None,
    groups: Any = None,
    candidates: Sequence[str] | None = None,
) -> dict[str, float]:
    """What a predictor that never looks at the text scores.

    It answers with the commonest class of the rows it is judged by (of equally common ones the lowest), with
    their mean, with the labels that are on in more than half of them, or with the candidate at the place in
    its list that is most often right.

    Args:
        labels: Labels to judge by, as in `compute_metrics`.
        names: Which metrics.
        problem_type: What the labels are.
        num_labels: How many classes there are; by default the highest class number seen, and at least two.
        groups: As in `compute_metrics`.
        candidates: As in `compute_metrics`.
    """
    labels = np.asarray(labels)
    if not labels.size:
        raise DataError("there are no rows to judge", fix="give at least one")
    if problem_type == "regression":
        scores = np.full((len(labels), 1), labels.astype(np.float64).mean())
    elif problem_type == "ranking":
        places = _places(np.asarray(groups))
        commonest = np.bincount(places[labels > 0], minlength=1).argmax()
        scores = (places == commonest)[:, None].astype(np.float64)
    elif problem_type == "multi_label_classification":
        scores = np.tile(labels.mean(axis=0) - 0.5, (len(labels), 1))
    else:
        width = num_labels or max(2, int(labels.max()) + 1)
        scores = np.tile(np.bincount(labels, minlength=width).astype(np.float64), (len(labels), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that its correlation is not defined is no news
        return compute_metrics(names, scores, labels, groups=groups, candidates=candidates)


def _places(groups: Array) -> Array:
    """Each row's place in its group, from 0."""
    seen: Counter[int] = Counter()
    places = []
    for group in groups.tolist():
        places.append(seen[group])
        seen[group] += 1
    return np.asarray(places)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None]:
    """Mean over seeds and half the width of its Student t interval (n - 1 degrees of freedom).

    Returns:
        `(mean, half_width)`; the half width is None for a single value, which says nothing about spread.

    Raises:
        DataError: There are no values.
        ConfigError: `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}", fix="give a number between 0 and 1")
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        raise DataError("there are no values to take the mean of", fix="give at least one")
    mean = float(numbers.mean())
    if numbers.size == 1:
        return mean, None
    standard_error = float(numbers.std(ddof=1)) / np.sqrt(numbers.size)
    return mean, float(stats.t.ppf((1 + confidence) / 2, numbers.size - 1) * standard_error)


def _finite(scores: Array, labels: Array) -> Array:
    """Scores as `[N, num_labels]`, one row for each label and each of them finite."""
    if not len(labels) or len(labels) != len(scores):
        raise DataError(
            f"there are {len(scores)} rows of scores and {len(labels)} labels", fix="give as many of both"
        )
    scores = scores.astype(np.float64).reshape(len(labels), -1)
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(
            f"a score is {scores[row].tolist()}, not finite", where=f"row {row + 1} of those scored"
        )
    return scores


def _prepare(names: Sequence[str], scores: Array, labels: Array) -> tuple[Kind, Array, Array]:
    """What kind of data this is, the labels, and the predictions that stand against them."""
    scores = _finite(scores, labels)
    if labels.ndim == 2 and any("multi_label" in METRICS[name].kinds for name in names if name in METRICS):
        if labels.shape != scores.shape:
            raise DataError(
                f"scores are {scores.shape}, labels {labels.shape}", fix="give one score for each label"
            )
        return "multi_label", labels.astype(np.int64), labels_on(scores).astype(np.int64)
    if scores.shape[1] == 1:
        labels = labels.astype(np.float64).reshape(-1)
        if not np.isfinite(labels).all():
            row = int(np.argmin(np.isfinite(labels)))
            raise DataError(f"a label is {labels[row]}, not finite", where=f"row {row + 1} of those scored")
        return "numbers", labels, scores[:, 0]
    if labels.ndim != 1 or not np.equal(np.mod(labels, 1), 0).all():
        raise DataError(
            f"labels of shape {labels.shape} are no class numbers", fix="give one class number a row"
        )
    outside = (labels < 0) | (labels >= scores.shape[1])
    if outside.any():
        row = int(np.argmax(outside))
        what = f"label {labels[row]} is no class of the {scores.shape[1]} scored"
        raise DataError(
            what, where=f"row {row + 1} of those scored", fix="-1 marks rows without a label: leave them out"
        )
    return ("binary" if scores.shape[1] == 2 else "classes"), labels.astype(np.int64), scores.argmax(axis=1)


def _check(names: Sequence[str], kind: Kind | None) -> None:
    data = {
        "binary": "two classes",
        "classes": "more than two classes",
        "multi_label": "several labels a row",
        "numbers": "numbers",
        "lists": "lists of candidates",
    }
    for name in names:
        if name not in METRICS:
            raise ConfigError(f"there is no metric {name!r}", fix=f"use one of {', '.join(METRICS)}")
        if kind and kind not in METRICS[name].kinds:
            fitting = ", ".join(other for other, metric in METRICS.items() if kind in metric.kinds)
            raise ConfigError(
                f"metric {name!r} does not fit data with {data[kind]}", fix=f"use one of {fitting}"
            )


def _check_columns(names: Sequence[str], groups: bool, candidates: bool) -> None:
    for name in names:
        for column, there, needed in (
            (GROUP, groups, METRICS[name].needs_groups),
            (CANDIDATE, candidates, METRICS[name].needs_candidates),
        ):
            if needed and not there:
                raise ConfigError(
                    f"metric {name!r} judges rows together, and these have no {column!r}",
                    fix="leave it out; a few built-in tasks have it",
                )
