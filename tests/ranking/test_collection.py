"""BEIR's layout, and a run over it as lists: what is missing is added, left out, counted or refused."""

import gzip
import json

import pytest

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.ranking.collection import CHUNK, Corpus, find_file, read_queries
from gemma_encoder.ranking.learning import hold_out
from gemma_encoder.ranking.run_lists import RunLists

CORPUS = {"d1": "a bank", "d2": "River wet", "d3": "money", "d4": ""}
QUERIES = {"q1": "what is a bank", "q2": "where is water", "q3": "why"}
RUN = {"q1": {"d1": 3.0, "d2": 5.0, "d4": 3.0}, "q2": {"d1": 1.0, "d3": 0.5}}
QRELS = {"q1": {"d1": 2, "d3": 1, "d9": 1}, "q2": {"d2": 0, "d1": -1}}


@pytest.fixture
def beir(tmp_path):
    records = [{"_id": name, "title": "", "text": text} for name, text in CORPUS.items()]
    records[1] |= {"title": "River", "text": "wet"}
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "queries.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in QUERIES.items()))
    return tmp_path


def test_a_folder_of_beir(beir):
    corpus, queries = Corpus(find_file(beir, "corpus")), read_queries(find_file(beir, "queries"))
    assert dict(corpus) == CORPUS and queries == QUERIES
    assert len(corpus) == 4 and corpus.empty == 1 and "d9" not in corpus
    with pytest.raises(KeyError):
        corpus["d9"]
    with pytest.raises(DataError, match=r"there is no qrels.*add qrels\.jsonl"):
        find_file(beir, "qrels")


def test_a_corpus_of_several_chunks(tmp_path):
    path = tmp_path / "corpus.tsv"
    path.write_text("".join(f"{number}\ttext {number}\n" for number in range(CHUNK + 3)))
    corpus = Corpus(path)
    assert len(corpus) == CHUNK + 3
    assert [corpus[str(place)] for place in (0, CHUNK - 1, CHUNK, CHUNK + 2)] == [
        f"text {place}" for place in (0, CHUNK - 1, CHUNK, CHUNK + 2)
    ]


def test_candidates_come_in_the_order_of_the_run_with_their_grades():
    lists = RunLists(RUN, QUERIES, CORPUS, QRELS)
    assert [(each.query_id, each.document_ids, each.labels) for each in lists] == [
        ("q1", ("d2", "d4", "d1"), (0.0, 0.0, 2.0)),  # ties by document id, descending, as trec_eval
        ("q2", ("d1", "d3"), (0.0, 0.0)),
    ]
    assert lists[0].query == QUERIES["q1"] and lists[0].documents == ("River wet", "", "a bank")
    assert lists.gaps.missing_positives == 2 and lists.gaps.queries_without_positive == 1
    assert [each.document_ids for each in RunLists(RUN, QUERIES, CORPUS, depth=1)[:]] == [("d2",), ("d1",)]
    assert RunLists(RUN, QUERIES, CORPUS)[0].labels is None


def test_positives_that_the_run_lacks_are_added_for_training():
    lists = RunLists(RUN, QUERIES, CORPUS, QRELS, missing_positives="add", with_positives_only=True, depth=2)
    assert [(each.document_ids, each.labels) for each in lists] == [(("d2", "d4", "d1", "d3"), (0, 0, 2, 1))]
    assert lists.gaps.missing_positives == 3  # d9 has no text, so it can't be added


def test_added_positives_are_not_judged_by():
    run = {"q1": {"d2": 5.0, "d4": 3.0}, "q2": {"d1": 1.0, "d3": 0.5}, "q3": {"d9": 1.0}}
    qrels = {"q1": {"d1": 2}, "q2": {"d3": 1, "d2": 1}, "q3": {"d1": 1}}
    lists = RunLists(run, QUERIES, CORPUS, qrels, missing_positives="add", strict=False)
    assert [len(each) for each in lists] == [3, 3, 1]
    judged = lists.to_judge([0, 2, 1])
    assert [(each.document_ids, each.labels) for each in judged] == [
        (("d2", "d4"), (0, 0)),
        (("d1", "d3"), (0, 1)),
    ]
    kept, held = hold_out(lists, 0.4, seed=0)
    assert len(kept) == 2 and {len(each) for each in held} <= {2}
    assert max(len(each) for each in kept) == 3


def test_what_has_no_text_is_refused_or_counted():
    run = RUN | {"q9": {"d1": 1.0}, "q3": {"d8": 1.0, "d7": 2.0}}
    with pytest.raises(DataError, match="1 queries and 2 documents.*query q9, document d7 of query q3"):
        RunLists(run, QUERIES, CORPUS, QRELS)
    lists = RunLists(run, QUERIES, CORPUS, QRELS, strict=False)
    assert [each.query_id for each in lists] == ["q1", "q2"]
    assert (lists.gaps.queries_without_text, lists.gaps.documents_without_text) == (1, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"depth": 0}, "depth is 0"), ({"missing_positives": "keep"}, "use one of add, leave")],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        RunLists(RUN, QUERIES, CORPUS, QRELS, **options)


def test_nothing_to_rank_is_refused():
    with pytest.raises(DataError, match="no query of the run has candidates"):
        RunLists({}, QUERIES, CORPUS)


def test_no_relevant_document_is_said_to_be_the_cause():
    with pytest.raises(DataError, match="none of the 2 queries with candidates has a relevant one"):
        RunLists(RUN, QUERIES, CORPUS, {"q1": {"d1": 0}}, with_positives_only=True)


A = '{"_id": "a", "text": "x"}'


@pytest.mark.parametrize(
    ("lines", "read", "says"),
    [
        ([A, A.replace('"x"', '"y"')], Corpus, "document 'a' comes twice.*line 2"),
        (['{"_id": 1, "text": "x"}', '{"_id": "1", "text": "y"}'], Corpus, "document '1' comes twice"),
        (['{"text": "x"}'], Corpus, "no id or no text; its columns are text"),
        (['{"_id": "a"}'], Corpus, "no id or no text; its columns are _id"),
        ([A, '{"_id": "b", "text": " "}'], read_queries, "query 'b' has no text.*line 2"),
        ([A, A], read_queries, "query 'a' comes twice"),
        (['{"_id": "a", "text"'], read_queries, "line 1"),
    ],
)
def test_bad_lines_are_named(tmp_path, lines, read, says):
    path = tmp_path / "file.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=says):
        read(path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a\ttitle\tx", "3 fields, without a header they are _id, text.*line 1"),
        ("docid\tbody", "no id or no text"),
    ],
)
def test_a_first_line_of_another_form_is_not_lost(tmp_path, line, says):
    path = tmp_path / "corpus.tsv"
    path.write_text(f"{line}\nb\ty\n")
    with pytest.raises(DataError, match=says):
        Corpus(path)
