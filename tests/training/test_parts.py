"""Batches, parameter groups, the record and the progress bar, each by itself."""

import json
import sys
import time

import pytest
import torch
from toy_training import SCORES, arguments, data_of, encoder_of
from transformers import TrainerState

from gemma_encoder.errors import ConfigError
from gemma_encoder.pooling import attention
from gemma_encoder.text import TextConfig
from gemma_encoder.training.callbacks import ProgressLines, Throughput, seconds_since
from gemma_encoder.training.collation import Collator, TokenizedRows
from gemma_encoder.training.parameters import parameter_groups, set_trainable
from gemma_encoder.training.run_record import resolved_arguments


def test_rows_know_their_place_in_the_file_and_what_was_cut():
    encoder, data = encoder_of(SCORES), data_of(SCORES, label=float)
    rows = TokenizedRows(encoder, data.train)
    expected = encoder.tokenize(data.train["text"][:])
    assert rows.input_ids == expected.input_ids and rows.truncated == sum(expected.truncated)
    assert rows[3]["rows"] == 5 and rows[3]["labels"].item() == 3.0


def test_regression_labels_are_judged_in_full_and_trained_on_in_single_precision():
    """Pearson over labels near a million would otherwise not be what `evaluate` says."""
    labels = [1e6 + 0.01 * number for number in range(40)]
    rows = TokenizedRows(encoder_of(SCORES), data_of(SCORES, label=lambda number: labels[number]).train)
    assert rows.labels.tolist() == labels
    assert Collator(0)([rows[0], rows[1]])["labels"].dtype == torch.float32


def test_a_batch_is_padded_on_the_right():
    rows = [
        {"input_ids": [5, 6, 7], "labels": torch.tensor(1), "rows": 12},
        {"input_ids": [8], "labels": torch.tensor(0), "rows": 40},
    ]
    batch = {name: tensor.tolist() for name, tensor in Collator(9)(rows).items()}
    assert batch == {
        "input_ids": [[5, 6, 7], [8, 9, 9]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [1, 0],
        "rows": [12, 40],
        "lists": [0, 1],
    }


def test_pairs_are_tokenised_as_pairs():
    encoder = encoder_of(text=TextConfig("{text} then {text_pair}"))
    rows = data_of().train.add_column("text_pair", [f"pair {number}" for number in range(40)])
    expected = encoder.tokenize(list(zip(rows["text"], rows["text_pair"], strict=True))).input_ids
    assert TokenizedRows(encoder, rows).input_ids == expected


@pytest.mark.parametrize("head_rate", [None, 1e-2])
def test_every_trained_parameter_is_in_one_group_at_its_rate_and_decay(tmp_path, head_rate):
    encoder = encoder_of(pooling=attention())
    set_trainable(encoder, "full")
    args = arguments(tmp_path, learning_rate=1e-3, head_learning_rate=head_rate, weight_decay=0.5)
    groups = parameter_groups(encoder, args)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)
    for name, parameter in encoder.named_parameters():
        if name == "backbone.embed_tokens.weight":
            assert id(parameter) not in found
            continue
        rate = 1e-3 if name.startswith("backbone.") else (head_rate or 1e-3)
        is_matrix = not ("norm" in name or name.endswith("bias"))
        assert found.pop(id(parameter)) == (rate, 0.5 if is_matrix else 0.0), name
    assert not found


def test_lower_layers_change_at_lower_rates(tmp_path):
    encoder = encoder_of()
    set_trainable(encoder, "full", train_embeddings=True)
    args = arguments(tmp_path, learning_rate=1.0, head_learning_rate=3.0, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in parameter_groups(encoder, args) for p in group["params"]}
    layers = len(encoder.backbone.layers)
    for name, parameter in encoder.named_parameters():
        place = name.split(".")
        if place[0] != "backbone":
            expected = 3.0
        elif place[1] == "layers":
            expected = 0.5 ** (layers - 1 - int(place[2]))
        else:
            expected = {"embed_tokens": 0.5**layers, "norm": 1.0}[place[1]]
        assert rates[id(parameter)] == expected, name


@pytest.mark.parametrize("decay", [0.0, 1.1])
def test_a_layer_decay_that_is_no_share_is_refused(tmp_path, decay):
    with pytest.raises(ConfigError, match=f"layer_decay is {decay}"):
        arguments(tmp_path, layer_decay=decay)


def test_the_record_has_what_was_set_and_our_options_and_nothing_else(tmp_path):
    args = arguments(tmp_path, learning_rate=1e-3, warmup_steps=7, adam_beta2=0.98)
    record = resolved_arguments(args)
    assert record["learning_rate"] == 1e-3 and record["warmup_steps"] == 7 and record["adam_beta2"] == 0.98
    assert record["max_tokens"] == args.max_tokens and record["tune"] == "full"
    assert not {"adam_beta1", "hub_token", "output_dir", "run_name", "deepspeed"} & record.keys()
    json.dumps(record)


def test_throughput_counts_padding_that_was_not_computed():
    work = Throughput()
    assert (work.tokens_per_second, work.padding_avoided) == (0.0, 0.0)
    work.add(tokens=30, slots=40, seconds=1.0)
    work.add(tokens=30, slots=60, seconds=2.0)
    assert work.tokens_per_second == 20.0 and work.padding_avoided == pytest.approx(0.4)


def test_a_bar_on_a_terminal_is_closed_by_an_error_too(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = ProgressLines(Throughput(100, 200, 2.0))
    state = TrainerState(max_steps=10, global_step=4, is_world_process_zero=True)
    progress.on_train_begin(None, state, None)
    state.global_step = 6
    progress.on_step_end(None, state, None)
    progress.on_log(None, state, None, {"loss": 0.5})
    assert progress.bar.n == 6 and "loss 0.500, 50 tokens/s, 50% padding avoided" in str(progress.bar)
    progress.close()
    assert progress.bar.disable


def test_the_clock_waits_for_what_a_gpu_has_still_to_do(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: time.sleep(0.05))
    assert seconds_since(time.perf_counter()) >= 0.05
