"""What stops a run, and what is refused before it starts; each in one line that says how to mend it."""

from __future__ import annotations

import json

import pytest
import torch
from toy_training import difference, new_encoder, toy_data, toy_rows, weights

from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import ConfigError, TrainingError
from gemma_encoder.tasks import TaskData
from gemma_encoder.testing import tiny_decoder
from gemma_encoder.training import train
from gemma_encoder.training.trainer import last_checkpoint


def one_line(error: Exception) -> str:
    assert "\n" not in str(error) and "Mend: " in str(error)
    return str(error)


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_gradient_that_is_not_finite_stops_before_it_ruins_the_weights(arguments, tmp_path, max_grad_norm):
    """The loss is finite and does not show it; clipping would spread it to every weight."""
    encoder, calls = new_encoder(), []

    def overflow(gradient):
        calls.append(0)
        return gradient * (float("inf") if len(calls) == 4 else 1.0)

    encoder.head.output.weight.register_hook(overflow)
    args = arguments(num_train_epochs=2, max_grad_norm=max_grad_norm)
    with pytest.raises(
        TrainingError, match="gradient became inf at step 4|gradient became nan at step 4"
    ) as error:
        train(encoder, toy_data(), args)
    one_line(error.value)
    assert all(torch.isfinite(tensor).all() for tensor in weights(encoder).values())
    assert last_checkpoint(tmp_path / "run.checkpoints").endswith("checkpoint-3")


def test_memory_that_runs_out_in_the_optimiser_is_named(arguments, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(
        TrainingError, match="Out of memory.*parameters train, max_tokens=2048.*lora"
    ) as error:
        train(new_encoder(), toy_data(), arguments())
    one_line(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"fsdp": "full_shard"}, "fsdp"),
        ({"early_stopping_patience": 0}, "early_stopping_patience is 0"),
        ({"early_stopping_patience": 2, "eval_strategy": "no"}, "strategy"),
        ({"tune": "lora", "train_embeddings": True}, "train_embeddings"),
        ({"save_minutes": -1}, "save_minutes is -1"),
        ({"eval_strategy": "sometimes"}, "sometimes"),
        ({"eval_strategy": "steps", "eval_steps": 3}, "save and eval strategy to match"),
    ],
)
def test_options_that_can_not_work(arguments, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        arguments(**options)
    one_line(error.value)


def test_lora_targets_that_do_not_exist(arguments):
    with pytest.raises(ConfigError, match="lora_target_modules is 'q_projection'") as error:
        train(new_encoder(), toy_data(), arguments(tune="lora", lora_target_modules="q_projection"))
    one_line(error.value)


def test_bfloat16_weights_are_not_fine_tuned_in_full(arguments):
    encoder = new_encoder().to(torch.bfloat16)
    with pytest.raises(ConfigError, match="bfloat16 weights loses small updates"):
        train(encoder, toy_data(), arguments())
    train(encoder, toy_data(), arguments(tune="lora"))


def test_bf16_autocast_in_training_and_evaluation_over_float32_weights(arguments, monkeypatch):
    seen = set()
    forward = Encoder.forward

    def remember(self, *args, **kwargs):
        seen.add((self.training, torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Encoder, "forward", remember)
    encoder = new_encoder()
    train(encoder, toy_data(), arguments(bf16=True))
    assert seen == {(True, True, torch.bfloat16), (False, True, torch.bfloat16)}
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    seen.clear()
    encoder(**encoder.collate([[1, 2, 3]]))
    assert seen == {(False, False, torch.bfloat16)}  # nothing of it stays on the encoder


def test_a_trained_regression_head_keeps_its_units(arguments, tmp_path):
    """Going on with other targets must not shift what the model already answers."""
    options = {"problem_type": "regression", "labels": ("score",)}
    data = toy_data(problem_type="regression", labels=("score",), metrics=("pearson",))

    def scaled(factor: float) -> TaskData:
        return TaskData(
            data.task, *(toy_rows(n, n, label=lambda good: 10.0 + factor * good) for n in (20, 8))
        )

    encoder = Encoder.from_decoder(tiny_decoder("gemma3"), seed=0, **options)
    train(encoder, scaled(4.0), arguments(num_train_epochs=3))
    scale, shift = encoder.head.output_scale, encoder.head.output_shift
    assert scale == pytest.approx(2.0, rel=0.1) and shift == pytest.approx(12.0, rel=0.1)
    before = weights(encoder)
    train(encoder, scaled(400.0), arguments(output_dir=str(tmp_path / "more"), learning_rate=1e-12))
    assert (encoder.head.output_scale, encoder.head.output_shift) == (scale, shift)
    assert difference(before, weights(encoder)) < 1e-6


def test_a_failed_run_leaves_a_record(arguments, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Encoder, "loss", stop)
    with pytest.raises(KeyboardInterrupt):
        train(new_encoder(), toy_data(), arguments())
    record = json.loads((tmp_path / "run.checkpoints" / "run.json").read_text())
    assert record["status"] == "interrupted" and record["seed"] == 0 and record["steps"] == 0
