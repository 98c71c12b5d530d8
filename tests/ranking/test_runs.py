"""Run and qrels files: what is written is read again, and every mistake is named with its line."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.ranking import ranked, read_qrels, read_run, write_run

ir_measures = pytest.importorskip("ir_measures")

NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters=" \t\n\r\f\v"), min_size=1)
SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)
RUNS = st.dictionaries(NAMES, st.dictionaries(NAMES, SINGLES, min_size=1), min_size=1)


def as_singles(run):
    return {
        query: {name: np.float32(score) for name, score in scores.items()} for query, scores in run.items()
    }


@settings(deadline=None)
@given(RUNS)
def test_what_is_written_is_read_again(tmp_path_factory, run):
    path = write_run(tmp_path_factory.mktemp("runs") / "a.trec.gz", run, "tag")
    read = read_run(path)
    assert as_singles(read.run) == as_singles(run)
    assert read.lines == sum(map(len, run.values()))
    assert read.repeated == 0


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.floats(-3e38, 3e38), min_size=1))
def test_ranks_in_a_file_are_the_order_of_what_is_read(tmp_path_factory, scores):
    """Doubles too, of which several may be one float32."""
    path = write_run(tmp_path_factory.mktemp("runs") / "a.trec", {"q": scores}, "tag")
    columns = [line.split(" ") for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [int(rank) for _, _, _, rank, _, _ in columns] == list(range(1, len(scores) + 1))
    order = [document for _, _, document, _, _, _ in columns]
    assert order == [document for document, _ in ranked(read_run(path).run["q"])]
    assert order == [document for document, _ in ranked(scores)]


@settings(deadline=None)
@given(
    st.dictionaries(st.text("abcé", min_size=1), st.sampled_from([2.0, 1.0, 1.0 + 1e-12, -1.0]), min_size=2)
)
def test_the_order_is_that_of_trec_eval(scores):
    """Its reciprocal rank tells the rank of a document when it alone is relevant. 1 and 1 + 1e-12 tie."""
    ranks = {}
    for relevant in scores:
        qrels = {"q": {document: int(document == relevant) for document in scores}}
        (metric,) = ir_measures.pytrec_eval.iter_calc([ir_measures.RR], qrels, {"q": scores})
        ranks[relevant] = round(1 / metric.value)
    assert [document for document, _ in ranked(scores)] == sorted(scores, key=ranks.get)


def test_ranked_by_hand():
    assert ranked({"d1": 1.0, "d3": 2.0, "d2": 1.0}) == [("d3", 2.0), ("d2", 1.0), ("d1", 1.0)]
    assert ranked({}) == []
    with pytest.raises(DataError, match=r"nan, not finite in float32 \[document b\]"):
        ranked({"a": 1.0, "b": float("nan")})
    with pytest.raises(DataError, match="1e[+]39, not finite"):
        ranked({"a": 1e39})


def test_a_run_is_written_in_six_columns(tmp_path):
    path = write_run(tmp_path / "new" / "run.trec", {"7": {"a": 0.1, "b": np.float32(2.5)}, "8": {}}, "mine")
    assert path.read_text() == "7 Q0 b 1 2.5 mine\n7 Q0 a 2 0.1 mine\n"
    assert list(path.parent.iterdir()) == [path]


def test_gz_is_packed_and_always_the_same(tmp_path):
    first, second = (write_run(tmp_path / f"{name}.gz", {"7": {"a": 1.0}}, "mine") for name in "xy")
    assert gzip.decompress(first.read_bytes()) == b"7 Q0 a 1 1.0 mine\n"
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4)  # no time of writing


def test_a_run_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = write_run(tmp_path / "run.trec", {"7": {"a": 1.0}}, "mine")
    for run, message in (
        ({"7": {"a": 1.0}, "8": {"b": float("inf")}}, "not finite"),
        ({"7": {"a b": 1.0}}, r"'a b' can't stand in a column \[query '7'\]"),
        ({"": {"a": 1.0}}, "'' can't stand"),
    ):
        with pytest.raises(DataError, match=message):
            write_run(path, run, "mine")
    with pytest.raises(ConfigError, match="the tag of a run is 'my run'"):
        write_run(path, {}, "my run")
    assert path.read_text() == "7 Q0 a 1 1.0 mine\n"
    assert list(tmp_path.iterdir()) == [path]


def test_repeated_lines_are_counted(tmp_path):
    path = tmp_path / "run.trec"
    path.write_text("1 Q0 a 1 2.50 x\n\n1 Q0 a 1 2.5 x\n1\tQ0  b 2 -1e-3 x\n")
    read = read_run(path)
    assert (read.run, read.lines, read.repeated) == ({"1": {"a": 2.5, "b": -0.001}}, 2, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 Q0 b 2 1.5", "the line has 5 columns: '1 Q0 b 2 1.5'.*give 6"),
        ("1 Q0 b c 2 1.5 x", "the line has 7 columns"),
        ("1 Q0 b 2 x 1.5", "score 'x' is no finite number"),
        ("1 Q0 b 2 nan x", "score 'nan' is no finite number"),
        ("1 Q0 b 2 inf x", "score 'inf' is no finite number"),
        ("1 Q0 b 2 1e39 x", "score '1e39' is no finite number"),
        ("1 Q0 b 2 1_0 x", "score '1_0' is no finite number"),
        ("1 Q0 a 2 3.5 x", "document 'a' has 3.5 here and 2.5 before.*keep one"),
    ],
)
def test_a_bad_line_of_a_run_is_named(tmp_path, line, message):
    path = tmp_path / "run.trec"
    path.write_text(f"1 Q0 a 1 2.5 x\n{line}\n")
    with pytest.raises(DataError, match=message) as raised:
        read_run(path)
    assert raised.value.where == f"{path}, line 2"
    assert raised.value.fix


def test_qrels_of_trec_and_of_beir_are_the_same(tmp_path):
    trec, beir = tmp_path / "qrels.trec.gz", tmp_path / "test.tsv"
    trec.write_bytes(gzip.compress(b"1 0 a 2\n1 0 b -1\n2 Q0 a 0\n2 0 a 0\n"))
    beir.write_text("query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t-1\n2\ta\t0\n")
    wanted = {"1": {"a": 2, "b": -1}, "2": {"a": 0}}
    assert read_qrels(trec).qrels == read_qrels(beir).qrels == wanted
    assert (read_qrels(trec).lines, read_qrels(trec).repeated) == (3, 1)
    assert (read_qrels(beir).lines, read_qrels(beir).repeated) == (3, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 a 2\n1 0 b\n", "3 columns.*give 4, divided by white space: query id, iteration"),
        ("1 0 a 2\n1 0 b 1.0\n", "grade '1.0' is no whole number"),
        ("1 0 a 2\n1 0 a 1\n", "has 1 here and 2 before"),
        ("query-id\tcorpus-id\tscore\n1\ta\n", "2 columns.*give 3, divided by white space: query-id"),
    ],
)
def test_a_bad_line_of_qrels_is_named(tmp_path, text, message):
    path = tmp_path / "qrels.trec"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        read_qrels(path)
    assert raised.value.where == f"{path}, line 2"


@pytest.mark.parametrize(("read", "line"), [(read_run, b"1 Q0 a 1 2.5 x\n"), (read_qrels, b"1 0 a 2\n")])
def test_files_that_are_none(tmp_path, read, line):
    (tmp_path / "empty").write_text("")
    (tmp_path / "blank").write_text("\n \n")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(line * 9)[:-9])
    (tmp_path / "packed").write_bytes(gzip.compress(line))
    (tmp_path / "latin").write_bytes("1 Q0 \xe9 1 2.5 x\n".encode("latin-1"))
    for name, message in (
        ("nowhere", "there is no such file"),
        ("empty", "there are no rows"),
        ("blank", "no line has a document"),
        ("cut.gz", "the gzip file is broken"),
        ("latin", "0xe9, is not UTF-8 .*line 1.*in UTF-8; if it is packed with gzip, name it .gz"),
        ("packed", "0x8b, is not UTF-8.*if it is packed with gzip, name it .gz"),
    ):
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)
