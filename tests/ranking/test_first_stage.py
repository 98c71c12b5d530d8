"""BM25 against its formula written out in numpy; an index on disk is whole, and of what it says it is."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.ranking import Bm25Index, Bm25Options, bm25_index, first_stage

pytest.importorskip("bm25s")
stemming = pytest.importorskip("Stemmer")

CORPUS = [
    ("d01", "The cat sat on the mat, and the other cats were sitting there."),
    ("d02", "A dog chased the cat."),
    ("d03", "Dogs and cats living together: mass hysteria!"),
    ("d04", "The mat was woven from coarse wool by a weaver."),
    ("d05", "Weaving wool is an old craft; weavers sit at looms."),
    ("d06", "Mass is not weight, though a scale measures both."),
    ("d07", ""),
    ("d08", "Cat"),
    ("d09", "A chase scene with a dog, a dog and a dog."),
    ("d10", "An encoder reads a text and gives a score."),
    ("d11", "Scores of encoders are read from texts."),
    ("d12", "Cat"),
]
QUERIES = {
    "q1": "cats",
    "q2": "a dog chasing dogs",
    "q3": "weaver of wool mats",
    "q4": "Encoder scores!",
    "q5": "mass hysteria dog mass",
}
LUCENE_STOP_WORDS = re.findall(
    r"\w+",
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these "
    "they this to was will with",
)


def words(text: str, options: Bm25Options) -> list[str]:
    found = re.findall(r"\w\w+", text.lower())
    if options.stop_words == "english":
        found = [word for word in found if word not in LUCENE_STOP_WORDS]
    return found if options.stemmer is None else stemming.Stemmer(options.stemmer).stemWords(found)


def written_out(query: str, options: Bm25Options, corpus=CORPUS) -> dict[str, float]:
    """Kamphuis et al. 2020, table 1: a sum over the words of the query."""
    documents = {name: Counter(words(text, options)) for name, text in corpus}
    lengths = {name: counts.total() for name, counts in documents.items()}
    average, total = np.mean(list(lengths.values())), len(corpus)
    scores = dict.fromkeys(documents, 0.0)
    for word in words(query, options):
        having = sum(counts[word] > 0 for counts in documents.values())
        if not having:
            continue
        idf = {
            "lucene": math.log(1 + (total - having + 0.5) / (having + 0.5)),
            "robertson": max(0.0, math.log((total - having + 0.5) / (having + 0.5))),
            "atire": math.log(total / having),
        }[options.method]
        for name, counts in documents.items():
            slowed = options.k1 * (1 - options.b + options.b * lengths[name] / average)
            gain = counts[word] / (counts[word] + slowed)
            scores[name] += idf * gain * (options.k1 + 1 if options.method == "atire" else 1)
    return {name: score for name, score in scores.items() if score > 0}


@pytest.mark.parametrize(
    "options",
    [
        Bm25Options(),
        Bm25Options(k1=1.5, b=0.75, stemmer=None),
        Bm25Options(method="atire", stop_words=None),
        Bm25Options(method="robertson", stemmer="porter", b=0.0),
    ],
    ids=["default", "k1, b, no stemmer", "atire, no stop words", "robertson, b=0"],
)
def test_scores_are_those_of_the_formula(tmp_path, options):
    run = bm25_index(tmp_path, CORPUS, options).search(QUERIES)
    assert list(run) == list(QUERIES)
    for query, text in QUERIES.items():
        assert run[query] == pytest.approx(written_out(text, options), rel=1e-5), query
        assert list(run[query].values()) == sorted(run[query].values(), reverse=True)


def test_the_defaults_are_those_of_anserini():
    assert (Bm25Options().method, Bm25Options().k1, Bm25Options().b) == ("lucene", 0.9, 0.4)


def test_stop_words_of_ones_own_and_a_pattern(tmp_path):
    options = Bm25Options(stop_words=("cat", "dog"), stemmer=None, token_pattern=r"[a-z]+")
    index = bm25_index(tmp_path, [("1", "cat b"), ("2", "dog a"), ("3", "c 4")], options)
    run = index.search({"x": "cat dog", "y": "a cat", "z": "4"})
    # One of three documents has it, once, and all are equally long.
    assert run == {"y": {"2": pytest.approx(math.log(1 + 2.5 / 1.5) / 1.9)}}
    assert Bm25Index(tmp_path).options == options


def test_ties_are_cut_by_document_id(tmp_path):
    """d08 and d12 are the same text, behind d01: the higher id comes first, and is the one that stays."""
    index = bm25_index(tmp_path, CORPUS)
    full = index.search({"q": "cat"})["q"]
    assert list(full)[1:3] == ["d12", "d08"]
    assert full["d12"] == full["d08"]
    for top_k in range(1, 15):
        assert list(index.search({"q": "cat"}, top_k)["q"].items()) == list(full.items())[:top_k]
    many = [(f"{number:03}", "same text") for number in range(200)]
    best = bm25_index(tmp_path / "many", many).search({"q": "text"}, 10)["q"]
    assert list(best) == [f"{number:03}" for number in range(199, 189, -1)]


def test_queries_that_find_nothing_are_left_out(tmp_path):
    index = bm25_index(tmp_path, CORPUS)
    assert index.search({"empty": "", "stop": "the of", "unknown": "xylophone"}) == {}
    assert index.search({}) == {}
    assert "d07" not in index.search({"q": "cat dog wool mass encoder"})["q"]
    with pytest.raises(ConfigError, match="top_k is 0"):
        index.search(QUERIES, 0)


def test_an_index_is_built_once_and_mapped(tmp_path, monkeypatch):
    first = bm25_index(tmp_path, CORPUS)
    monkeypatch.setattr(first_stage, "_build", lambda *_: pytest.fail("built again"))
    again = bm25_index(tmp_path, iter(CORPUS))
    assert again.search(QUERIES) == first.search(QUERIES) == Bm25Index(tmp_path).search(QUERIES)
    assert again.fingerprint == first.fingerprint
    assert len(again) == len(CORPUS)
    assert isinstance(again._scorer.scores["data"], np.memmap)


@pytest.mark.parametrize(
    ("corpus", "options"),
    [
        (CORPUS[:-1], Bm25Options()),
        ([*CORPUS[:-1], ("d12", "cat")], Bm25Options()),
        ([*CORPUS[:-1], ("d13", "Cat")], Bm25Options()),
        (CORPUS[::-1], Bm25Options()),
        (CORPUS, Bm25Options(k1=1.0)),
        (CORPUS, Bm25Options(stemmer=None)),
    ],
    ids=["fewer", "text", "id", "order", "k1", "stemmer"],
)
def test_an_index_of_something_else_is_refused_or_replaced(tmp_path, corpus, options):
    old = bm25_index(tmp_path, CORPUS).fingerprint
    with pytest.raises(ConfigError, match=r"of another corpus, other options .*rebuild=True"):
        bm25_index(tmp_path, corpus, options)
    assert Bm25Index(tmp_path).fingerprint == old
    new = bm25_index(tmp_path, iter(corpus), options, rebuild=True)
    assert new.fingerprint != old
    assert new.search(QUERIES) == bm25_index(tmp_path / "fresh", corpus, options).search(QUERIES)
    assert len(list(tmp_path.glob("data-*"))) == 1


def test_where_an_id_ends_counts(tmp_path):
    one = bm25_index(tmp_path / "1", [("ab", "cd")], Bm25Options()).fingerprint
    assert one != bm25_index(tmp_path / "2", [("abc", "dd")], Bm25Options()).fingerprint
    assert one != bm25_index(tmp_path / "3", [("a", "bcd")], Bm25Options()).fingerprint


KILLED = """
import os, signal, sys
from gemma_encoder.ranking import bm25_index, first_stage
first_stage.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
bm25_index(sys.argv[1], [("x", "some other text")], rebuild=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize("there_before", [False, True])
def test_a_killed_build_is_no_index(tmp_path, there_before):
    """All files are written but the record: what stood there before stands."""
    if there_before:
        bm25_index(tmp_path, CORPUS)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(tmp_path.glob("data-*"))) == 1 + there_before
    if there_before:
        assert Bm25Index(tmp_path).ids == [name for name, _ in CORPUS]
    else:
        with pytest.raises(DataError, match=r"no BM25 index, or only part of one.*bm25_index"):
            Bm25Index(tmp_path)
    assert bm25_index(tmp_path, CORPUS).search({"q": "cat"})["q"]


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(first_stage, "write_json", full)
    with pytest.raises(OSError, match="disk full"):
        bm25_index(tmp_path, CORPUS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["data.csc.index.npy", "indices.csc.index.npy", "vocab.index.json", "ids.txt"]
)
@pytest.mark.parametrize("damage", ["gone", "cut", "of another index"])
def test_a_damaged_index_is_refused(tmp_path, name, damage):
    bm25_index(tmp_path, CORPUS)
    (path,) = tmp_path.glob(f"data-*/{name}")
    if damage == "gone":
        path.unlink()
    elif damage == "of another index" and path.suffix == ".npy":
        np.save(path, np.load(path)[:-1])
    elif damage == "of another index":
        path.write_bytes(b"{}")
    else:
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"can't be read.*rebuild=True"):
        Bm25Index(tmp_path)
    assert bm25_index(tmp_path, CORPUS, rebuild=True).search(QUERIES)


def test_a_record_of_another_format_is_no_index(tmp_path):
    bm25_index(tmp_path, CORPUS)
    record = json.loads((tmp_path / "bm25.json").read_text())
    for changed in (record | {"format": 0}, record | {"data": "../elsewhere"}, record | {"data": None}, []):
        (tmp_path / "bm25.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match="there is no BM25 index"):
            Bm25Index(tmp_path)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ([("a", "x"), ("a", "y")], r"document id 'a' occurs twice \[document 2 of the corpus\]"),
        ([("a b", "some text")], r"document id 'a b' is empty or has white space in it \[document 1"),
        ([("", "some text")], "document id '' is empty"),
        ([("a", None)], r"the text is None, no string \[document 'a'\]"),
        ([], "none of the 0 documents has a word"),
        ([("a", "the"), ("b", "")], "none of the 2 documents has a word"),
    ],
)
def test_a_bad_corpus_is_named(tmp_path, corpus, message):
    with pytest.raises(DataError, match=message):
        bm25_index(tmp_path, corpus)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "bm25"}, "method is 'bm25'.*lucene"),
        ({"k1": -1.0}, "k1 is -1.0"),
        ({"k1": float("nan")}, "k1 is nan"),
        ({"b": 1.5}, "b is 1.5"),
        ({"stop_words": "klingon"}, "stop_words is 'klingon'"),
        ({"token_pattern": "("}, "token_pattern is '[(]'"),
        ({"token_pattern": "(a)(b)"}, "2 groups"),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(ConfigError, match=message):
        Bm25Options(**options)


def test_a_stemmer_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"stemmer is 'klingon'.*english"):
        bm25_index(tmp_path, CORPUS, Bm25Options(stemmer="klingon"))


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ConfigError, match=r'pip install "gemma-encoder\[ranking\]"'):
        bm25_index(tmp_path, CORPUS)
