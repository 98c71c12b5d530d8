"""Training as its user sees it: the budget changes nothing, a kill costs nothing, failures are named."""

import json
from pathlib import Path

import pytest
import torch
from training_samples import SCORES, arguments, data_of, encoder_of, weights

from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import ConfigError, GemmaEncoderError, TrainingError
from gemma_encoder.pooling import attention
from gemma_encoder.scoring import score_token_ids
from gemma_encoder.training import train
from gemma_encoder.training.trainer import EncoderTrainer, last_checkpoint


def trained(folder: Path, **options) -> dict[str, torch.Tensor]:
    encoder = encoder_of()
    train(encoder, data_of(), arguments(folder, **options))
    return weights(encoder)


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 1},  # a pass for every row
        {"max_tokens": 25},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_tokens": 25},
        {"activation_checkpointing": True},
    ],
)
def test_how_a_batch_is_cut_does_not_change_what_is_learnt(tmp_path, options):
    torch.testing.assert_close(
        trained(tmp_path / "a"), trained(tmp_path / "b", **options), rtol=1e-3, atol=1e-5
    )


def test_the_last_short_batch_of_accumulation_is_a_mean_over_its_rows(tmp_path):
    """37 rows: the last step has 5, in batches of 4 and 1; a mean of means would favour the single row."""
    results = []
    for number, options in enumerate(
        ({}, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2})
    ):
        encoder = encoder_of()
        train(encoder, data_of(train_rows=37), arguments(tmp_path / str(number), **options))
        results.append(weights(encoder))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)


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


class _Killed(BaseException):
    """What a kill leaves behind: nothing is handled on the way out."""


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, monkeypatch, tune):
    options = {
        "num_train_epochs": 3,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "save_steps": 2,
        "eval_steps": 2,
        "tune": tune,
        "load_best_model_at_end": False,
    }
    dropout = DropoutConfig.uniform(0.1)
    whole = encoder_of(dropout=dropout)
    train(whole, data_of(), arguments(tmp_path / "whole", **options))

    step = EncoderTrainer.training_step

    def killed_at_step_9(trainer, *args, **kwargs):
        if trainer.state.global_step == 8:
            raise _Killed
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(EncoderTrainer, "training_step", killed_at_step_9)
        with pytest.raises(_Killed):
            train(encoder_of(dropout=dropout), data_of(), arguments(tmp_path / "cut", **options))
    checkpoints = tmp_path / "cut" / "model.checkpoints"
    (checkpoints / "checkpoint-99").mkdir()  # a checkpoint that the kill cut short
    assert last_checkpoint(checkpoints).endswith("checkpoint-8")
    resumed = encoder_of(dropout=dropout)
    torch.rand(5)  # the generator stands elsewhere in the new process
    train(resumed, data_of(), arguments(tmp_path / "cut", **options), resume=True)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint to resume"):
        train(encoder_of(), data_of(), arguments(tmp_path), resume=True)


def test_resuming_with_other_options_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Encoder, "save_pretrained", lambda *a, **k: (_ for _ in ()).throw(TrainingError("stop"))
    )
    with pytest.raises(TrainingError, match="stop"):
        train(encoder_of(), data_of(), arguments(tmp_path))
    with pytest.raises(GemmaEncoderError, match="other options"):
        train(encoder_of(), data_of(), arguments(tmp_path, tune="head"), resume=True)


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


def test_a_non_finite_loss_names_its_row_and_stops(tmp_path, monkeypatch):
    encoder, loss = encoder_of(SCORES), Encoder.loss

    def breaks_at_row_33(encoder, logits, labels, reduction):
        return loss(encoder, logits, labels, reduction) * (float("nan") if 31.0 in labels else 1.0)

    monkeypatch.setattr(Encoder, "loss", breaks_at_row_33)
    with pytest.raises(TrainingError, match=r"loss became nan.*\[rows 33 of"):  # row numbers start at 2
        train(encoder, data_of(SCORES, label=float), arguments(tmp_path, max_tokens=1))
    assert json.loads((tmp_path / "model.checkpoints" / "run.json").read_text())["status"] == "failed"


def test_out_of_memory_names_the_budget(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

    encoder = encoder_of()
    monkeypatch.setattr(encoder.pooler, "forward", full)
    with pytest.raises(GemmaEncoderError, match="Out of memory.*max_tokens=2048.*lower max_tokens"):
        train(encoder, data_of(), arguments(tmp_path))


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    save = EncoderTrainer._save_optimizer_and_scheduler

    def full_at_the_second(trainer, folder):
        if trainer.state.global_step > 5:
            raise OSError(28, "No space left on device")
        save(trainer, folder)

    monkeypatch.setattr(EncoderTrainer, "_save_optimizer_and_scheduler", full_at_the_second)
    with pytest.raises(TrainingError, match="No space left"):
        train(encoder_of(), data_of(), arguments(tmp_path))
    assert last_checkpoint(tmp_path / "model.checkpoints").endswith("checkpoint-5")
    assert not (tmp_path / "model.checkpoints" / "checkpoint-10").exists()


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: (encoder_of(SCORES), data_of(), arguments(folder)), "The encoder answers regression"),
        (lambda folder: (encoder_of(), data_of(train_rows=0), arguments(folder)), "has no row"),
    ],
)
def test_what_can_not_work_is_refused_before_the_first_step(tmp_path, make, message):
    with pytest.raises(ConfigError, match=message):
        train(*make(tmp_path))


def test_fp16_is_refused_for_gemma(tmp_path):
    args = arguments(tmp_path)
    args.fp16 = True
    with pytest.raises(ConfigError, match="fp16 can't train Gemma"):
        train(encoder_of(), data_of(), args)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        train(encoder_of(), data_of(), arguments(tmp_path))


@pytest.mark.parametrize(
    "options",
    [{"tune": "some"}, {"max_tokens": 0}, {"learning_rate": -1.0}, {"lora_r": 0}, {"output_dir": None}],
)
def test_wrong_options_are_refused(tmp_path, options):
    with pytest.raises(ConfigError):
        arguments(tmp_path, **options)
