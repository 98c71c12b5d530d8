"""Ranking: candidates of a list compete, batches count lists, and how they are cut changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from test_optimisation import PLAIN_SGD
from test_resume import Killed, stop_at
from toy_training import arguments, descend, difference, encoder_of, weights

from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.encoder import Encoder, EncoderConfig
from gemma_encoder.errors import ConfigError
from gemma_encoder.packing import plan_batches
from gemma_encoder.scoring import score_all
from gemma_encoder.tasks import Split, Task, TaskData
from gemma_encoder.tasks.files import sample
from gemma_encoder.training import EncoderTrainer, train
from gemma_encoder.training.collation import Collator, TokenizedRows

CHOICES = Task("choices", ("text",), "label", "ranking", ("score",), ("accuracy",))
BAD = ["bad", "not", "the river is", "a bank"]


def lists_of(count: int, offset: int = 0) -> Dataset:
    """Lists of two to four candidates of different lengths, neighbours torn apart; the good film is right."""
    rows = []
    for number in range(offset, offset + count):
        for place in range(2 + number % 3):
            right = place == number % 2
            text = f"{'good' if right else BAD[place]} film {'very ' * (number % 4)}"
            rows.append({"text": text, "label": float(right), "group": number - offset, "row": number + 1})
    rows = rows[::2] + rows[1::2]
    return Dataset.from_list(rows)


def data_of(lists: int = 24) -> TaskData:
    return TaskData(CHOICES, lists_of(lists), lists_of(9, 100))


def test_it_learns_which_candidate_is_right(tmp_path):
    result = train(encoder_of(CHOICES), data_of(), arguments(tmp_path, num_train_epochs=6))
    assert result.metrics["accuracy"] == 1.0 and result.baseline["accuracy"] < 0.7
    texts = ["good film", "bad film"]
    ours = score_all(Encoder.from_pretrained(tmp_path / "model"), texts)
    assert ours[0] > ours[1]
    served = CrossEncoder(str(tmp_path / "model"))
    np.testing.assert_allclose([served.predict(text) for text in texts], ours[:, 0], atol=1e-4)


def written_out(steps: int) -> dict[str, torch.Tensor]:
    """Gradient descent on the mean over lists of the cross-entropy of the right candidate, list by list."""
    encoder = encoder_of(CHOICES, layout="padded")
    rows = data_of().train

    def mean_loss() -> torch.Tensor:
        losses = []
        for group in range(24):
            members = [row for row in rows if row["group"] == group]
            batch = encoder.collate(encoder.tokenize([row["text"] for row in members]).input_ids)
            right = torch.tensor([row["label"] for row in members]).argmax()
            losses.append(torch.nn.functional.cross_entropy(encoder(**batch).logits[:, 0], right))
        return torch.stack(losses).mean()

    return descend(encoder, mean_loss, steps)


@pytest.mark.parametrize(
    "options",
    [
        {"per_device_train_batch_size": 24},
        {"per_device_train_batch_size": 24, "max_tokens": 30},
        {"per_device_train_batch_size": 24, "max_tokens": 1},  # every row has a pass of its own
        {"per_device_train_batch_size": 24, "max_tokens": 12},  # some lists are computed in parts
        {"per_device_train_batch_size": 10, "gradient_accumulation_steps": 3, "max_tokens": 30},
    ],
)
def test_a_step_is_one_of_gradient_descent_on_the_mean_over_lists(tmp_path, options):
    encoder = encoder_of(CHOICES)
    result = train(encoder, data_of(), arguments(tmp_path, **PLAIN_SGD, **options))
    assert result.run["steps"] == 3  # the batch size counts lists, not their 71 rows
    torch.testing.assert_close(weights(encoder), written_out(3), rtol=1e-4, atol=1e-6)


def test_a_list_in_parts_has_the_gradient_of_the_list_as_a_whole(tmp_path, monkeypatch):
    """With dropout on, and two steps, so that the random numbers after a step are those of before, too."""

    def as_a_whole(self, model, inputs, batch, total, *, last):
        """The graph of all parts at once: the memory that `_backward_in_parts` saves."""
        sizes = [inputs["lengths"][row] for row in batch]
        parts = [[batch[place] for place in part] for part in plan_batches(sizes, self.options.max_tokens)]
        called.append(len(parts))
        logits = torch.cat([self._output(model, inputs, part) for part in parts])
        loss = self._loss(logits, inputs, [row for part in parts for row in part], total)
        self.accelerator.backward(loss)
        return loss.detach()

    options = {"per_device_train_batch_size": 3, "max_tokens": 6, "max_steps": 2, "max_grad_norm": 1e9}
    options |= {"optim": "sgd", "learning_rate": 1.0}
    trained: list[dict[str, torch.Tensor]] = []
    called: list[int] = []
    for name in ("parts", "whole"):
        with monkeypatch.context() as patch:
            if name == "whole":
                patch.setattr(EncoderTrainer, "_backward_in_parts", as_a_whole)
            encoder = encoder_of(CHOICES, dropout=DropoutConfig.uniform(0.3))
            train(encoder, data_of(), arguments(tmp_path / name, **options))
            trained.append(weights(encoder))
    assert len(called) > 2 and min(called) > 1
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-4, atol=1e-6)
    assert difference(trained[0], weights(encoder_of(CHOICES))) > 1e-3


@pytest.mark.parametrize("tune", ["lora", "head"])
def test_lists_in_parts_train_what_is_tuned_as_whole_lists_do(tmp_path, tune):
    """What is frozen stays, adapters and head learn the same however a list is cut."""
    options = {"tune": tune, "optim": "sgd", "learning_rate": 0.5, "max_steps": 2}
    options |= {"max_grad_norm": 0.0, "load_best_model_at_end": False, "merge_adapter": tune == "head"}
    trained = []
    for max_tokens in (4096, 6):
        encoder = encoder_of(CHOICES)
        folder = tmp_path / str(max_tokens)
        train(encoder, data_of(), arguments(folder, max_tokens=max_tokens, **options))
        trained.append(weights(encoder))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-4, atol=1e-5)
    before = {name: tensor for name, tensor in weights(encoder_of(CHOICES)).items() if "backbone" in name}
    learnt = {name for name in trained[0] if "lora_B" in name}
    assert bool(learnt) == (tune == "lora") and all(trained[0][name].any() for name in learnt)
    frozen = {name.replace(".base_layer", "").replace("base_model.model.", ""): name for name in trained[0]}
    assert before.keys() <= frozen.keys()
    assert all(torch.equal(tensor, trained[0][frozen[name]]) for name, tensor in before.items())


def test_bf16_lists_in_parts_are_bf16_lists_as_a_whole_but_for_rounding(tmp_path):
    """The step of one batch: its parts may differ by what bfloat16 rounds off, two hundredths."""
    options = {**PLAIN_SGD, "max_steps": 1, "per_device_train_batch_size": 24, "bf16": True}
    before = weights(encoder_of(CHOICES))
    steps = []
    for max_tokens in (4096, 6):
        encoder = encoder_of(CHOICES)
        train(encoder, data_of(), arguments(tmp_path / str(max_tokens), max_tokens=max_tokens, **options))
        after = weights(encoder)
        steps.append(torch.cat([(after[name] - before[name]).flatten() for name in before]))
    assert 0 < (steps[0] - steps[1]).norm() < 0.02 * steps[0].norm()


class Held:
    """A tensor that a graph keeps for its backward pass, and how many numbers such tensors have at most."""

    now = most = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        Held.now += tensor.numel()
        Held.most = max(Held.most, Held.now)

    def __del__(self) -> None:
        Held.now -= self.tensor.numel()


def test_a_list_in_parts_keeps_no_graph_of_its_other_parts(tmp_path):
    """What is kept for backward is that of a part, however long the list; as a whole it grows with it."""

    def most(documents: int, max_tokens: int) -> int:
        rows = [
            {"text": f"{BAD[place % 4]} film", "label": float(place == 0), "group": 0, "row": 1}
            for place in range(documents)
        ]
        encoder = encoder_of(CHOICES)
        own = {parameter.data_ptr() for parameter in encoder.parameters()}  # kept anyway
        options = {**PLAIN_SGD, "max_steps": 1, "max_tokens": max_tokens}
        args = arguments(tmp_path / f"{documents} {max_tokens}", **options)
        Held.now = Held.most = 0
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: tensor if tensor.data_ptr() in own else Held(tensor),
            lambda kept: kept.tensor if isinstance(kept, Held) else kept,
        ):
            train(encoder, TaskData(CHOICES, Dataset.from_list(rows), lists_of(2, 100)), args)
        assert Held.now == 0
        return Held.most

    assert 0 < most(24, max_tokens=1) < 1.1 * most(6, max_tokens=1)
    assert most(24, max_tokens=4096) > 3 * most(6, max_tokens=4096)


def test_training_stops_by_the_order_of_the_lists(tmp_path):
    """nDCG@10 no longer rises: the steps that were paid for end, and the best of them is kept."""
    ordered = replace(CHOICES, metrics=("ndcg@10", "accuracy"))
    data = TaskData(ordered, lists_of(24), lists_of(9, 100))
    options = {"num_train_epochs": 40, "early_stopping_patience": 2, "learning_rate": 5e-4}
    result = train(encoder_of(ordered), data, arguments(tmp_path, **options))
    seen = [entry["eval_ndcg@10"] for entry in result.run["history"] if "eval_ndcg@10" in entry]
    assert len(seen) < 40 and max(seen[:-2]) >= max(seen[-2:])
    assert result.metrics["ndcg@10"] == pytest.approx(max(seen)) and seen[0] < max(seen)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    options = {"num_train_epochs": 3, "save_strategy": "steps", "eval_strategy": "steps"}
    options |= {"save_steps": 2, "eval_steps": 2}
    whole = encoder_of(CHOICES)
    train(whole, data_of(), arguments(tmp_path / "whole", **options))
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(Killed):
            train(encoder_of(CHOICES), data_of(), arguments(tmp_path / "cut", **options))
    resumed = encoder_of(CHOICES)
    train(resumed, data_of(), arguments(tmp_path / "cut", **options), resume=True)
    assert difference(weights(whole), weights(resumed)) == 0.0


def test_a_batch_says_which_item_each_row_is_of():
    lists = TokenizedRows(encoder_of(CHOICES), lists_of(3)).in_lists()
    batch = Collator(0)([lists[2], lists[0]])
    assert batch["lists"].tolist() == [0, 0, 0, 0, 1, 1] and batch["rows"].tolist() == [3, 3, 3, 3, 1, 1]
    rows = TokenizedRows(encoder_of(CHOICES), lists_of(3))
    assert Collator(0)([rows[0], rows[1]])["lists"].tolist() == [0, 1]


def test_whole_lists_are_drawn():
    drawn = sample(Split(lists_of(24), "memory"), 5, seed=0, lists=True)
    assert drawn.note == "5 of 24 lists drawn with seed 0"
    counts = {group: 2 + group % 3 for group in drawn.rows["group"]}
    assert len(counts) == 5 and drawn.rows.num_rows == sum(counts.values())


def test_rows_in_no_list_are_refused(tmp_path):
    data = data_of()
    data = TaskData(CHOICES, data.train.remove_columns("group"), data.validation)
    with pytest.raises(ConfigError, match="these rows are in none.*column 'group'"):
        train(encoder_of(CHOICES), data, arguments(tmp_path))


def test_a_ranking_encoder_has_one_score_and_its_loss_wants_lists():
    with pytest.raises(ConfigError, match="ranking has a single score"):
        EncoderConfig(problem_type="ranking", labels=("a", "b"))
    encoder = encoder_of(CHOICES)
    with pytest.raises(ConfigError, match="which list each row belongs to"):
        encoder.loss(torch.zeros(2, 1), torch.tensor([1.0, 0.0]))
