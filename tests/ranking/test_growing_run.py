"""A run that grows: whatever a kill leaves can be gone on with, and ends as if nothing had happened."""

import gzip

import numpy as np
import pytest

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.ranking.growing_run import GrowingRun
from gemma_encoder.ranking.lists import CandidateList
from gemma_encoder.ranking.reranking import ScoredList
from gemma_encoder.ranking.runs import read_run, write_run

LISTS = [CandidateList(f"q{place}", "why", ("a", "b", "c"), ("x", "y", "z")) for place in range(4)]
RUN = {each.query_id: {"a": 0.5, "b": 1.5 + place, "c": -1.0} for place, each in enumerate(LISTS)}


def write(path, queries, **options):
    growing = GrowingRun(path, "tag", **options)
    done = growing.agree(LISTS)
    with growing:
        for each in LISTS[done:queries]:
            growing.add(each.query_id, RUN[each.query_id])
    return growing


@pytest.mark.parametrize("name", ["out.trec", "deep/out.trec.gz"])
def test_it_has_its_name_when_all_is_in_it(tmp_path, name):
    path = tmp_path / name
    growing = write(path, 4)
    assert not path.exists() and growing.part.is_file() and growing.written == 4
    growing.finish()
    expected = write_run(tmp_path / "expected", RUN, "tag").read_bytes()
    content = path.read_bytes()
    assert (gzip.decompress(content) if name.endswith("gz") else content) == expected
    assert not growing.part.exists()


@pytest.mark.parametrize("size", range(0, 140, 7))
def test_a_kill_anywhere_is_gone_on_from(tmp_path, size):
    path = tmp_path / "out.trec"
    part = write(path, 3).part
    whole = part.read_bytes()
    part.write_bytes(whole[:size])
    growing = write(path, 4, resume=True)
    kept = whole[:size].count(b"\n") // 3
    assert len(growing.resumed) == kept and growing.written == 4
    assert read_run(growing.finish()).run == RUN


def test_without_resume_it_starts_again(tmp_path):
    write(tmp_path / "out.trec", 3)
    assert write(tmp_path / "out.trec", 2).written == 2


@pytest.mark.parametrize(
    "lists",
    [
        LISTS[1:],
        LISTS[:2],
        [LISTS[0], CandidateList("q1", "why", ("a", "b"), ("x", "y")), *LISTS[2:]],
        [LISTS[0], CandidateList("q1", "why", ("a", "b", "c", "d"), tuple("wxyz")), *LISTS[2:]],
    ],
    ids=["other queries", "fewer queries", "fewer documents", "more documents"],
)
def test_a_part_of_other_candidates_is_refused(tmp_path, lists):
    write(tmp_path / "out.trec", 3)
    with pytest.raises(DataError, match="of other candidates"):
        GrowingRun(tmp_path / "out.trec", "tag", resume=True).agree(lists)


def test_a_part_of_another_model_is_refused(tmp_path):
    write(tmp_path / "out.trec", 2)
    growing = GrowingRun(tmp_path / "out.trec", "tag", resume=True)
    scores = np.array([0.5, 2.5, -1.0], np.float32)
    growing.check(ScoredList(LISTS[1], scores + 1e-4, 0), 1e-3)
    with pytest.raises(DataError, match="written by another model"):
        growing.check(ScoredList(LISTS[1], scores + np.float32([0, 0, 0.1]), 0), 1e-3)


@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("documents", [("x",), ("x", "x", "x"), ("x", "y", "z")])
def test_a_query_whose_scores_are_hardly_apart_is_known_again(tmp_path, documents, size):
    """One document, equal texts, a tiny spread: what is left is rounding, some float32 steps."""
    names = tuple("abc"[: len(documents)])
    candidates = CandidateList("q", "why", names, documents)
    scores = np.float32(size) + np.float32(1e-6) * np.arange(len(documents), dtype=np.float32)
    growing = GrowingRun(tmp_path / "out.trec", "tag")
    with growing:
        growing.add("q", dict(zip(names, scores.tolist(), strict=True)))
    growing = GrowingRun(tmp_path / "out.trec", "tag", resume=True)
    again = scores + 8 * np.spacing(np.float32(max(size, 1)))
    growing.check(ScoredList(candidates, again.astype(np.float32), 0), 1e-3)
    with pytest.raises(DataError, match="written by another model"):
        growing.check(ScoredList(candidates, scores + np.float32(0.01 * max(size, 1)), 0), 1e-3)


@pytest.mark.parametrize(
    ("run", "query"),
    [
        ({"a": {"1": 0.5, "2": 2.5}, "b": {"1": 3.0, "2": -1.0}, "c": {"1": 2.0}}, "b"),
        ({"a": {"1": 0.5, "2": 2.5}, "b": {"1": 2.0, "2": 2.0}, "c": {"1": 9.0, "2": 9.001}}, "a"),
        ({"a": {"1": 0.5, "2": 0.502}, "b": {"1": 2.0, "2": 2.0}}, "a"),
        ({"a": {"1": 0.5}}, "a"),
    ],
)
def test_the_last_query_that_is_spread_out_tells_the_model(tmp_path, run, query):
    write_run(tmp_path / "out.trec.part", run, "tag")
    assert GrowingRun(tmp_path / "out.trec", "tag", resume=True).telling == query


def test_a_bad_tag_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="one word"):
        GrowingRun(tmp_path / "out.trec", "two words")
