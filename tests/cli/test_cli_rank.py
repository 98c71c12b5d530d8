"""`rank`, `candidates` and `train --collection`: a collection in, a run out, and what a user gets wrong."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_encoder.ranking import Bm25Index, Reranker, ranked, read_run, write_run
from gemma_encoder.ranking.collection import open_collection
from gemma_encoder.ranking.list_files import read_lists

ROOT = Path(__file__).resolve().parents[2]
QUERIES = {"q1": "the money bank", "q2": "a river", "q3": "good film", "q4": "money film"}
CORPUS = {
    "d1": "money in the bank",
    "d2": "the river bank",
    "d3": "a good film",
    "d4": "a film of money",
    "d5": "money in the bank",  # as d1
    "d6": "",
}
QRELS = {"q1": {"d1": 2, "d5": 1, "d9": 1}, "q2": {"d2": 1}, "q3": {"d3": 1}, "q9": {"d1": 1}}
RUN = {
    "q1": {"d1": 3.0, "d2": 2.0, "d5": 1.0, "d6": 0.5},
    "q2": {"d4": 2.0, "d1": 1.0},
    "q3": {"d4": 1.0, "d3": 0.5},
}


@pytest.fixture(scope="module")
def model(adapt):
    return adapt("--problem_type", "regression", "--labels", "relevance", "--pairs")


@pytest.fixture
def beir(tmp_path, monkeypatch):
    monkeypatch.setenv("GEMMA_ENCODER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("queries", QUERIES), ("corpus", CORPUS)):
        lines = [json.dumps({"_id": each, "text": text}) + "\n" for each, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    lines = [f"{q}\t{d}\t{grade}\n" for q, grades in QRELS.items() for d, grade in grades.items()]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    write_run(folder / "run.trec", RUN, "first")
    return folder


@pytest.fixture
def command(beir, model, tmp_path):
    words = ["rank", "--model", model, "--collection", beir, "--run", beir / "run.trec"]
    return [*words, "--out", tmp_path / "out.trec"]


def test_what_ranking_does_not_use_is_not_loaded(command, nothing_needless):
    nothing_needless(*command)


def test_a_run_is_ranked_again(run, command, model, tmp_path):
    status, _, err = run(*command)
    assert status == 0, err
    assert "3 queries, 8 documents ranked" in err and "gemma-encoder evaluate --run" in err
    written = read_run(tmp_path / "out.trec").run
    assert {query: set(scores) for query, scores in written.items()} == {q: set(s) for q, s in RUN.items()}
    reranker = Reranker.from_pretrained(model)
    for query, scores in written.items():
        names = list(scores)
        expected = {
            names[e.index]: e.score for e in reranker.rank(QUERIES[query], [CORPUS[n] for n in names])
        }
        np.testing.assert_allclose(
            [scores[name] for name in names], [expected[name] for name in names], atol=1e-5
        )
    assert written["q1"]["d1"] == written["q1"]["d5"]  # the same text, scored once
    lines = [line.split() for line in (tmp_path / "out.trec").read_text().splitlines()]
    assert [line[2] for line in lines if line[0] == "q1"] == [name for name, _ in ranked(written["q1"])]
    assert {line[5] for line in lines} == {model.name}


def test_queries_that_leave_no_room_are_told(run, model, decoder_folder, tmp_path):
    """Their documents are cut off whole and tie, which `texts cut` alone does not say."""
    long = "a river " * 400
    records = [
        {"query": query, "documents": ["money", "film"], "labels": [1, 0]}
        for query in ("money", f"{long} money", f"{long} film")
    ]
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    words = ["rank", "--model", model, "--lists", path, "--out", tmp_path / "out.trec"]
    told = "2 queries leave no room for their document"
    status, printed, err = run(*words, "--dry_run")
    assert status == 0 and told in printed, err + printed
    status, _, err = run(*words)
    assert status == 0 and told in err and "raise max_length" in err
    words = ["train", "--model", decoder_folder, "--train_lists", path, *FAST, "--output", tmp_path / "out"]
    words += ["--validation_fraction", 0.34]
    status, printed, err = run(*words)
    assert status == 0 and told in printed, err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["data"]["no_room"] == 2


def test_only_judged_queries_are_ranked_where_judgments_are_named(run, command, tmp_path):
    status, _, err = run(*command, "--qrels", "test", "--depth", 1, "--tag", "best")
    assert status == 0, err
    assert list(read_run(tmp_path / "out.trec").run) == ["q1", "q2", "q3"]
    assert read_run(tmp_path / "out.trec").lines == 3


def test_bm25_finds_the_candidates_and_keeps_its_index(run, command, beir, tmp_path, capfd):
    words = [word for word in command if word != "--run" and word != beir / "run.trec"]
    words += [
        "--first_stage",
        "bm25",
        "--first_stage_output",
        tmp_path / "bm25.trec",
        "--index",
        tmp_path / "index",
    ]
    status, _, err = run(*words, "--depth", 2)
    assert status == 0, err
    found = read_run(tmp_path / "bm25.trec").run
    searched = Bm25Index(tmp_path / "index").search(QUERIES, top_k=2)
    assert {q: list(scores) for q, scores in found.items()} == {q: list(s) for q, s in searched.items()}
    assert set(found) == set(QUERIES)
    reranked = read_run(tmp_path / "out.trec").run
    assert {query: set(scores) for query, scores in reranked.items()} == {q: set(s) for q, s in found.items()}
    (beir / "corpus.jsonl").write_text('{"_id": "x", "text": "money"}\n')  # another corpus: another index
    status, _, err = run(*words, "--overwrite")
    assert status == 0, err
    assert read_run(tmp_path / "out.trec").run.keys() == {"q1", "q4"}


def test_lists_are_ranked_too(run, model, tmp_path):
    records = [
        {"query_id": q, "query": text, "documents": list(CORPUS.values())} for q, text in QUERIES.items()
    ]
    (tmp_path / "lists.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    words = ["rank", "--model", model, "--lists", tmp_path / "lists.jsonl", "--out", tmp_path / "out.trec.gz"]
    status, printed, err = run(*words, "--dry_run")
    assert status == 0 and "Would rank" in printed and not (tmp_path / "out.trec.gz").exists(), err
    status, _, err = run(*words)
    assert status == 0, err
    assert gzip.decompress((tmp_path / "out.trec.gz").read_bytes()).count(b"\n") == 4 * 5


@pytest.mark.parametrize("kept", [0, 1, 5, 7])
def test_a_killed_run_is_gone_on_with(run, refused, command, tmp_path, kept):
    assert run(*command)[0] == 0
    whole = (tmp_path / "out.trec").read_bytes()
    (tmp_path / "out.trec").unlink()
    (tmp_path / "out.trec.part").write_bytes(b"".join(whole.splitlines(True)[:kept]) + b"q3 Q0 d")
    assert "An interrupted run left" in refused(*command)
    left = (tmp_path / "out.trec.part").read_bytes()
    assert run(*command, "--resume", "--dry_run")[0] == 0
    assert (tmp_path / "out.trec.part").read_bytes() == left
    status, _, err = run(*command, "--resume")
    assert status == 0, err
    queries, documents = {0: (0, 0), 1: (0, 0), 5: (1, 4), 7: (2, 6)}[kept]
    assert f"{3 - queries} queries, {8 - documents} documents ranked" in err
    assert (f", and {queries} queries, {documents} documents before" in err) == bool(queries)
    assert (tmp_path / "out.trec").read_bytes() == whole and not (tmp_path / "out.trec.part").exists()


def test_another_model_does_not_go_on(run, refused, command, adapt, tmp_path):
    assert run(*command)[0] == 0
    (tmp_path / "out.trec").rename(tmp_path / "out.trec.part")
    other = adapt("--problem_type", "regression", "--labels", "relevance", "--pairs", "--seed", "7")
    words = [other if word == command[2] else word for word in command]
    assert "written by another model" in refused(*words, "--resume")
    assert "of other candidates" in refused(*command, "--resume", "--depth", "1")


@pytest.mark.parametrize("last", [["money"], ["a film", "a film"]])
def test_a_last_query_without_a_spread_is_gone_on_behind(run, refused, model, adapt, tmp_path, last):
    """It says little of the model; an earlier one does, and another model is still refused."""
    documents = [["money bank", "a river", "good film"], last, ["a", "b"]]
    records = [{"query_id": str(n), "query": "money", "documents": each} for n, each in enumerate(documents)]
    for record in records:
        names = range(len(record["documents"]))
        record["documents"] = [{"id": f"d{n}", "text": record["documents"][n]} for n in names]
    path, out = tmp_path / "lists.jsonl", tmp_path / "out.trec"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    words = ["rank", "--lists", path, "--out", out, "--max_tokens", 16]
    assert run(*words, "--model", model)[0] == 0
    whole = out.read_bytes()
    out.rename(tmp_path / "out.trec.part")
    part = b"".join(line for line in whole.splitlines(True) if not line.startswith(b"2 "))
    (tmp_path / "out.trec.part").write_bytes(part)
    other = adapt("--problem_type", "regression", "--labels", "relevance", "--pairs", "--seed", "7")
    assert "written by another model" in refused(*words, "--model", other, "--resume")
    status, _, err = run(*words, "--model", model, "--resume", "--max_tokens", 4096)
    assert status == 0, err
    assert [line.split()[:3] for line in out.read_bytes().splitlines()] == [
        line.split()[:3] for line in whole.splitlines()
    ]


def test_what_was_ranked_before_a_bad_list_is_kept(run, model, tmp_path):
    records = [{"query_id": name, "query": "money", "documents": ["a", "b"]} for name in ("1", "2", "2", "3")]
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    words = ["rank", "--model", model, "--lists", path, "--out", tmp_path / "out.trec"]
    status, _, err = run(*words)
    assert status == 2 and "query '2' comes twice" in err and "go on with --resume" in err
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records[:2], records[3]]))
    assert run(*words, "--resume")[0] == 0
    assert list(read_run(tmp_path / "out.trec").run) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("files", "words", "says"),
    [
        (
            {"run.trec": "q1 Q0 d8 1 2.0 x\nq7 Q0 d1 1 1.0 x\n"},
            [],
            "1 queries and 1 documents of the run have no text",
        ),
        ({"run.trec": "q1 Q0 d1 1 high x\n"}, [], "score 'high' is no finite number"),
        ({"run.trec": "q1 Q0 d1 1 2.0 x\nq1 Q0 d1 2 1.0 x\n"}, [], "line 2"),
        ({"run.trec": "q1 d1 2.0\n"}, [], "the line has 3 columns"),
        ({"run.trec": ""}, [], "there are no rows"),
        ({"corpus.jsonl": '{"_id": "d1", "text": "a"}\n' * 2}, [], "document 'd1' comes twice"),
        ({"corpus.jsonl": '{"_id": "d1"}\n'}, [], "a line has no id or no text"),
        ({"queries.jsonl": '{"_id": "q1", "text": " "}\n'}, [], "query 'q1' has no text"),
        (
            {"qrels/test.tsv": "1 0 d1 1\n"},
            ["--qrels", "test"],
            "no query has judgments (queries: 'q1', 'q2', 'q3'; ",
        ),
        ({}, ["--qrels", "dev"], "there is no such file of judgments"),
        ({}, ["--collection", "nowhere"], "there is no such folder"),
        ({}, ["--first_stage", "bm25"], "both say where candidates come from"),
        ({}, ["--index", "x"], "--index does nothing here"),
        ({}, ["--depth", "0"], "depth is 0"),
        ({}, ["--lists", "x.jsonl"], "does nothing here: --lists brings"),
        ({}, ["--resume", "--overwrite"], "give one of them"),
        ({}, ["--tag", "two words"], "give one word"),
        ({}, ["--collection", "irds:no/such-set"], "ir_datasets has no such data set"),
    ],
)
def test_mistakes_are_one_line(refused, command, beir, tmp_path, files, words, says):
    for name, content in files.items():
        (beir / name).write_text(content)
    assert says in refused(*command, *words)
    assert not (tmp_path / "out.trec").exists()


def test_what_has_no_text_can_be_left_out(run, command, beir, tmp_path):
    (beir / "run.trec").write_text("q1 Q0 d8 1 2.0 x\nq1 Q0 d1 1 2.0 x\nq7 Q0 d1 1 1.0 x\nq1 Q0 d1 3 2.0 x\n")
    status, _, err = run(*command, "--skip_missing")
    assert status == 0, err
    assert "1 repeated line passed over" in err
    assert "1 queries without text left out; 3 queries without candidates; 1 candidates without text" in err
    assert read_run(tmp_path / "out.trec").run.keys() == {"q1"}


def test_what_is_left_out_is_told(run, command, beir, tmp_path):
    """q9 is judged and has no text, q4 has no candidates, q2 no judgments; d6 is empty, d9 not there."""
    judgments = "q1 0 d1 1\nq1 0 d1 1\nq1 0 d9 0\nq3 0 d3 1\nq4 0 d1 0\nq9 0 d1 1\n"
    (tmp_path / "judged.trec").write_text(judgments)
    status, _, err = run(*command, "--qrels", tmp_path / "judged.trec", "--dry_run")
    assert status == 0, err
    assert (
        "1 repeated lines of judgments passed over; 1 documents of the corpus are empty; "
        "1 judged queries without text left out; 1 queries of the run without judgments left out; "
        "1 queries without candidates; 1 judgments of documents without text\n"
    ) in err
    status, _, err = run(*command, "--dry_run")
    assert status == 0 and "1 documents of the corpus are empty; 1 queries without candidates\n" in err


def test_empty_documents_of_a_file_are_told(run, model, tmp_path):
    path = tmp_path / "lists.jsonl"
    path.write_text('{"query": "q", "documents": ["a bank", "", "  "]}\n')
    words = ["rank", "--model", model, "--lists", path, "--out", tmp_path / "out.trec", "--dry_run"]
    status, _, err = run(*words)
    assert status == 0 and "lists.jsonl: 2 documents without a text" in err


def test_nothing_to_rank_and_no_candidates(refused, model, beir, tmp_path, encoder_folder):
    out = ["--out", tmp_path / "out.trec"]
    assert "Nothing to rank" in refused("rank", "--model", model, *out)
    words = ["--collection", beir, *out]
    assert "nothing says which documents compete" in refused("rank", "--model", model, *words)
    assert "takes one text" in refused("rank", "--model", encoder_folder, *words)


def test_candidates_with_judgments(run, beir, tmp_path):
    words = [
        "candidates",
        "--collection",
        beir,
        "--run",
        beir / "run.trec",
        "--output",
        tmp_path / "lists.jsonl.gz",
    ]
    status, _, err = run(*words)
    assert status == 0, err
    assert "3 lists, 9 documents (4 of them relevant) written" in err
    assert "1 relevant documents were no candidates and were added; 1 relevant documents have no text" in err
    lists = {each.query_id: each for each in read_lists(tmp_path / "lists.jsonl.gz")}
    assert lists["q1"].document_ids == ("d1", "d2", "d5", "d6") and lists["q1"].labels == (2, 0, 1, 0)
    assert lists["q2"].document_ids == ("d4", "d1", "d2") and lists["q2"].documents[2] == CORPUS["d2"]


def test_candidates_with_teachers(run, refused, beir, tmp_path):
    write_run(
        tmp_path / "teacher.trec", {q: {d: -s for d, s in scores.items()} for q, scores in RUN.items()}, "t"
    )
    words = [
        "candidates",
        "--collection",
        beir,
        "--run",
        beir / "run.trec",
        "--output",
        tmp_path / "lists.jsonl",
    ]
    status, _, err = run(*words, "--teachers", tmp_path / "teacher.trec", "--depth", 3)
    assert status == 0, err
    lists = {each.query_id: each for each in read_lists(tmp_path / "lists.jsonl")}
    assert lists["q3"].document_ids == ("d4", "d3") and lists["q3"].labels == (-1, 1)
    assert "The output exists" in refused(*words)
    words += ["--teachers", tmp_path / "teacher.trec", "--missing_positives", "leave"]
    assert "--missing_positives does nothing here" in refused(*words)


def test_fused_runs_are_candidates(run, beir, tmp_path):
    write_run(tmp_path / "other.trec", {"q2": {"d2": 5.0}}, "t")
    words = ["candidates", "--collection", beir, "--output", tmp_path / "lists.jsonl"]
    assert run(*words, "--run", f"{beir / 'run.trec'},{tmp_path / 'other.trec'}")[0] == 0
    lists = {each.query_id: each for each in read_lists(tmp_path / "lists.jsonl")}
    assert lists["q2"].document_ids == ("d4", "d2", "d1")


FAST = ["--epochs", 1, "--batch_size", 2, "--max_length", 32, "--bf16", "false", "--head.width", 8]


def test_a_collection_is_trained_on(run, refused, decoder_folder, beir, tmp_path):
    words = ["train", "--model", decoder_folder, "--collection", beir, "--first_stage", "bm25", *FAST]
    words += ["--output", tmp_path / "out", "--validation_fraction", 0.34]
    status, printed, err = run(*words)
    assert status == 0, err
    assert "ranking: 2 lists to train on" in err and "ndcg@10" in printed
    assert f"gemma-encoder rank --model {tmp_path / 'out'} --lists FILE" in printed
    assert "gemma-encoder predict" not in printed  # which takes pairs, not lists
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["data"]["train_source"] == f"{beir}, bm25"
    unseen = tmp_path / "unseen.tsv"
    unseen.write_text("77\tA  RIVER\n")
    said = refused(*words, "--overwrite", "--unseen_queries", unseen)
    assert "1 of the queries would be both trained on and kept unseen" in said and "'a river'" in said


def test_bundled_collections_have_names():
    cranfield = open_collection("cranfield", qrels="test")
    assert (len(cranfield.queries), len(cranfield.corpus)) == (225, 1400)
    train = open_collection("cranfield", qrels="train").judged_queries()
    assert len(train) == 150 and len(cranfield.judged_queries()) == 75
    assert not train.keys() & cranfield.judged_queries().keys()
    assert not set(train.values()) & set(cranfield.judged_queries().values())


def test_the_recipe_of_ms_marco_takes_a_file_of_the_same_form(run, decoder_folder, tmp_path):
    records = [
        {"query": f"query {place}", "positive": ["money"], "negative": [f"river {n}" for n in range(60)]}
        for place in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "lists.parquet")
    words = [
        "--config",
        ROOT / "recipes" / "msmarco_rankt5.yaml",
        "--train_lists",
        tmp_path / "lists.parquet",
    ]
    status, printed, err = run("train", *words, "--model", decoder_folder, "--dry_run")
    assert status == 0, err
    assert "3 to train on; at most 36 documents of each, 1 relevant" in printed
    facts = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in printed.splitlines()[1:])
    assert (facts["train rows"], facts["validation rows"]) == ("108", "61")
    assert facts["learning rate"] == "1e-05, pooler and head 0.0001"


def test_the_recipes_of_the_ranking_quickstart_go_one_after_the_other(
    run, decoder_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GEMMA_ENCODER_CACHE", str(tmp_path / "cache"))
    pairs, reranker = tmp_path / "pairs", tmp_path / "reranker"
    small = ["--bf16", "false", "--args.max_steps", 2]
    words = ["train", "--config", "recipes/quickstart_similarity.yaml", "--model", decoder_folder, *small]
    assert run(*words, "--max_train_rows", 16, "--output", pairs)[0] == 0
    words = ["train", "--config", "recipes/quickstart_ranking.yaml", "--model", pairs, *small]
    status, printed, err = run(*words, "--output", reranker)
    assert status == 0, err
    assert "147 lists to train on" in err and "ndcg@10" in printed
    config = Reranker.from_pretrained(reranker).encoder.config
    assert (config.warm_start, config.problem_type) == (("pairs",), "ranking")
    words = ["rank", "--model", reranker, "--collection", "cranfield", "--qrels", "test", "--depth", 20]
    status, printed, err = run(*words, "--first_stage", "bm25", "--output", tmp_path / "o", "--dry_run")
    assert status == 0, err
    assert "1,500" in printed
