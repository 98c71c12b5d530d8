"""The benchmarks run, and refuse to time two different functions. Their figures mean nothing here."""

from __future__ import annotations

import json
from statistics import median

import numpy as np
import pytest
import torch
from benchmarks import common, scoring_speed, training_speed

from gemma_encoder import Encoder
from gemma_encoder.testing import tiny_decoder

TINY = ["--model", "unused", "--rounds", "2", "--device", "cpu"]


def test_training_speed_compares_both_layouts(tmp_path):
    out = tmp_path / "deep" / "training.json"
    training_speed.main(
        [*TINY, "--batch-size", "3", "--dtypes", "float32", "bfloat16", "--out", str(out)],
        decoder=tiny_decoder("gemma3"),
    )
    result = json.loads(out.read_text())
    assert [each["dtype"] for each in result["comparisons"]] == ["float32", "bfloat16"]
    for each in result["comparisons"]:
        packed, padded = each["ours"], each["reference"]
        assert (packed["name"], padded["name"]) == ("packed", "padded")
        ratios = [a / b for a, b in zip(packed["all"], padded["all"], strict=True)]
        assert each["ratio"] == {"median": median(ratios), "min": min(ratios), "max": max(ratios)}


def test_scoring_speed_compares_with_cross_encoder(capsys):
    result = scoring_speed.main([*TINY, "--rows", "6", "--dtypes", "float32"], decoder=tiny_decoder("llama"))
    (comparison,) = result["comparisons"]
    assert len(comparison["ours"]["all"]) == len(comparison["reference"]["all"]) == 2
    assert "| float32 |" in capsys.readouterr().out
    assert "WNLI" in result["data"], "without --data-dir the result must say that it isn't MRPC"


def test_a_layout_that_computes_something_else_is_refused(monkeypatch):
    encoder = Encoder.from_decoder(tiny_decoder("llama"), seed=0, verify=False)
    batch = encoder.collate(encoder.tokenize(["a good film", "the river bank"]).input_ids)
    assert training_speed._layouts_agree(encoder, batch) < 1e-4
    stock = encoder.encode_tokens
    wrong = {"packed": 1.0, "padded": -1.0}
    monkeypatch.setattr(encoder, "encode_tokens", lambda *args: stock(*args) * wrong[encoder.layout])
    with pytest.raises(AssertionError, match="layouts disagree"):
        training_speed._layouts_agree(encoder, batch)


def test_scores_that_differ_are_refused():
    scores = np.array([[1.0], [2.0], [3.0]])
    assert scoring_speed._scores_agree(scores, scores, "float32") == 0
    with pytest.raises(AssertionError, match="scores disagree"):
        scoring_speed._scores_agree(scores, scores[::-1], "float32")
    with pytest.raises(AssertionError, match="scores disagree"):
        scoring_speed._scores_agree(scores, scores * torch.nan, "bfloat16")


def test_the_order_turns_round():
    order: list[str] = []
    contenders = {"first": lambda: order.append("first"), "second": lambda: order.append("second")}
    taken = [common.interleave(contenders, number, "cpu") for number in range(2)]
    assert order == ["first", "second", "second", "first"]
    assert all(times.keys() == contenders.keys() for times in taken)
