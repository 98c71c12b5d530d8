"""Measures of runs against values worked out by hand, ir_measures itself, and TREC's own files."""

from __future__ import annotations

import math
import os
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.ranking import compare_runs, judge, read_qrels, read_run
from gemma_encoder.ranking.measures import by_relevance, check_measures, cut_off

ir_measures = pytest.importorskip("ir_measures")

QRELS = {
    "q1": {"a": 3, "b": 0, "c": 1, "d": 2},
    "q2": {"a": 1, "e": 0},
    "q3": {"f": 2},  # not in the run
    "q4": {"g": 0},  # nothing relevant
}
RUN = {
    "q1": {"x": 9.0, "c": 8.0, "a": 7.0, "b": 6.0},  # x is not judged, d not found
    "q2": {"e": 5.0, "a": 5.0},  # a tie: e comes first, its id is the higher
    "q4": {"g": 1.0},
    "q9": {"a": 1.0},  # no judgments
}


def discounted(*gains: int) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


BY_HAND = {
    "RR@10": {"q1": 1 / 2, "q2": 1 / 2},
    "RR": {"q1": 1 / 2, "q2": 1 / 2},
    "nDCG@10": {"q1": discounted(0, 1, 3, 0) / discounted(3, 2, 1), "q2": discounted(0, 1) / discounted(1)},
    "AP": {"q1": (1 / 2 + 2 / 3) / 3, "q2": 1 / 2},
    "R@100": {"q1": 2 / 3, "q2": 1.0},
    "P@3": {"q1": 2 / 3, "q2": 1 / 3},
}
BY_HAND_FROM_2 = {
    "RR@10": {"q1": 1 / 3},
    "nDCG@10": BY_HAND["nDCG@10"],
    "AP": {"q1": (1 / 3) / 2},
    "R@100": {"q1": 1 / 2},
    "P@3": {"q1": 1 / 3},
}


@pytest.mark.parametrize(("wanted", "min_relevance"), [(BY_HAND, 1), (BY_HAND_FROM_2, 2)], ids=["1", "2"])
def test_values_worked_out_by_hand(wanted, min_relevance):
    got = judge(RUN, QRELS, tuple(wanted), min_relevance)
    assert list(got.measures) == list(wanted)
    for name, values in wanted.items():
        every = {query: values.get(query, 0.0) for query in QRELS}
        assert got.measures[name].per_query == pytest.approx(every), name
        assert got.measures[name].mean == pytest.approx(sum(values.values()) / 4), name


def test_what_is_counted():
    got = judge(RUN, QRELS, ("AP",), min_relevance=2)
    assert (got.queries, got.missing, got.without_relevant, got.not_judged) == (4, 1, 2, 1)
    assert (got.depth, got.min_relevance) == (4, 2)
    assert got.judged_at_10 == pytest.approx((3 / 4 + 1 + 1) / 3)
    assert judge({"q1": RUN["q1"], "q3": {}}, QRELS).missing == 3


def test_judged_at_10_looks_at_ten():
    run = {"q": {f"d{number:02}": -float(number) for number in range(20)}}
    qrels = {"q": {"d00": 1, "d09": 0, "d10": 1, "d19": 1}}
    got = judge(run, qrels, ("P@10",))
    assert (got.judged_at_10, got.depth, got.measures["P@10"].mean) == (0.2, 20, 0.1)


def random_run(rng, queries, documents, ties):
    scores = {}
    for query in queries:
        found = rng.choice(documents, size=30, replace=False)
        drawn = rng.integers(0, 5, size=30) if ties else rng.random(30)
        scores[query] = dict(zip(found.tolist(), drawn.astype(float).tolist(), strict=True))
    return scores


@pytest.fixture(scope="module")
def collection():
    rng = np.random.default_rng(0)
    queries, documents = [f"q{n}" for n in range(25)], [f"d{n}" for n in range(60)]
    qrels = {
        query: {
            name: int(rng.integers(0, 4)) for name in rng.choice(documents, size=20, replace=False).tolist()
        }
        for query in queries
    }
    runs = [random_run(rng, queries, documents, ties) for ties in (False, False, True)]
    return qrels, runs


@pytest.mark.parametrize("min_relevance", [1, 2, 3])
def test_agrees_with_ir_measures(collection, min_relevance):
    qrels, (run, *_) = collection
    direct = {
        "RR@10": ir_measures.RR(rel=min_relevance) @ 10,
        "nDCG@10": ir_measures.nDCG @ 10,
        "nDCG": ir_measures.nDCG,
        "AP": ir_measures.AP(rel=min_relevance),
        "AP@10": ir_measures.AP(rel=min_relevance) @ 10,
        "R@20": ir_measures.R(rel=min_relevance) @ 20,
        "Rprec": ir_measures.Rprec(rel=min_relevance),
        "Success@5": ir_measures.Success(rel=min_relevance) @ 5,
        "Bpref": ir_measures.Bpref(rel=min_relevance),
        "IPrec@0.1": ir_measures.IPrec(rel=min_relevance) @ 0.1,
        "Judged@10": ir_measures.Judged @ 10,
    }
    got = judge(run, qrels, tuple(direct), min_relevance)
    wanted = ir_measures.calc_aggregate(list(direct.values()), qrels, run)
    for name, measure in direct.items():
        assert got.measures[name].mean == pytest.approx(wanted[measure]), name
        values = {value.query_id: value.value for value in ir_measures.iter_calc([measure], qrels, run)}
        assert got.measures[name].per_query == pytest.approx(values), name


def test_all_measures_break_ties_as_trec_eval_does(collection):
    """RR@10 and Judged@10 come from providers that would rank tied documents by ascending id."""
    qrels, (*_, tied) = collection
    got = judge(tied, qrels, ("RR", "RR@10", "AP")).measures
    wanted = ir_measures.pytrec_eval.calc_aggregate([ir_measures.RR, ir_measures.AP], qrels, tied)
    assert got["AP"].mean == pytest.approx(wanted[ir_measures.AP])
    assert got["RR"].mean == pytest.approx(wanted[ir_measures.RR])
    within = {query: value if value >= 0.1 else 0.0 for query, value in got["RR"].per_query.items()}
    assert got["RR@10"].per_query == pytest.approx(within)
    other = {"q": {"a": 1.0} | {f"b{number}": 1.0 for number in range(10)}}  # a is the last of eleven
    assert judge(other, {"q": {"a": 1, "b3": 0}}, ("RR@10",)).judged_at_10 == 0.1
    assert judge(other, {"q": {"a": 1}}, ("RR@10",)).measures["RR@10"].mean == 0.0


def test_the_interval_is_scipys(collection):
    qrels, (run, *_) = collection
    got = judge(run, qrels, ("nDCG@10", "RR@10"))
    for measured in got.measures.values():
        values = list(measured.per_query.values())
        wanted = stats.bootstrap(
            (values,), np.mean, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        assert measured.interval == pytest.approx(tuple(wanted), abs=0.01)
        assert measured.interval[0] < measured.mean < measured.interval[1]
    assert judge(run, qrels).measures == judge(run, qrels).measures
    assert judge(run, qrels, seed=1).measures["AP"].interval != judge(run, qrels).measures["AP"].interval


def test_one_query_has_no_interval():
    assert judge(RUN, {"q1": QRELS["q1"]}, ("AP",)).measures["AP"].interval is None


def compared(run, other, qrels, measure="nDCG@10", min_relevance=1, **options):
    first, second = (judge(each, qrels, (measure,), min_relevance) for each in (run, other))
    return compare_runs(first, second, measure, **options)


def test_a_comparison_is_the_exact_test(collection):
    """Ten queries have 1,024 patterns of signs: all are gone through."""
    qrels, (run, other, _) = collection
    few = {query: qrels[query] for query in list(qrels)[:10]}
    got = compared(run, other, few)
    first, second = (judge(each, few, ("nDCG@10",)).measures["nDCG@10"] for each in (run, other))
    differences = np.array([first.per_query[query] - second.per_query[query] for query in few])
    assert got.per_query == pytest.approx(dict(zip(few, differences, strict=True)))
    assert got.difference == pytest.approx(first.mean - second.mean)
    null = np.array(list(product([-1, 1], repeat=10))) @ differences / 10
    assert got.p_value == pytest.approx(np.mean(np.abs(null) >= abs(differences.mean()) - 1e-12))
    assert got.interval[0] < got.difference < got.interval[1]


def test_a_comparison_of_more_queries_is_drawn(collection):
    qrels, (run, other, _) = collection
    got = compared(run, other, qrels, "AP", min_relevance=2)
    assert got == compared(run, other, qrels, "AP", min_relevance=2)
    assert got.p_value != compared(run, other, qrels, "AP", min_relevance=2, seed=1).p_value
    turned = compared(other, run, qrels, "AP", min_relevance=2)
    assert turned.difference == -got.difference
    assert turned.p_value == pytest.approx(got.p_value, abs=0.02)
    assert (turned.wins, turned.ties, turned.losses) == (got.losses, got.ties, got.wins)
    t_test = stats.ttest_1samp(list(got.per_query.values()), 0.0).pvalue
    assert got.p_value == pytest.approx(t_test, abs=0.05)


def test_wins_ties_and_losses_by_hand():
    good = {"1": {"a": 2.0, "b": 1.0}, "2": {"a": 2.0, "b": 1.0}, "3": {"a": 2.0, "b": 1.0}}
    bad = {"1": {"a": 1.0, "b": 2.0}, "2": {"a": 5.0, "b": 4.0}}
    qrels = {"1": {"a": 1}, "2": {"a": 1}, "3": {"b": 1}, "4": {"a": 1}}
    got = compared(good, bad, qrels, "RR@10")
    assert got.per_query == {"1": 0.5, "2": 0.0, "3": 0.5, "4": 0.0}
    assert (got.wins, got.ties, got.losses, got.difference) == (2, 2, 0, 0.25)
    assert got.p_value == 0.5  # of the four patterns of two signs, two are as far from 0
    same = compared(good, good, qrels)
    assert (same.p_value, same.difference, same.ties) == (1.0, 0.0, 4)


def test_a_single_query_shows_nothing():
    got = compared(RUN, {"q1": {"a": 1.0}}, {"q1": QRELS["q1"]}, "RR@10")
    assert (got.difference, got.losses, got.interval, got.p_value) == (-0.5, 1, None, 1.0)


def test_only_what_was_judged_alike_is_compared():
    judged = judge(RUN, QRELS, ("AP", "nDCG@10"))
    with pytest.raises(ConfigError, match=r"was not judged by 'nDCG@10' but by AP"):
        compare_runs(judged, judge(RUN, QRELS, ("AP",)))
    with pytest.raises(ConfigError, match="min_relevance was 1 for one run, 2 for the other"):
        compare_runs(judged, judge(RUN, QRELS, ("AP",), 2), "AP")
    with pytest.raises(DataError, match=r"different queries \(4 and 1\)"):
        compare_runs(judged, judge(RUN, {"q1": {"a": 1}}, ("AP",)), "AP")
    with pytest.raises(ConfigError, match="resamples is 0"):
        compare_runs(judged, judged, resamples=0)


def test_cut_offs():
    names = ("nDCG@10", "R@1000", "AP", "AP@20", "IPrec@0.1")
    assert [cut_off(name) for name in names] == [10, 1000, None, 20, None]


@pytest.mark.parametrize(
    "name",
    ["nDGC@10", "R", "P", "nDCG@0.5", "nDCG@ten", "AP(rel=2)", "NumRet", "", "ERR@20", "alpha_nDCG@10"],
)
def test_a_name_that_is_no_measure(name):
    with pytest.raises(ConfigError, match=r"there is no measure .*RR@10, nDCG@10, AP, R@100"):
        judge(RUN, QRELS, (name,))


def test_measures_that_min_relevance_decides(collection):
    """Those whose value changes with it, and only those."""
    qrels, (run, *_) = collection
    names = ("RR@10", "nDCG@10", "nDCG", "AP", "R@20", "Rprec", "Bpref", "IPrec@0.1", "Judged@10")
    one, two = (judge(run, qrels, names, grade).measures for grade in (1, 2))
    changed = [name for name in names if one[name].per_query != two[name].per_query]
    assert [name for name in names if by_relevance(name)] == changed != []


@pytest.mark.parametrize(
    ("name", "meant"), [("ndcg@10", "nDCG@10"), ("map", "AP"), ("recall@100", "R@100"), ("mrr@10", "RR@10")]
)
def test_a_name_in_other_letters_is_understood_and_refused(name, meant):
    with pytest.raises(ConfigError, match=rf"no measure '{name}', but {meant}[.]"):
        check_measures((name,))


def test_other_mistakes_are_named():
    with pytest.raises(ConfigError, match="there is no measure to judge by"):
        judge(RUN, QRELS, ())
    with pytest.raises(ConfigError, match="min_relevance is 0"):
        judge(RUN, QRELS, min_relevance=0)
    with pytest.raises(ConfigError, match="resamples is 0"):
        judge(RUN, QRELS, resamples=0)
    with pytest.raises(DataError, match="there are no judgments"):
        judge(RUN, {"q1": {}})
    with pytest.raises(DataError, match=r"queries of the run: '1', '2'; of the judgments: 'q1', 'q2', 'q3'"):
        judge({"1": {"a": 1.0}, "2": {"a": 1.0}}, QRELS)
    with pytest.raises(DataError, match=r"nan, not finite in float32 \[query q1, document a\]"):
        judge({"q1": {"a": math.nan}}, QRELS)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(ConfigError, match=r'pip install "gemma-encoder\[ranking\]"'):
        judge(RUN, QRELS)


DATA = os.environ.get("GEMMA_ENCODER_DATA")


@pytest.mark.skipif(not DATA, reason="GEMMA_ENCODER_DATA names no folder with ir/trec-dl-2019-passage")
def test_bm25_on_dl_2019_is_what_is_published():
    folder = Path(str(DATA)) / "ir" / "trec-dl-2019-passage"
    qrels = read_qrels(folder / "qrels.trec").qrels
    runs = {name: read_run(folder / "runs" / f"{name}.trec.gz").run for name in ("bm25", "repllama")}
    got = judge(runs["bm25"], qrels, min_relevance=2)
    assert got.measures["nDCG@10"].mean == pytest.approx(0.5058, abs=5e-5)
    assert (got.queries, got.missing, got.not_judged, got.depth) == (43, 0, 0, 100)
    # This run has many ties; ranked as trec_eval does it has 0.7384, by its rank column 0.7439.
    other = judge(runs["repllama"], qrels).measures["nDCG@10"].mean
    assert other == pytest.approx(0.7384, abs=5e-5)
    got = compared(runs["repllama"], runs["bm25"], qrels)
    assert got.difference == pytest.approx(0.7384 - 0.5058, abs=1e-4)
    assert got.p_value < 0.001
