"""Documents in the order of their scores, and the scores are those of the encoder and of CrossEncoder."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder

from gemma_encoder import Encoder
from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.ranking import Reranker
from gemma_encoder.ranking import reranking as module
from gemma_encoder.ranking.lists import CandidateList
from gemma_encoder.ranking.reranking import rerank
from gemma_encoder.scoring import score_all
from gemma_encoder.testing import tiny_decoder

PAIRS = {"template": "Query: {text} Document: {text_pair}"}
DOCUMENTS = ["a bank", "the river is not good", "", "money in the bank", "a bank", "film"]


def encoder_of(**options) -> Encoder:
    options = {"text": PAIRS, "problem_type": "ranking", "labels": ("score",), "seed": 3} | options
    return Encoder.from_decoder(tiny_decoder("gemma3"), verify=False, **options)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return encoder_of()


def test_the_best_come_first_with_their_places(encoder):
    ranked = Reranker(encoder).rank("money", DOCUMENTS)
    scores = score_all(encoder, [("money", text) for text in DOCUMENTS])[:, 0]
    assert sorted(each.index for each in ranked) == list(range(6))
    assert [each.text for each in ranked] == [DOCUMENTS[each.index] for each in ranked]
    np.testing.assert_allclose(
        [each.score for each in ranked], scores[[each.index for each in ranked]], atol=1e-5
    )
    assert [each.score for each in ranked] == sorted((each.score for each in ranked), reverse=True)
    places = [each.index for each in ranked]
    assert places.index(4) == places.index(0) + 1, "equal texts have equal scores and keep their order"
    assert Reranker(encoder).rank("money", DOCUMENTS, top_k=2) == ranked[:2]


def test_a_saved_reranker_scores_as_cross_encoder(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    ours = Reranker.from_pretrained(tmp_path).rank("money", DOCUMENTS)
    theirs = CrossEncoder(str(tmp_path)).rank("money", DOCUMENTS)
    expected = {each["corpus_id"]: each["score"] for each in theirs}
    np.testing.assert_allclose(
        [each.score for each in ours], [expected[each.index] for each in ours], atol=1e-4
    )


@settings(max_examples=20, deadline=None)
@given(
    lists=st.lists(st.lists(st.sampled_from(DOCUMENTS), max_size=5), max_size=4),
    max_tokens=st.integers(1, 60),
    buffer_rows=st.integers(1, 5),
)
def test_many_queries_at_once_are_each_by_itself(encoder, lists, max_tokens, buffer_rows):
    queries = [["money", "a river"][place % 2] for place in range(len(lists))]
    many = Reranker(encoder, max_tokens=max_tokens).rank_many(queries, lists)
    for query, documents, ranked in zip(queries, lists, many, strict=True):
        alone = Reranker(encoder).rank(query, documents)
        assert {each.index for each in ranked} == set(range(len(documents)))
        by_place = {each.index: each.score for each in alone}
        np.testing.assert_allclose(
            [each.score for each in ranked], [by_place[e.index] for e in ranked], atol=1e-5
        )


def test_a_text_that_comes_twice_is_scored_once(encoder, monkeypatch):
    seen = []
    stock = module.score

    def counting(encoder, rows, **options):
        def spy():
            for row in rows:
                seen.append(row)
                yield row

        return stock(encoder, spy(), **options)

    monkeypatch.setattr(module, "score", counting)
    names = tuple("abcd")
    lists = [CandidateList(q, q, names, ("film", "bank", "film", "film")) for q in ("one", "two")]
    found = list(rerank(encoder, lists, buffer_rows=1))
    assert seen == [("one", "film"), ("one", "bank"), ("two", "film"), ("two", "bank")]
    assert [each.candidates.query for each in found] == ["one", "two"]
    for _, scores, *_ in found:
        assert scores[0] == scores[2] == scores[3] != scores[1]


def test_lists_are_a_stream(encoder):
    drawn = []

    def endless():
        while True:
            drawn.append(len(drawn))
            yield CandidateList(str(len(drawn)), "money", ("a", "b"), ("film", "bank"))

    stream = rerank(encoder, endless(), buffer_rows=8)
    for _ in range(3):
        next(stream)
    assert len(drawn) < 12


def test_two_classes_rank_by_how_far_the_second_is_ahead():
    encoder = encoder_of(problem_type="single_label_classification", labels=("no", "yes"))
    ranked = Reranker(encoder).rank("money", DOCUMENTS)
    logits = score_all(encoder, [("money", each.text) for each in ranked])
    np.testing.assert_allclose([each.score for each in ranked], logits[:, 1] - logits[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text": {"template": "{text}"}}, "takes one text"),
        ({"problem_type": "single_label_classification", "labels": ("a", "b", "c")}, "3 labels"),
        ({"problem_type": "multi_label_classification", "labels": ("a", "b")}, "2 labels"),
    ],
)
def test_a_model_that_gives_no_order_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        Reranker(encoder_of(**options))


@pytest.mark.parametrize(
    ("query", "documents", "says"),
    [
        ("q", "one text", "documents are one string"),
        ("q", ["a", None], r"documents\[1\] is a NoneType"),
        ("q", [{"text": "x"}], r"documents\[0\] is a dict"),
        ("q", [["a", "b"]], r"documents\[0\] is a list"),
        ("q", (text for text in ["a"]), "documents are a generator"),
        ("q", {"a", "b"}, "documents are a set"),
        ("q", {"d1": "a"}, "documents are a dict"),
        ("q", {"d1": "a"}.values(), "documents are a dict_values"),
        ("q", None, "documents are a NoneType"),
        (None, [], r"queries\[0\] is a NoneType"),
        (["q"], ["a"], r"queries\[0\] is a list"),
    ],
)
def test_what_is_no_query_or_no_list_of_documents_is_refused(encoder, query, documents, says):
    with pytest.raises(DataError, match=says):
        Reranker(encoder).rank(query, documents)


@pytest.mark.parametrize(
    ("queries", "documents", "says"),
    [
        (["q"], [["a"], ["b"]], "1 queries.* 2 lists"),
        ("q", [["a"]], "queries are one string"),
        ((query for query in "ab"), [["a"], ["b"]], "queries are a generator"),
        (["q"], (each for each in [["a"]]), "1 queries.* a generator"),
        (["q"], "a", "1 queries.* a str"),
        (["q"], None, "1 queries.* a NoneType"),
        (["a", "b"], [["a"], None], "documents are a NoneType.*query 2 of 2"),
    ],
)
def test_lists_that_do_not_belong_to_queries_are_refused(encoder, queries, documents, says):
    with pytest.raises(DataError, match=says):
        Reranker(encoder).rank_many(queries, documents)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "3", True])
def test_a_top_k_that_is_no_number_of_documents_is_refused(encoder, top_k):
    with pytest.raises(ConfigError, match=f"top_k is {top_k!r}"):
        Reranker(encoder).rank("q", ["a", "b"], top_k=top_k)


def test_documents_of_other_libraries_are_lists_too(encoder):
    """Columns of tables: whatever has places and a length."""
    listed = Reranker(encoder).rank("q", DOCUMENTS)
    for column in (tuple(DOCUMENTS), np.array(DOCUMENTS), Dataset.from_dict({"text": DOCUMENTS})["text"]):
        assert Reranker(encoder).rank("q", column, top_k=np.int64(6)) == listed


def test_no_documents_give_none(encoder):
    assert Reranker(encoder).rank("q", []) == []
