"""mteb evaluates a `Reranker` as it is: on local data, without network, with the values of our own path."""

import json
import socket
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from gemma_encoder import Encoder
from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.ranking import Reranker, judge
from gemma_encoder.ranking import reranking as module
from gemma_encoder.ranking.list_records import from_records
from gemma_encoder.testing import tiny_decoder

mteb = pytest.importorskip("mteb")
pytest.importorskip("ir_measures")

from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import CrossEncoderWrapper  # noqa: E402

WORDS = ["a", "bank", "the", "river", "is", "not", "good", "money", "film", "water", "deep", "boat"]
RNG = np.random.default_rng(0)


def words(count: int) -> str:
    return " ".join(RNG.choice(WORDS, count))


TITLES = {f"d{n}": words(2) if n % 3 == 0 else "" for n in range(30)}
TEXTS = {name: words(6) for name in TITLES} | {"d28": "the river", "d29": "the river"}  # two alike
QUERIES = {f"q{n}": words(3) for n in range(8)}
QRELS = {q: {f"d{n}": int(RNG.integers(0, 4)) for n in RNG.choice(28, 9, replace=False)} for q in QUERIES}
TOP_RANKED = {
    q: [*(f"d{n}" for n in RNG.choice(28, 14, replace=False)), "d29", "d28"] for q in [*QUERIES][::-1]
}


class LocalReranking(AbsTaskRetrieval):
    """A task of mteb whose data are those above."""

    metadata = TaskMetadata(
        name="LocalReranking",
        description="Made up.",
        type="Reranking",
        dataset={"path": "none", "revision": "1"},
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        prompt="Find what answers the question",
    )
    instructions: dict[str, str] | None = None

    def load_data(self, num_proc=None, **options):
        queries = [{"id": name, "text": text} for name, text in QUERIES.items()]
        if self.instructions:
            queries = [row | {"instruction": self.instructions[row["id"]]} for row in queries]
        corpus = [{"id": name, "title": TITLES[name], "text": TEXTS[name]} for name in TEXTS]
        split = {
            "queries": Dataset.from_list(queries),
            "corpus": Dataset.from_list(corpus),
            "relevant_docs": QRELS,
            "top_ranked": TOP_RANKED if self.metadata.type == "Reranking" else None,
        }
        self.dataset, self.data_loaded = {"default": {"test": split}}, True


class LocalRetrieval(LocalReranking):
    """The same without candidates."""

    metadata = LocalReranking.metadata.model_copy(update={"type": "Retrieval", "name": "LocalRetrieval"})


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refused(*_):
        raise AssertionError("a test asked for a network")

    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture
def encoder() -> Encoder:
    return Encoder.from_decoder(
        tiny_decoder("gemma3"),
        verify=False,
        seed=3,
        text={"template": "Query: {text} Document: {text_pair}"},
        problem_type="ranking",
        labels=("score",),
    )


def evaluate(model, task, predictions=None, cache=None, **options):
    """Main score, and what mteb was given for each query and document."""
    result = mteb.evaluate(
        model, task, cache=cache, prediction_folder=predictions, show_progress_bar=False, **options
    )
    if predictions is None:
        return result.task_results[0].get_score(), None
    saved = json.loads((predictions / f"{task.metadata.name}_predictions.json").read_text())
    return result.task_results[0].get_score(), saved["default"]["test"]


def our_run(reranker, candidates):
    """Scores of the same candidates through the files' names for things and `rank_many`."""
    records = [
        {
            "query": QUERIES[query],
            "query_id": query,
            "documents": [{"id": name, "title": TITLES[name], "text": TEXTS[name]} for name in names],
        }
        for query, names in candidates.items()
    ]
    lists = list(from_records(enumerate(records), "test"))
    ranked = reranker.rank_many([each.query for each in lists], [each.documents for each in lists])
    return {
        each.query_id: {each.document_ids[document.index]: document.score for document in found}
        for each, found in zip(lists, ranked, strict=True)
    }


def assert_same_scores(found, expected, tolerance=1e-5):
    assert {query: set(scores) for query, scores in found.items()} == {
        query: set(scores) for query, scores in expected.items()
    }
    for query, scores in expected.items():
        for name, value in scores.items():
            assert found[query][name] == pytest.approx(value, abs=tolerance)


def test_a_reranking_task_has_the_value_of_our_own_path(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "model")
    reranker = Reranker.from_pretrained(tmp_path / "model")
    value, scores = evaluate(reranker, LocalReranking(), tmp_path, encode_kwargs={"batch_size": 7})
    expected = our_run(reranker, TOP_RANKED)
    assert_same_scores(scores, expected)
    ours = judge(expected, QRELS, ["nDCG@10"], resamples=9).measures["nDCG@10"].mean
    assert value == pytest.approx(ours, abs=1e-5)
    upside_down = {q: {name: -score for name, score in row.items()} for q, row in expected.items()}
    other = judge(upside_down, QRELS, ["nDCG@10"], resamples=9).measures["nDCG@10"].mean
    assert abs(ours - other) > 0.01, "the order of these documents matters"


def test_cross_encoder_has_the_same_value_in_mteb(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "model")
    ours = evaluate(Reranker.from_pretrained(tmp_path / "model"), LocalReranking(), tmp_path / "ours")
    theirs = evaluate(CrossEncoderWrapper(str(tmp_path / "model")), LocalReranking(), tmp_path / "theirs")
    assert_same_scores(ours[1], theirs[1], tolerance=1e-4)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)


def test_the_second_of_two_stages(encoder, tmp_path):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    _, first = evaluate(mteb.get_model("mteb/baseline-bm25s"), LocalRetrieval(), tmp_path)
    task = LocalRetrieval().convert_to_reranking(tmp_path, top_k=5)
    reranker = Reranker(encoder)
    value, scores = evaluate(reranker, task, tmp_path / "second")
    best = {q: sorted(row, key=row.__getitem__, reverse=True)[:5] for q, row in first.items()}
    assert {query: set(row) for query, row in scores.items()} == {q: set(names) for q, names in best.items()}
    ours = judge(our_run(reranker, best), QRELS, ["nDCG@10"], resamples=9)
    assert value == pytest.approx(ours.measures["nDCG@10"].mean, abs=1e-5)


@pytest.fixture
def passes(monkeypatch):
    """The pairs of each call of the scoring stream."""
    seen = []
    stock = module.score

    def spy(encoder, rows, **options):
        rows = list(rows)
        seen.append(rows)
        return stock(encoder, rows, **options)

    monkeypatch.setattr(module, "score", spy)
    return seen


def test_all_batches_are_one_stream_and_equal_pairs_are_scored_once(encoder, passes):
    task = LocalReranking()
    task.instructions = {name: f"for {name}" for name in QUERIES}
    evaluate(Reranker(encoder), task, encode_kwargs={"batch_size": 3})
    expected = [
        (f"{QUERIES[query]} for {query}", text)
        for query in QUERIES
        for text in dict.fromkeys(
            f"{TITLES[name]} {TEXTS[name]}" if TITLES[name] else TEXTS[name] for name in TOP_RANKED[query]
        )
    ]
    assert passes == [expected]
    assert len(expected) < sum(map(len, TOP_RANKED.values()))


def test_documents_are_the_texts_of_our_lists_white_space_included(encoder, passes):
    documents = [  # as mteb makes them: it strips the text and keeps the parts
        {"text": "one two", "title": " one ", "body": " two"},
        {"text": "three", "title": "", "body": "three "},
        {"text": "four", "title": " ", "body": "\nfour"},
    ]
    queries = [{"text": "q"}] * 3
    scores = Reranker(encoder).predict(DataLoader(queries, batch_size=2), DataLoader(documents, batch_size=3))
    assert passes == [[("q", "one  two"), ("q", "three "), ("q", "\nfour")]]
    assert scores.dtype == np.float32 and scores.shape == (3,)
    alone = Reranker(encoder).predict(DataLoader(queries), DataLoader([{"text": each} for each in "abc"]))
    assert [row[1] for row in passes[1]] == ["a", "b", "c"], "without parts it is the text"
    assert alone.shape == (3,)


def test_no_pairs_have_no_scores(encoder):
    scores = Reranker(encoder).predict(DataLoader([]), DataLoader([]))
    assert scores.dtype == np.float32 and scores.shape == (0,)


def test_queries_and_documents_must_be_as_many(encoder):
    with pytest.raises(ValueError, match="shorter"):
        Reranker(encoder).predict(DataLoader([{"text": "q"}] * 2), DataLoader([{"text": "d"}]))


def test_texts_of_ones_own_are_for_rank(encoder):
    with pytest.raises(DataError, match="use rank"):
        Reranker(encoder).predict(["query"], ["document"])


def test_another_precision_is_refused(encoder):
    with pytest.raises(ConfigError, match="precision is 'int8'"):
        Reranker(encoder).predict(DataLoader([]), DataLoader([]), precision="int8")


def test_what_mteb_is_told_of_the_model(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "my-model")
    meta = Reranker.from_pretrained(tmp_path / "my-model").mteb_model_meta
    stock = encoder.stock_backbone
    assert isinstance(meta, mteb.models.ModelMeta)
    assert meta.is_cross_encoder and meta.name == "gemma-encoder/my-model"
    assert Reranker(encoder, name="me/it").mteb_model_meta.name == "me/it"
    assert meta.n_parameters == sum(weights.numel() for weights in encoder.state_dict().values())
    assert meta.n_embedding_parameters == stock.config.vocab_size * stock.config.hidden_size
    assert meta.memory_usage_mb == pytest.approx(4 * meta.n_parameters / 2**20, abs=0.05)
    assert meta.max_tokens == encoder.config.text.max_length
    assert type(meta)(**meta.model_dump()) == meta, "it passes mteb's own checks"


def test_the_revision_is_that_of_options_and_weights(encoder, tmp_path):
    def revision(model):
        return Reranker(model).mteb_model_meta.revision

    first = revision(encoder)
    encoder.save_pretrained(tmp_path)
    assert revision(Encoder.from_pretrained(tmp_path)) == first == revision(encoder)
    assert revision(Encoder.from_pretrained(tmp_path, dtype=torch.bfloat16)) != first
    shorter = {"template": "Query: {text} Document: {text_pair}", "max_length": 100}
    other = Encoder.from_decoder(
        tiny_decoder("gemma3"), verify=False, seed=3, text=shorter, problem_type="ranking", labels=("score",)
    )
    assert revision(other) != first
    with torch.no_grad():
        encoder.stock_backbone.get_input_embeddings().weight[70, 3] += 1e-3
    assert revision(encoder) != first


def test_kept_results_are_those_of_these_weights(encoder, passes, tmp_path):
    cache = mteb.ResultCache(tmp_path)
    reranker = Reranker(encoder)
    value, _ = evaluate(reranker, LocalReranking(), cache=cache)
    assert evaluate(reranker, LocalReranking(), cache=cache) == (value, None)
    assert len(passes) == 1, "the second time it is read"
    with torch.no_grad():
        for weights in encoder.head.parameters():
            weights.normal_(generator=torch.Generator().manual_seed(1))
    other, _ = evaluate(reranker, LocalReranking(), cache=cache)
    assert len(passes) == 2, "training goes on, and nothing of before is read"
    assert other != value


def test_without_mteb_the_extra_is_named(encoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(ConfigError, match=r"gemma-encoder\[mteb\]"):
        _ = Reranker(encoder).mteb_model_meta
