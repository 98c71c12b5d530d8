"""A run as its user sees it: it learns, the best is saved, what should train does, the log tells."""

import json

import numpy as np
import pytest
import torch
from toy_training import SCORES, arguments, data_of, difference, encoder_of, weights
from transformers import TrainerCallback

from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import ConfigError
from gemma_encoder.pooling import attention
from gemma_encoder.scoring import score_all, score_token_ids
from gemma_encoder.tasks import Task, TaskData
from gemma_encoder.training import EncoderTrainer, train
from gemma_encoder.training import trainer as trainer_module


def test_it_learns_and_records(tmp_path):
    result = train(encoder_of(), data_of(), arguments(tmp_path, num_train_epochs=6))
    assert result.metrics["accuracy"] == 1.0 > result.baseline["accuracy"]
    run = json.loads((tmp_path / "model" / "run.json").read_text())
    assert run["status"] == "finished" and run["metrics"] == result.metrics
    assert run["data"]["train_rows"] == 40 and run["training"]["learning_rate"] == 3e-3
    assert 0 < run["padding_avoided"] < 1 and run["tokens_per_second"] > 0
    assert not (tmp_path / "model.checkpoints").exists()


def test_the_saved_folder_is_the_best_checkpoint(tmp_path):
    encoder = encoder_of()
    result = train(encoder, data_of(), arguments(tmp_path, num_train_epochs=3))
    scores = [entry["eval_accuracy"] for entry in result.run["history"] if "eval_accuracy" in entry]
    assert result.metrics["accuracy"] == max(scores)
    reloaded = Encoder.from_pretrained(tmp_path / "model")
    ids = encoder.tokenize(["a good film", "bad money"]).input_ids
    torch.testing.assert_close(
        torch.as_tensor(score_token_ids(reloaded, ids, 100)),
        torch.as_tensor(score_token_ids(encoder, ids, 100)),
    )


@pytest.mark.parametrize("every", [3, 500])
def test_the_best_is_saved_and_reported_also_where_checkpoints_are_rarer_than_evaluations(
    tmp_path, monkeypatch, every
):
    """The second of ten evaluations is the best; no checkpoint is due at its step."""
    evaluate, judged = EncoderTrainer.evaluate, []

    def second_is_best(self, *args, **kwargs):
        judged.append(weights(self.encoder))
        scores = {"eval_accuracy": 0.9 if len(judged) == 2 else 0.1 + 0.01 * len(judged)}
        monkeypatch.setattr(
            trainer_module, "compute_metrics", lambda *_, **__: {"accuracy": scores["eval_accuracy"]}
        )
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(EncoderTrainer, "evaluate", second_is_best)
    encoder = encoder_of()
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": every}
    result = train(encoder, data_of(), arguments(tmp_path, **options))
    assert result.run["best_step"] == 2 and result.metrics == {"accuracy": 0.9}
    assert difference(judged[1], weights(encoder)) == 0


@pytest.mark.parametrize(
    ("options", "trains", "stays"),
    [
        ({"tune": "full"}, ["backbone.layers", "pooler", "head"], ["backbone.embed_tokens"]),
        (
            {"tune": "full", "train_embeddings": True},
            ["backbone.embed_tokens", "backbone.layers", "pooler", "head"],
            [],
        ),
        ({"tune": "head"}, ["pooler", "head"], ["backbone"]),
        ({"tune": "lora"}, ["lora_", "pooler", "head"], ["base_layer", "embed_tokens", "norm.weight"]),
    ],
)
def test_what_trains_and_what_stays(tmp_path, options, trains, stays):
    encoder = encoder_of(pooling=attention())
    torch.manual_seed(0)
    train(encoder, data_of(), arguments(tmp_path, weight_decay=0.5, load_best_model_at_end=False, **options))
    fresh = encoder_of(pooling=attention()).state_dict()
    changed, same = set(), set()
    for name, tensor in encoder.state_dict().items():
        original = fresh.get(name.replace("base_model.model.", "").replace(".base_layer", ""))
        moved = original is None or not torch.equal(tensor, original)  # a LoRA tensor has no original
        (changed if moved else same).add(name)
    for part in trains:
        assert any(part in name for name in changed), part
    for part in stays:
        touched = [
            name
            for name in changed
            if part in name and "lora_" not in name and not name.startswith(("head", "pooler"))
        ]
        assert not touched, part


def test_regression_answers_in_the_units_of_its_targets(tmp_path):
    data = data_of(SCORES, label=lambda number: 5000.0 + 300.0 * (number % 2))
    encoder = encoder_of(SCORES)
    result = train(encoder, data, arguments(tmp_path, num_train_epochs=8))
    assert result.metrics["pearson"] > 0.9
    scores = score_token_ids(
        Encoder.from_pretrained(tmp_path / "model"),
        encoder.tokenize(["good film", "bad film"]).input_ids,
        100,
    )
    assert scores[0, 0] == pytest.approx(5300, abs=100) and scores[1, 0] == pytest.approx(5000, abs=100)


def test_multi_label_learns(tmp_path):
    task = Task(
        "tags", ("text",), "label", "multi_label_classification", ("bad", "good", "any"), ("f1_micro",)
    )
    data = data_of(task, label=lambda number: [float(number % 2 == 0), float(number % 2), 1.0])
    result = train(encoder_of(task), data, arguments(tmp_path, num_train_epochs=6))
    assert result.metrics["f1_micro"] == 1.0 > result.baseline["f1_micro"]


def test_early_stopping_ends_a_run_that_gets_no_better(tmp_path):
    result = train(
        encoder_of(),
        data_of(),
        arguments(tmp_path, num_train_epochs=30, learning_rate=1e-9, early_stopping_patience=2),
    )
    assert result.run["steps"] == 3 * 5


def test_the_head_can_have_its_own_learning_rate(tmp_path):
    before = weights(encoder_of())
    encoder = encoder_of()
    train(encoder, data_of(), arguments(tmp_path, learning_rate=1e-9, head_learning_rate=1e-2))
    moved = {name: (tensor - before[name]).abs().max().item() for name, tensor in weights(encoder).items()}
    assert moved["head.output.weight"] > 1e-3 > 1e-6 > moved["backbone.layers.0.mlp.up_proj.weight"]


def test_the_log_says_speed_padding_and_loss(tmp_path, capsys):
    train(encoder_of(), data_of(), arguments(tmp_path, logging_steps=5))
    lines = capsys.readouterr().err
    assert "tokens/s" in lines and "padding avoided" in lines and "loss" in lines and "accuracy" in lines


def test_the_record_says_where_the_rows_came_from_and_which_metric_decided(tmp_path):
    data = data_of()
    data = TaskData(
        data.task,
        data.train,
        data.validation,
        train_note="40 of 67,349 rows",
        train_source="train.tsv",
        skipped=2,
        empty_texts=1,
    )
    run = train(encoder_of(), data, arguments(tmp_path)).run
    rows = run["data"]
    assert rows["train_note"] == "40 of 67,349 rows" and rows["train_source"] == "train.tsv"
    assert (rows["skipped"], rows["empty_texts"], rows["truncated"]) == (2, 1, 0)
    assert run["training"]["metric_for_best_model"] == "eval_accuracy"
    assert run["versions"]["torch"] == torch.__version__ and run["hardware"]["threads"] >= 1
    assert run["peak_memory"]["host_bytes"] > 1e7 and run["wall_seconds"] >= run["train_seconds"] > 0
    assert run["parameters"]["trained"] < run["parameters"]["total"]


def test_a_ramp_trains_from_causal_to_bidirectional_and_is_judged_by_its_end(tmp_path, monkeypatch):
    encoder, seen = encoder_of(), []
    stock = Encoder.encode_tokens

    def watched(self, *args, **kwargs):
        seen.append((self.training, self.future_weight))
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(Encoder, "encode_tokens", watched)
    args = arguments(tmp_path, attention_ramp=0.5, num_train_epochs=4, logging_steps=1)
    result = train(encoder, data_of(), args)
    training = [weight for in_training, weight in seen if in_training]
    steps = result.run["steps"]
    assert len(training) == steps == 20
    assert training == [min(1.0, step / 10) for step in range(steps)]
    assert {weight for in_training, weight in seen if not in_training} == {1.0}
    assert encoder.future_weight == 1.0


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_layers_of_both_kinds_learn_and_are_saved(tmp_path, tune):
    encoder = encoder_of(bidirectional_layers="-2:", window="width")
    options = {"tune": tune, "attention_ramp": 0.5, "num_train_epochs": 4}
    result = train(encoder, data_of(), arguments(tmp_path, **options))
    assert result.metrics["accuracy"] > 0.9
    again = Encoder.from_pretrained(tmp_path / "model")
    assert again.config.bidirectional_layers == "-2:"
    rows = list(data_of().validation["text"])
    np.testing.assert_allclose(score_all(again, rows), score_all(encoder, rows), atol=1e-4)


@pytest.mark.parametrize("options", [{"layout": "padded"}, {}])
def test_a_ramp_where_there_is_none_is_refused(tmp_path, options):
    encoder = encoder_of(attention="bidirectional" if options else "causal")
    with pytest.raises(ConfigError, match="attention_ramp is for bidirectional"):
        train(encoder, data_of(), arguments(tmp_path, attention_ramp=0.5, **options))


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_the_weights_of_the_last_steps_are_averaged(tmp_path, tune):
    encoder, seen = encoder_of(), []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(
                {name: p.detach().clone() for name, p in encoder.named_parameters() if p.requires_grad}
            )

    options = {"load_best_model_at_end": False, "num_train_epochs": 2, "tune": tune, "merge_adapter": True}
    args = arguments(tmp_path, average_last=0.3, **options)
    result = train(encoder, data_of(), args, callbacks=[Watch()])
    assert len(seen) == result.run["steps"] == 10
    ended = {name: p.detach() for name, p in encoder.named_parameters()}
    for name in seen[0]:
        expected = torch.stack([weights[name] for weights in seen[-3:]]).mean(dim=0)
        torch.testing.assert_close(ended[name], expected, rtol=1e-5, atol=1e-7)
    logits = score_token_ids(encoder, encoder.tokenize(data_of().validation["text"]).input_ids, 100)
    torch.testing.assert_close(torch.tensor(result.scores), torch.tensor(logits), rtol=1e-4, atol=1e-5)


def test_a_mean_of_weights_and_the_best_checkpoint_do_not_go_together(tmp_path):
    with pytest.raises(ConfigError, match="average_last saves a mean"):
        arguments(tmp_path, average_last=0.3)
