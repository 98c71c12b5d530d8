"""Judging runs by relevance judgments, on ir_measures: means, what each query has, intervals, and whether one
run is better than another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..extras import library
from .runs import ranked

DEFAULT_MEASURES = ("RR@10", "nDCG@10", "AP", "R@100")
EXAMPLES = "RR@10, nDCG@10, AP, R@100, P@10, Success@5, Rprec, Bpref, Judged@10"
JUDGED = "Judged@10"

_MEASURE = re.compile(r"([A-Za-z_]\w*)(?:@(\d+)(\.\d+)?)?", re.ASCII)


@dataclass(frozen=True)
class Measured:
    """One measure of a run.

    Attributes:
        mean: Over all queries that have judgments.
        interval: 95 % bootstrap interval of the mean over queries; None for a single query.
        per_query: Query id to value.
    """

    mean: float
    interval: tuple[float, float] | None
    per_query: dict[str, float]


@dataclass(frozen=True)
class Judgement:
    """What a run is worth.

    Attributes:
        measures: Name of the measure, as it was asked for, to its values.
        min_relevance: The grade from which a document counted as relevant.
        queries: Queries with judgments: those the means are over.
        missing: Of these, queries for which the run has no document; they count as 0.
        without_relevant: Of these, queries without a relevant document; they count as 0 in measures that take
            documents as relevant or not.
        not_judged: Queries of the run that have no judgments and were left out.
        depth: The most documents that the run has for one of the queries.
        judged_at_10: Share of the first ten documents that are judged at all, mean over the queries that have
            documents. Far below 1, a low value may be the judgments' and not the run's.
    """

    measures: dict[str, Measured]
    min_relevance: int
    queries: int
    missing: int
    without_relevant: int
    not_judged: int
    depth: int
    judged_at_10: float


@dataclass(frozen=True)
class RunComparison:
    """How two runs differ on the same queries.

    Attributes:
        measure: Name of the measure.
        difference: Mean of the first run less that of the other.
        interval: 95 % bootstrap interval of the difference over queries; None for a single query.
        p_value: Two-sided: how often chance alone gives a mean difference as large.
        wins: Queries in which the first run is better.
        ties: Queries in which both are equal.
        losses: Queries in which the other one is better.
        per_query: Query id to the difference.
    """

    measure: str
    difference: float
    interval: tuple[float, float] | None
    p_value: float
    wins: int
    ties: int
    losses: int
    per_query: dict[str, float]


def judge(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = DEFAULT_MEASURES,
    min_relevance: int = 1,
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> Judgement:
    """Judge a run.

    Documents are ranked by `ranked`, whatever provider computes a measure: those of ir_measures break ties
    in different ways. nDCG takes a document's grade as its gain, as trec_eval does, and all judged documents
    into its ideal.

    Args:
        run: Query id to document id to score.
        qrels: Query id to document id to grade.
        measures: Names of ir_measures, such as `nDCG@10`.
        min_relevance: The grade from which AP, RR, R and others that know only relevant or not count a
            document as relevant; nDCG is not affected. TREC DL counts from 2.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        ConfigError: There is no measure or its name is not known, `min_relevance` or `resamples` is below 1,
            or ir_measures is not installed.
        DataError: There are no judgments, no query of the run has any, or a score is not finite.
    """
    check_measures(measures, min_relevance)
    check_queries(run, qrels)
    judged, answered, values = _values(run, qrels, (*measures, JUDGED), min_relevance)
    table = np.array([[values[name][query] for name in measures] for query in judged])
    intervals = _intervals(table, resamples, seed)
    return Judgement(
        measures={
            name: Measured(float(np.mean(list(values[name].values()))), interval, values[name])
            for name, interval in zip(measures, intervals, strict=True)
        },
        min_relevance=min_relevance,
        queries=len(judged),
        missing=len(judged) - len(answered),
        without_relevant=sum(max(grades.values()) < min_relevance for grades in judged.values()),
        not_judged=sum(query not in judged for query in run),
        depth=max(len(order) for order in answered.values()),
        judged_at_10=float(np.mean([values[JUDGED][query] for query in answered])),
    )


def compare_runs(
    judgement: Judgement,
    other: Judgement,
    measure: str = "nDCG@10",
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> RunComparison:
    """Is one run better than another? A paired randomisation test over queries.

    If the runs were alike, it would not matter which of them has which of a query's two values. So the signs
    of the differences are drawn at random, and the mean is taken again; all sign patterns are gone through
    where they are not more than `resamples` (Smucker et al. 2007, CIKM).

    Args:
        judgement: What `judge` says of the run.
        other: What it says of the run it is compared with, by the same judgments.
        measure: One that both were judged by.
        resamples: Random sign patterns, and resamples of the bootstrap.
        seed: Of both.

    Raises:
        ConfigError: The runs were not both judged by this measure from the same grade, or `resamples` is
            below 1.
        DataError: They were judged on different queries.
    """
    first, second = _both(judgement, other, measure)
    differences = np.array([first[query] - second[query] for query in first])
    differences[np.abs(differences) < 1e-9] = 0.0  # the same sum in another order
    return RunComparison(
        measure=measure,
        difference=float(differences.mean()),
        interval=_intervals(differences[:, None], resamples, seed)[0],
        p_value=_p_value(differences, resamples, seed),
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
        per_query=dict(zip(first, differences.tolist(), strict=True)),
    )


def check_measures(measures: Sequence[str], min_relevance: int = 1) -> None:
    """Refuse now, before large files are read, what `judge` would refuse.

    Raises:
        ConfigError: See `judge`.
    """
    if not measures:
        raise ConfigError("there is no measure to judge by", fix=f"name one or more: {EXAMPLES}")
    for name in measures:
        _measure(name, min_relevance)


def check_queries(run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse a run that can't be judged.

    Raises:
        DataError: There are no judgments, or no query of the run has any.
    """
    if not any(qrels.values()):
        raise DataError("there are no judgments", fix="give qrels with at least one query")
    if not any(grades and run.get(query) for query, grades in qrels.items()):
        ids = f"queries of the run: {_some(run)}; of the judgments: {_some(qrels)}"
        raise DataError(
            f"no query of the run has judgments ({ids})", fix="give the judgments of the same queries"
        )


def by_relevance(measure: str) -> bool:
    """Whether a measure takes documents as relevant or not, so that `min_relevance` decides; not so nDCG.

    Raises:
        ConfigError: See `judge`.
    """
    return str(_measure(measure, 1)) != str(_measure(measure, 2))


def cut_off(measure: str) -> int | None:
    """The number of documents that a measure looks at: 10 for `nDCG@10`, None for `AP`."""
    said = _MEASURE.fullmatch(measure)
    return int(said[2]) if said and said[2] and not said[3] else None


def _both(judgement: Judgement, other: Judgement, measure: str) -> tuple[dict[str, float], dict[str, float]]:
    """Each query's value of both runs."""
    for each in (judgement, other):
        if measure not in each.measures:
            raise ConfigError(
                f"a run was not judged by {measure!r} but by {', '.join(each.measures)}",
                fix="name a measure that both were judged by",
            )
    if judgement.min_relevance != other.min_relevance:
        raise ConfigError(
            f"min_relevance was {judgement.min_relevance} for one run, {other.min_relevance} for the other",
            fix="judge both alike",
        )
    first, second = (each.measures[measure].per_query for each in (judgement, other))
    if first.keys() != second.keys():
        raise DataError(
            f"the runs were judged on different queries ({len(first):,} and {len(second):,})",
            fix="judge both by the same judgments",
        )
    return first, second


def _p_value(differences: np.ndarray, resamples: int, seed: int) -> float:
    """Two-sided p value of the randomisation test that the mean difference is 0."""
    if len(differences) < 2:
        return 1.0  # both signs are as far from 0; scipy takes no single value
    from scipy import stats  # takes most of a second, and judging a run needs none of it

    test = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=True,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def _values(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    names: Sequence[str],
    min_relevance: int,
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """The judgments that count, the run in their order, and each measure's value of each judged query."""
    asked = {name: _measure(name, min_relevance) for name in names}
    judged = {query: dict(grades) for query, grades in qrels.items() if grades}
    answered = _orders(run, judged)
    found = {
        (str(metric.measure), metric.query_id): float(metric.value)
        for metric in _provider().iter_calc(set(asked.values()), judged, answered)
    }
    values = {
        # What a provider has no value for, such as a query that the run lacks, counts as 0.
        name: {query: found.get((str(measure), query), 0.0) for query in judged}
        for name, measure in asked.items()
    }
    return judged, answered, values


def _measure(name: str, min_relevance: int) -> Any:
    """The measure of ir_measures that is meant."""
    if min_relevance < 1:
        raise ConfigError(f"min_relevance is {min_relevance}", fix="give 1 or a higher grade")
    ir_measures = library("ir_measures", extra="ranking")
    # Its own parser needs parts of `ast` that Python 3.14 no longer has.
    said = _MEASURE.fullmatch(name)
    kind = ir_measures.measures.registry.get(said[1]) if said else None
    if said is None or kind is None or not isinstance(kind.aggregator(), ir_measures.MeanAgg):
        raise _unknown(name)
    parameters: dict[str, Any] = {}
    relevant = kind.SUPPORTED_PARAMS.get("rel")
    if relevant is not None and relevant.default == 1:
        parameters["rel"] = min_relevance
    if said[2]:
        parameters[kind.AT_PARAM] = float(said[2] + said[3]) if said[3] else int(said[2])
    measure = kind(**parameters)
    try:
        supported = _provider().supports(measure)
    except AssertionError:  # a cut-off is missing or has none
        supported = False
    if not supported:
        raise _unknown(name)
    return measure


def _provider() -> Any:
    """What computes in this process: the others need Perl, or libraries that the extra doesn't bring."""
    ir_measures = library("ir_measures", extra="ranking")
    named = ("pytrec_eval", "compat", "judged", "msmarco", "accuracy")
    return ir_measures.providers.FallbackProvider([ir_measures.providers.registry[name] for name in named])


def _unknown(name: str) -> ConfigError:
    kinds = library("ir_measures", extra="ranking").measures.registry
    word, at, parameter = name.partition("@")
    near = [kinds[kind].__name__ for kind in kinds if kind.lower() == word.lower() and kind != word]
    meant = f", but {near[0]}{at}{parameter}" if near else ""
    return ConfigError(
        f"there is no measure {name!r}{meant}",
        fix=f"give a name of ir_measures, with a cut-off where it needs one: {EXAMPLES}; "
        "say min_relevance for the grade that counts as relevant",
    )


def _orders(
    run: Mapping[str, Mapping[str, float]], judged: Mapping[str, object]
) -> dict[str, dict[str, float]]:
    """The run's documents of each judged query with scores that no provider can see a tie in."""
    return {
        query: {document: float(-rank) for rank, (document, _) in enumerate(_ranked_for(query, run[query]))}
        for query in judged
        if run.get(query)
    }


def _ranked_for(query: str, scores: Mapping[str, float]) -> list[tuple[str, float]]:
    try:
        return ranked(scores)
    except DataError as error:
        raise DataError(error.what, where=f"query {query}, {error.where}", fix=error.fix) from None


def _some(ids: Iterable[str]) -> str:
    return ", ".join([repr(name) for name, _ in zip(ids, range(3), strict=False)]) or "none"


def _intervals(table: np.ndarray, resamples: int, seed: int) -> list[tuple[float, float] | None]:
    """95 % percentile bootstrap of the mean of each column of values `[queries, measures]`."""
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}", fix="give at least 1")
    if len(table) < 2:
        return [None] * table.shape[1]
    rng = np.random.default_rng(seed)
    means = [table[rng.integers(len(table), size=len(table))].mean(axis=0) for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
