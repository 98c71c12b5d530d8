"""Lists of candidates from every form of file that rankers are trained on."""

import gzip
import json

import pytest
from datasets import Dataset, disable_progress_bars

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.ranking import list_files
from gemma_encoder.ranking.list_files import read_lists
from gemma_encoder.ranking.list_records import from_records
from gemma_encoder.ranking.lists import CandidateList
from gemma_encoder.ranking.sampling import ListSampling

disable_progress_bars()


@pytest.fixture
def write(tmp_path):
    def make(*records: dict, name: str = "lists.jsonl"):
        path = tmp_path / name
        text = "".join(json.dumps(record) + "\n" for record in records)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return make


def one(record: dict) -> CandidateList:
    (made,) = from_records([(1, record)], "memory")
    return made


def test_a_list_as_it_is_written(write):
    documents = [
        {"id": "d7", "text": "a bank", "label": 2},
        {"id": 9, "title": "River", "text": "wet", "label": 0},
    ]
    lists = read_lists(write({"query_id": 4, "query": "money", "documents": documents}, name="l.jsonl.gz"))
    assert len(lists) == 1 and lists.source.endswith("l.jsonl.gz")
    assert lists[0] == CandidateList("4", "money", ("d7", "9"), ("a bank", "River wet"), (2.0, 0.0))
    assert len(lists[0]) == 2 and [each.query for each in lists[:1]] == ["money"]


@pytest.mark.parametrize(
    "record",
    [
        {"query": "q", "pos": ["a"], "neg": ["b", "c"]},  # FlagEmbedding
        {"anchor": "q", "positive": "a", "negative_1": "b", "negative_2": "c"},  # sentence-transformers
        {"query": "q", "positive": "a", "negatives": ["b", "c"]},
        {"query": "q", "documents": ["a", "b", "c"], "labels": [1, 0, 0]},  # its rerankers
        {"query": "q", "docs": [{"text": text, "score": (text == "a" and 1) or 0} for text in "abc"]},
        {"query": "q", "positive_passages": [{"docid": "1", "title": "", "text": "a"}],
         "negative_passages": [{"docid": "2", "text": "b"}, {"docid": "3", "text": "c"}]},  # Tevatron
        {"query": "q", "passages": {"is_selected": [1, 0, 0], "passage_text": ["a", "b", "c"]}},  # MS MARCO
        {"query": "q", "docs": ["a", "b", "c"], "label": [True, False, False]},
        {"query": "q", "documents": [{"text": text, "label": str(int(text == "a"))} for text in "abc"]},
        {"question": "q", "answer": "a", "negative_1": "b", "negative_2": "c"},
        {"query": "q", "answer": "short", "pos": "a", "neg": ["b", "c"]},
        {"query": "q", "pos": ["a"], "neg": ["b", "c"], "pos_scores": None, "neg_scores": None},
        {"query": "q", "pos": ["a", "a"], "neg": ["b", "c", "b"]},  # what comes twice counts once
        {"query": "q", "pos": ["a"], "neg": ["b", "a", "c"]},  # a mined negative that is the positive
    ],
)  # fmt: skip
def test_the_forms_of_hard_negatives(record):
    made = one(record)
    assert (made.query, made.documents, made.labels) == ("q", ("a", "b", "c"), (1.0, 0.0, 0.0))
    assert len(set(made.document_ids)) == 3


def test_triples(tmp_path):
    path = tmp_path / "triples.tsv"
    path.write_text("what is it\ta bank\ta river\nand why\tmoney\twater\n")
    lists = read_lists(path)
    assert [(each.query, each.documents, each.labels) for each in lists] == [
        ("what is it", ("a bank", "a river"), (1.0, 0.0)),
        ("and why", ("money", "water"), (1.0, 0.0)),
    ]


@pytest.mark.parametrize("header", ["", "query\tpositive\tnegative\n"])
def test_triples_of_ids_are_not_learnt_as_texts(tmp_path, header):
    path = tmp_path / "qidpidtriples.tsv"
    path.write_text(header + "1185869\t1185869\t2942565\n")
    with pytest.raises(DataError, match=r"are numbers: 1185869, 1185869, 2942565.*--collection"):
        read_lists(path)


@pytest.mark.parametrize(
    ("name", "lines", "documents"),
    [
        ("st.csv", ["anchor,positive,negative", '"q, r",a,b'], ("a", "b")),
        ("st.tsv", ["question\tpositive\tnegative_1\tnegative_2", "q, r\ta\tb\tc"], ("a", "b", "c")),
        ("st.csv", ["query,positive,negative_1,negative_2", '"q, r",a,b,'], ("a", "b")),  # fewer negatives
        ("st.tsv", ["question\tpositives", "q, r\ta"], ("a",)),  # no column of the headerless triples
    ],
)
def test_tables_with_a_header(tmp_path, name, lines, documents):
    path = tmp_path / name
    path.write_text("".join(f"{line}\n" for line in lines))
    (made,) = read_lists(path)
    assert (made.query, made.documents) == ("q, r", documents)
    assert made.labels == (1.0,) + (0.0,) * (len(documents) - 1)


def test_a_headerless_first_line_of_other_columns_is_refused(tmp_path):
    path = tmp_path / "triples.tsv"
    path.write_text("what is\ta bank\td\te\nq\ta\tb\n")
    with pytest.raises(
        DataError, match=r"4 fields, without a header they are query, positive, negative.*line 1"
    ):
        read_lists(path)


def test_graded_labels_and_scores_of_a_teacher_are_kept():
    documents = [{"text": "a", "score": -3.25}, {"text": "b", "score": 7.5}]
    assert one({"query": "q", "documents": documents}).labels == (-3.25, 7.5)
    assert one({"query": "q", "documents": ["a", "b"]}).labels is None


@pytest.mark.parametrize(
    "record",
    [
        {"query": "q", "pos": ["a"], "neg": ["b", "c"], "pos_scores": [5.5], "neg_scores": [1, "-2"]},
        {"anchor": "q", "positive": "a", "negative_1": "b", "negative_2": "c", "scores": [5.5, 1, -2]},
        {"anchor": "q", "positive": "a", "negative_1": "b", "negative_2": "c", "label": [5.5, 1, -2]},
        {"query": "q", "pos": [{"text": "a", "score": 5.5}],
         "neg": [{"text": "b", "score": 1}, {"text": "c", "score": -2}]},
    ],
)  # fmt: skip
def test_scores_of_a_teacher_beside_positives_and_negatives(record):
    made = one(record)
    assert (made.documents, made.labels) == (("a", "b", "c"), (5.5, 1.0, -2.0))


@pytest.mark.parametrize("name", ["my lists.jsonl", "my lists.jsonl.gz"])
def test_queries_without_an_id_are_called_by_the_files_name(write, name):
    record = {"query": "q", "pos": ["a"], "neg": ["b"]}
    lists = read_lists(write(record, record, name=name))
    assert [each.query_id for each in lists] == ["my-lists-1", "my-lists-2"]


def test_a_changed_file_is_read_again(write):
    path = write({"query": "q", "pos": ["a"], "neg": ["b"]})
    assert len(read_lists(path)) == 1
    write({"query": "q", "pos": ["a"], "neg": ["b"]}, {"query": "r", "pos": ["a"], "neg": ["b"]})
    assert len(read_lists(path)) == 2


def test_a_file_is_read_again_by_another_parser(write, monkeypatch):
    path = write({"query": "q", "pos": ["a"], "neg": ["b"]})
    read_lists(path)
    calls = []
    monkeypatch.setattr(list_files, "from_records", lambda *args: calls.append(1) or from_records(*args))
    read_lists(path)
    assert not calls
    monkeypatch.setattr(list_files, "FORMAT", list_files.FORMAT + 1)
    read_lists(path)
    assert calls


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"text": "q"}, "no query"),
        ({"query": " ", "pos": ["a"]}, "'query' is empty"),
        ({"query": "q", "neg": ["b"]}, "neither documents nor a positive"),
        ({"query": "q", "documents": []}, "has no document"),
        ({"query": "q", "documents": "a"}, "'documents' is no list"),
        ({"query": "q", "documents": [3]}, "a document is 3"),
        ({"query": "q", "documents": [{"id": 1}]}, "make it a text, or an object with text"),
        ({"query": "q", "documents": ["a", "b"], "labels": [1]}, "2 documents do not have as many labels"),
        ({"query": "q", "documents": ["a"], "labels": ["high"]}, "a label is 'high'"),
        ({"query": "q", "documents": [{"text": "a", "label": 1}, {"text": "b"}]}, "some have none"),
        ({"query": ["q"], "pos": ["a"]}, "holds a list, not a text"),
        ({"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [1]}, "'neg_scores' is missing, for 1 doc"),
        (
            {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [1], "neg_scores": [1, 2]},
            "has 2 labels: 1 doc",
        ),
        ({"query": "q", "positive": "a", "negative": "b", "scores": [1]}, "has 1 labels: 2 documents"),
        (
            {"query": "q", "positive": "a", "negative": "b", "label": 0.7},
            "'label' is 0.7, no list, for 2 doc",
        ),
        ({"query": "q", "answer": "a", "label": 0}, "'label' is 0, no list, for 1 doc"),
        ({"query": "q", "pos": ["a"], "neg": [{"text": "b", "score": 1}]}, "some have none"),
        ({"query": "q", "documents": ["a"], "labels": ["nan"]}, "a label is 'nan'"),
        # Which of two documents with one id is meant, or whether a text is relevant, nobody can tell.
        (
            {"query": "q", "documents": [{"id": "d", "text": "a"}, {"id": "d", "text": "b"}]},
            "document 'd' comes",
        ),
        (
            {"query": "q", "documents": [{"id": 1, "text": "a"}, {"id": "1", "text": "b"}]},
            "document '1' comes",
        ),
        (
            {
                "query": "q",
                "documents": [{"id": "d", "text": "a", "label": 0}, {"id": "d", "text": "a", "label": 2}],
            },
            "document 'd' comes twice, with the labels 0.0 and 2.0",
        ),
        ({"query": "q", "documents": [{"id": "", "text": "a"}]}, "the id in 'id' is empty"),
        ({"query": "q", "documents": [{"id": ["x"], "text": "a"}]}, "'id' holds a list"),
        ({"query": "q", "query_id": " ", "pos": ["a"]}, "the id in 'query_id' is empty"),
    ],
)
def test_a_bad_record_is_named(write, record, says):
    path = write({"query": "q", "pos": ["a"], "neg": ["b"]}, record)
    with pytest.raises(DataError) as refused:
        read_lists(path)
    assert says in str(refused.value) and "lists.jsonl, record 2" in str(refused.value)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_lists(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="tell the format"):
        read_lists(tmp_path / "lists.docx")


def test_lists_of_the_hub_are_read_alike(monkeypatch):
    import datasets

    from gemma_encoder.ranking.list_files import hub_lists

    rows = Dataset.from_list([{"query": "q", "pos": ["a"], "neg": ["b"]}])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: rows)
    assert hub_lists("someone/triplets")[0].documents == ("a", "b")
    assert hub_lists("someone/triplets")[0].query_id == "triplets-0"


# ------------------------------------------------------------------------------------------------ sampling


def of_labels(*labels: float) -> CandidateList:
    names = tuple(map(str, range(len(labels))))
    return CandidateList("q", "query", names, names, tuple(labels))


def test_one_relevant_document_and_others_drawn_anew_each_epoch():
    candidates = of_labels(*([2, 1, 3] + [0] * 97))
    sampling = ListSampling(size=36)
    drawn = [sampling.draw(candidates, 0, epoch, 5) for epoch in range(40)]
    for each in drawn:
        assert len(each) == 36 and sum(label > 0 for label in each.labels) == 1
        assert [candidates.labels[int(name)] for name in each.document_ids] == list(each.labels)
    assert {max(each.labels) for each in drawn} == {1, 2, 3}, "every relevant document has its turn"
    seen = {name for each in drawn for name in each.document_ids}
    assert len(seen) == 100
    assert drawn[3] == sampling.draw(candidates, 0, 3, 5)
    assert len({each.document_ids for each in drawn}) == 40
    assert drawn[3] != sampling.draw(candidates, 1, 3, 5) != sampling.draw(candidates, 1, 3, 6)


@pytest.mark.parametrize(
    ("labels", "sampling", "relevant"),
    [
        ([1] * 9 + [0], ListSampling(size=4), 3),  # too few others: relevant ones fill the rest
        ([0] * 10, ListSampling(size=4), 0),
        ([1] * 5 + [0] * 5, ListSampling(size=4, positives=2), 2),
        ([1] + [0] * 9, ListSampling(size=4, positives=3), 1),
        ([1, 0, 1], ListSampling(size=4), 2),  # shorter than asked for: whole
        ([1] * 3 + [0] * 7, ListSampling(size=None), 3),
    ],
)
def test_lists_that_have_too_few(labels, sampling, relevant):
    drawn = sampling.draw(of_labels(*labels), 0, 0, 0)
    assert len(drawn) == min(len(labels), sampling.size or 99)
    assert sum(label > 0 for label in drawn.labels) == relevant
    assert len(set(drawn.document_ids)) == len(drawn)


def test_uniform_sampling_does_not_look_at_labels():
    candidates = of_labels(*range(50))
    drawn = [ListSampling(10, "uniform").draw(candidates, 0, epoch, 0) for epoch in range(200)]
    zeros = sum(0.0 in each.labels for each in drawn)
    assert 20 <= zeros <= 60  # binomial, 200 x 1/5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 1}, "at least 2"),
        ({"kind": "best"}, "positives, uniform"),
        ({"positives": 36}, "less than size"),
    ],
)
def test_bad_sampling_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        ListSampling(**options)
