"""Training on lists: documents drawn anew each epoch, judged by the order of whole lists."""

import sys
from pathlib import Path

import numpy as np
import pytest

from gemma_encoder import Encoder
from gemma_encoder.errors import DataError
from gemma_encoder.evaluation import compute_metrics
from gemma_encoder.losses import RANKING_LOSSES
from gemma_encoder.ranking import Reranker
from gemma_encoder.ranking.learning import TEMPLATE, TrainingLists, ranking_data, validation_rows
from gemma_encoder.ranking.lists import CandidateList
from gemma_encoder.ranking.sampling import ListSampling
from gemma_encoder.testing import tiny_decoder
from gemma_encoder.training import train

sys.path.append(str(Path(__file__).parents[1] / "training"))
from test_resume import Killed, stop_at
from toy_training import arguments, difference, weights

TOPICS = ["money", "river", "film", "bank"]


def lists_of(count: int, offset: int = 0, documents: int = 9) -> list[CandidateList]:
    """The relevant document has the query's word, the others have another one."""
    made = []
    for number in range(offset, offset + count):
        topic, right = TOPICS[number % 4], number % documents
        others = [topic_ for topic_ in TOPICS if topic_ != topic]
        texts = [
            f"a {topic if place == right else others[(number + place) % 3]} {'very ' * (place % 3)}good"
            for place in range(documents)
        ]
        names = tuple(f"d{place}" for place in range(documents))
        labels = tuple(2.0 * (place == right) for place in range(documents))
        made.append(CandidateList(f"q{number}", f"the {topic}", names, tuple(texts), labels))
    return made


def encoder_of(**options) -> Encoder:
    return Encoder.from_decoder(
        tiny_decoder("gemma3"),
        seed=0,
        problem_type="ranking",
        labels=("relevance",),
        verify=False,
        **({"text": {"template": TEMPLATE}} | options),
    )


def data_of(size: int | None = 4):
    lists = TrainingLists(lists_of(40), ListSampling(size=size))
    return ranking_data(lists, lists_of(8, 100), source="memory", validation_source="memory")


def test_it_learns_to_rank(tmp_path):
    result = train(encoder_of(), data_of(), arguments(tmp_path, num_train_epochs=12))
    assert result.metrics["ndcg@10"] > 0.9 > result.baseline["ndcg@10"]
    assert result.metrics["rr@10"] > 0.85 and result.run["data"]["train_rows"] == 40
    lists = lists_of(4, 100)
    ranked = Reranker.from_pretrained(tmp_path / "model").rank(lists[0].query, lists[0].documents)
    assert lists[0].labels[ranked[0].index] == 2


@pytest.mark.parametrize("loss", [name for name in RANKING_LOSSES if name != "softmax"])
def test_every_loss_trains_a_ranker(tmp_path, loss):
    """From Python by a name; another name is another run."""
    options = {"num_train_epochs": 15, "learning_rate": 5e-3, "ranking_loss": loss}
    result = train(encoder_of(), data_of(size=3), arguments(tmp_path, **options))
    assert result.metrics["ndcg@10"] > result.baseline["ndcg@10"] + 0.1
    assert result.run["training"]["ranking_loss"] == loss


def test_every_epoch_sees_other_documents_and_a_resumed_one_the_same(tmp_path, monkeypatch):
    from gemma_encoder.ranking import learning

    drawn: list[tuple] = []
    stock = ListSampling.draw

    def spy(self, candidates, seed, epoch, number):
        found = stock(self, candidates, seed, epoch, number)
        drawn.append((epoch, number, found.document_ids))
        return found

    monkeypatch.setattr(learning.ListSampling, "draw", spy)
    options = {"num_train_epochs": 3, "save_strategy": "steps", "eval_strategy": "steps"}
    options |= {"save_steps": 2, "eval_steps": 2}
    whole = encoder_of()
    train(whole, data_of(), arguments(tmp_path / "whole", **options))
    of_whole = set(drawn)
    assert len(of_whole) == 120 and {epoch for epoch, _, _ in of_whole} == {0, 1, 2}
    assert len({(number, found) for _, number, found in of_whole}) > 110
    drawn.clear()
    with monkeypatch.context() as patch:
        stop_at(patch, 7)  # in the middle of the second epoch
        with pytest.raises(Killed):
            train(encoder_of(), data_of(), arguments(tmp_path / "cut", **options))
    resumed = encoder_of()
    train(resumed, data_of(), arguments(tmp_path / "cut", **options), resume=True)
    assert set(drawn) == of_whole
    assert difference(weights(whole), weights(resumed)) == 0.0


def test_documents_that_were_cut_are_counted_once_however_often_they_are_drawn(tmp_path):
    encoder = encoder_of(text={"template": TEMPLATE, "max_length": 23})
    data = ranking_data(TrainingLists(lists_of(6), ListSampling(size=None)), lists_of(2, 100))
    pairs = [(each.query, text) for each in lists_of(6) + lists_of(2, 100) for text in each.documents]
    cut = sum(encoder.tokenize(pairs).truncated)
    result = train(encoder, data, arguments(tmp_path, num_train_epochs=3))
    assert result.run["data"]["truncated"] == cut > 0


def test_what_can_not_teach_or_judge_is_refused(tmp_path):
    unlabelled = [CandidateList("q", "the bank", ("a", "b"), ("a bank", "a film"))]
    with pytest.raises(DataError, match="query 'q' has no labels to judge by"):
        validation_rows(unlabelled)
    with pytest.raises(DataError, match="no list to train on"):
        ranking_data(TrainingLists([]), lists_of(2))
    with pytest.raises(DataError, match="no list to judge by"):
        ranking_data(TrainingLists(lists_of(2)), [])
    data = ranking_data(TrainingLists(unlabelled), lists_of(2))
    with pytest.raises(DataError, match="query 'q' has no labels to learn from"):
        train(encoder_of(), data, arguments(tmp_path))


@pytest.mark.parametrize("seed", range(5))
def test_ndcg_and_rr_are_those_of_ir_measures(seed):
    ir_measures = pytest.importorskip("ir_measures")
    random = np.random.default_rng(seed)
    counts = random.integers(1, 30, 12)
    groups = np.repeat(np.arange(12), counts)
    grades = random.integers(0, 4, len(groups)) * (random.random(len(groups)) < 0.3)
    scores = random.permutation(len(groups)).astype(float)  # no ties: trec_eval breaks them by id
    found = compute_metrics(["ndcg@10", "rr@10"], scores[:, None], grades, groups=groups)
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for number, group in enumerate(groups):
        qrels.setdefault(str(group), {})[str(number)] = int(grades[number])
        run.setdefault(str(group), {})[str(number)] = scores[number]
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.RR @ 10], qrels, run)
    assert found["ndcg@10"] == pytest.approx(expected[ir_measures.nDCG @ 10])
    assert found["rr@10"] == pytest.approx(expected[ir_measures.RR @ 10])


def test_ndcg_by_hand():
    """Grades 0, 3, 1 by rank against the best order 3, 1, 0; and a list in which nothing is relevant."""
    scores = np.array([[3.0], [2.0], [1.0], [0.0]])
    found = compute_metrics(["ndcg@10", "rr@10"], scores, [0, 3, 1, 0], groups=[0, 0, 0, 1])
    assert found["ndcg@10"] == pytest.approx((3 / np.log2(3) + 1 / 2) / (3 + 1 / np.log2(3)) / 2)
    assert found["rr@10"] == 0.25
