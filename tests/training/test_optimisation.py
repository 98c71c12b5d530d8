"""What a training run computes: against loops written out, and what must not change it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from toy_training import SCORES, arguments, data_of, descend, difference, encoder_of, weights

from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.training import train
from gemma_encoder.training.collation import Collator

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
    rows = data_of().train
    batch = encoder.collate(encoder.tokenize(rows["text"][:]).input_ids)
    labels = torch.tensor(rows["label"][:])
    return descend(encoder, lambda: F.cross_entropy(encoder(**batch).logits, labels), steps)


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


# Adam's first steps are the gradients' signs times the learning rate: an epsilon this large makes them
# smooth, so that rounding stays rounding. A wrong normalisation changes weights by about 1e-3.
EPSILON = 1e-3


def test_training_equals_a_loop_written_out(tmp_path):
    """20 rows in batches of 8: the last batch has 4, and is normalised by 4."""
    encoder = encoder_of()
    options = {
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "head_learning_rate": 3e-3,
        "max_grad_norm": 0.5,
        "weight_decay": 0.1,
        "warmup_steps": 0,
        "adam_epsilon": EPSILON,
    }
    order: list[int] = []
    collate = Collator.__call__

    def remember(self, rows):
        order.extend(row["rows"] for row in rows)
        return collate(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Collator, "__call__", remember)
        train(encoder, data_of(train_rows=20), arguments(tmp_path, max_tokens=25, **options))
    assert sorted(order) == list(range(2, 22)) and order != sorted(order)

    reference = encoder_of()
    reference.train()
    reference.stock_backbone.get_input_embeddings().weight.requires_grad_(False)
    groups = []
    for name, parameter in reference.named_parameters():
        rate = 3e-3 if name.startswith(("head.", "pooler.")) else 1e-3
        decay = 0.0 if "norm" in name or name.endswith("bias") else 0.1
        if parameter.requires_grad:
            groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, eps=EPSILON)
    rows = data_of(train_rows=20).train
    for step in range(3):
        batch = [rows[number - 2] for number in order[8 * step : 8 * step + 8]]
        inputs = reference.collate(reference.tokenize([row["text"] for row in batch]).input_ids)
        logits = reference(**inputs).logits
        torch.nn.functional.cross_entropy(logits, torch.tensor([row["label"] for row in batch])).backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        for group in optimizer.param_groups:  # linear decay to 0 over 3 steps
            group["lr"] = group.setdefault("first", group["lr"]) * (3 - step) / 3
        optimizer.step()
        optimizer.zero_grad()
    assert difference(weights(encoder), weights(reference)) < 1e-5


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


def trained(folder: Path, layout="packed", **options) -> dict[str, torch.Tensor]:
    encoder = encoder_of(layout=layout)
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


def test_the_padded_layout_learns_the_same(tmp_path):
    packed, padded = trained(tmp_path / "a"), trained(tmp_path / "b", layout="padded", max_tokens=50)
    assert difference(packed, weights(encoder_of())) > 1e-3
    torch.testing.assert_close(padded, packed, rtol=1e-3, atol=1e-5)


def test_the_seed_decides_the_order_of_rows_and_nothing_drawn_before_does(tmp_path):
    first = trained(tmp_path / "first", seed=3)
    torch.rand(17)
    assert difference(first, trained(tmp_path / "second", seed=3)) == 0
    assert difference(first, trained(tmp_path / "third", seed=4)) > 1e-4


def test_dropout_is_on_in_training_and_off_afterwards(tmp_path):
    dropped = encoder_of(dropout=DropoutConfig.uniform(0.3))
    train(dropped, data_of(), arguments(tmp_path / "dropped"))
    assert difference(weights(dropped), trained(tmp_path / "none")) > 1e-4
    assert not any(module.training for module in dropped.modules())


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

    def look(input_ids, attention_mask, **options):
        hidden = states(input_ids, attention_mask, **options)
        seen.add((encoder.training, torch.is_autocast_enabled("cpu")))
        return hidden

    monkeypatch.setattr(encoder, "encode_tokens", look)
    result = train(encoder, data_of(), arguments(tmp_path, bf16=True, num_train_epochs=4))
    assert seen == {(True, True), (False, True)}
    assert {tensor.dtype for tensor in weights(encoder).values()} == {torch.float32}
    assert result.metrics["accuracy"] == 1.0
    seen.clear()
    encoder(**encoder.collate([[1, 2, 3]]))
    assert seen == {(False, False)}, "autocast is of the run, not of the encoder"


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


def test_a_trained_regression_head_keeps_its_units(tmp_path):
    """Going on with other targets must not shift what the model already answers."""
    encoder = encoder_of(SCORES)
    train(encoder, data_of(SCORES, label=lambda number: 10.0 + 4.0 * (number % 2)), arguments(tmp_path))
    scale, shift = encoder.head.output_scale, encoder.head.output_shift
    assert scale == pytest.approx(2.0) and shift == pytest.approx(12.0)
    before = weights(encoder)
    others = data_of(SCORES, label=lambda number: 10.0 + 400.0 * (number % 2))
    train(encoder, others, arguments(tmp_path / "more", learning_rate=1e-12))
    assert (encoder.head.output_scale, encoder.head.output_shift) == (scale, shift)
    assert difference(before, weights(encoder)) < 1e-6
