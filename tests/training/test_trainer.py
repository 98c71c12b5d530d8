"""The optimisation itself, against a loop written out in plain torch."""

import pytest
import torch
import torch.nn.functional as F
from training_samples import SCORES, arguments, data_of, encoder_of, weights

from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.errors import ConfigError, TrainingError
from gemma_encoder.tasks import Task
from gemma_encoder.training import train
from gemma_encoder.training.trainer import EncoderTrainer

# Adam and clipping hide a wrong factor in the gradient; plain SGD does not.
PLAIN_SGD = {
    "optim": "sgd",
    "learning_rate": 0.05,
    "max_grad_norm": 0.0,
    "weight_decay": 0.0,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "num_train_epochs": 3,
    "load_best_model_at_end": False,
}


def written_out(steps: int) -> dict[str, torch.Tensor]:
    """Steps of gradient descent over all rows at once, padded, through stock attention."""
    encoder = encoder_of(layout="padded")
    encoder.train()
    encoder.stock_backbone.get_input_embeddings().requires_grad_(False)
    rows = data_of().train
    batch = encoder.collate(encoder.tokenize(rows["text"][:]).input_ids)
    labels = torch.tensor(rows["label"][:])
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    for _ in range(steps):
        gradients = torch.autograd.grad(F.cross_entropy(encoder(**batch).logits, labels), trained)
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter -= 0.05 * gradient
    return weights(encoder)


@pytest.mark.parametrize(
    "options",
    [
        {"per_device_train_batch_size": 40},
        {"per_device_train_batch_size": 40, "max_tokens": 25},
        # 16 + 16 + 8 rows: every row counts the same, whatever batch it is in
        {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 3, "max_tokens": 25},
    ],
)
def test_a_step_is_one_step_of_gradient_descent_on_the_mean_loss(tmp_path, options):
    encoder = encoder_of()
    train(encoder, data_of(), arguments(tmp_path, **PLAIN_SGD, **options))
    torch.testing.assert_close(weights(encoder), written_out(3), rtol=1e-4, atol=1e-6)


def test_the_logged_loss_is_the_mean_over_rows(tmp_path):
    options = PLAIN_SGD | {"num_train_epochs": 1, "logging_steps": 1, "max_tokens": 25}
    encoder = encoder_of()
    rows = data_of().train
    with torch.no_grad():
        logits = encoder(**encoder.collate(encoder.tokenize(rows["text"][:]).input_ids)).logits
    expected = F.cross_entropy(logits, torch.tensor(rows["label"][:])).item()
    accumulated = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 3}
    result = train(encoder, data_of(), arguments(tmp_path, **options, **accumulated))
    assert next(entry["loss"] for entry in result.run["history"] if "loss" in entry) == pytest.approx(
        expected, rel=1e-3
    )


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_activation_checkpointing_changes_nothing_even_with_dropout(tmp_path, tune):
    results = []
    for on in (False, True):
        encoder = encoder_of(dropout=DropoutConfig.uniform(0.1))
        train(encoder, data_of(), arguments(tmp_path / str(on), tune=tune, activation_checkpointing=on))
        results.append(weights(encoder))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_head_tuning_runs_the_backbone_in_eval_mode_and_without_a_graph(tmp_path, monkeypatch):
    encoder, seen = encoder_of(dropout=DropoutConfig.uniform(0.5)), []
    forward = encoder.pooler.forward

    def look(hidden, mask):
        if encoder.head.training:
            seen.append((hidden.requires_grad, encoder.backbone.training))
        return forward(hidden, mask)

    monkeypatch.setattr(encoder.pooler, "forward", look)
    train(encoder, data_of(), arguments(tmp_path, tune="head"))
    assert seen and set(seen) == {(False, False)}


def test_bf16_trains_float32_weights_and_is_judged_in_bf16(tmp_path, monkeypatch):
    encoder, seen = encoder_of(), set()
    states = encoder.encode_tokens

    def look(input_ids, attention_mask):
        hidden = states(input_ids, attention_mask)
        seen.add((encoder.training, torch.is_autocast_enabled("cpu")))
        return hidden

    monkeypatch.setattr(encoder, "encode_tokens", look)
    result = train(encoder, data_of(), arguments(tmp_path, bf16=True, num_train_epochs=4))
    assert seen == {(True, True), (False, True)}
    assert {tensor.dtype for tensor in weights(encoder).values()} == {torch.float32}
    assert result.metrics["accuracy"] == 1.0


def test_a_step_with_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path, monkeypatch):
    """The loss of that batch is finite; the next checkpoint would hold nothing but NaN."""
    encoder = encoder_of()
    loss, calls = type(encoder).loss, []

    def finite_with_a_bad_gradient(encoder, logits, labels, reduction):
        value = loss(encoder, logits, labels, reduction)
        calls.append(labels)
        if len(calls) == 4:
            value = value + 0 * (value - value.detach()).sqrt()  # 0 * d sqrt(0) = 0 * inf
        return value

    monkeypatch.setattr(type(encoder), "loss", finite_with_a_bad_gradient)
    options = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    with pytest.raises(TrainingError, match=r"gradient became nan at step 4 \[rows \d+(, \d+){7} of"):
        train(encoder, data_of(), arguments(tmp_path, **options))
    assert all(tensor.isfinite().all() for tensor in weights(encoder).values())


def test_early_stopping_counts_on_after_a_resume(tmp_path, monkeypatch):
    """Of two evaluations without a better score one lies before the kill."""
    options = {"num_train_epochs": 30, "learning_rate": 1e-9, "early_stopping_patience": 2}
    step = EncoderTrainer.training_step

    def killed_in_the_third_epoch(trainer, *args, **kwargs):
        if trainer.state.global_step == 11:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(EncoderTrainer, "training_step", killed_in_the_third_epoch)
        with pytest.raises(KeyboardInterrupt):
            train(encoder_of(), data_of(), arguments(tmp_path, **options))
    result = train(encoder_of(), data_of(), arguments(tmp_path, **options), resume=True)
    assert result.run["steps"] == 3 * 5
    assert result.run["resumed_from"].endswith("checkpoint-10")


def test_multi_label_learns(tmp_path):
    task = Task(
        "tags", ("text",), "label", "multi_label_classification", ("bad", "good", "any"), ("f1_micro",)
    )
    data = data_of(task, label=lambda number: [float(number % 2 == 0), float(number % 2), 1.0])
    result = train(encoder_of(task), data, arguments(tmp_path, num_train_epochs=6))
    assert result.metrics["f1_micro"] == 1.0 > result.baseline["f1_micro"]


def test_the_unit_of_the_targets_does_not_change_what_is_learnt(tmp_path):
    """Standardised targets: the same rows in metres and in millimetres give the same weights."""
    results = []
    for unit in (1.0, 1000.0):
        encoder = encoder_of(SCORES)
        data = data_of(SCORES, label=lambda number, unit=unit: unit * (number % 5))
        train(encoder, data, arguments(tmp_path / str(unit)))
        results.append(weights(encoder))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)


def test_equal_targets_are_no_division_by_zero(tmp_path):
    encoder = encoder_of(SCORES)
    options = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    train(encoder, data_of(SCORES, label=lambda number: 7.0), arguments(tmp_path, **options))
    assert (encoder.head.output_scale, encoder.head.output_shift) == (1.0, 7.0)


def test_lora_on_layers_that_do_not_exist_names_those_that_do(tmp_path):
    with pytest.raises(ConfigError, match="lora_target_modules is 'query'.*q_proj"):
        train(encoder_of(), data_of(), arguments(tmp_path, tune="lora", lora_target_modules="query"))
