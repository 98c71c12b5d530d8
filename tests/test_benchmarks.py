"""The benchmarks run, and refuse to time two different functions. Their figures mean nothing here."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from benchmarks import attention, common, scoring_speed, training_speed

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


DATA = Path(__file__).parent.parent / "datasets" / "glue"


def test_a_trial_of_the_comparison_is_run_once(tmp_path, decoder_folder, capsys):
    results, work = tmp_path / "results.jsonl", tmp_path / "work"
    command = ["--data-dir", str(DATA), "--model", str(decoder_folder), "--tasks", "wnli=4"]
    command += ["--learning-rates", "1e-3", "--results", str(results), "--work", str(work)]
    attention.main([*command, "--arms", "stock classifier", "--seeds", "0"])
    (line,) = results.read_text().splitlines()
    record = json.loads(line)
    assert (record["rows"], record["steps"], record["baseline"]["accuracy"]) == (4, 1, pytest.approx(40 / 71))
    assert not list(work.glob("*/model.safetensors")), "the weights of a finished trial are deleted"
    capsys.readouterr()
    attention.main([*command, "--arms", "stock classifier", "--seeds", "0"])
    assert results.read_text().splitlines() == [line]
    score = 100 * record["metrics"]["accuracy"]
    assert f"| 0.001 | stock classifier | 1 | {score:.1f} |" in capsys.readouterr().out


def test_a_trial_that_fails_says_where_its_log_is(tmp_path, decoder_folder):
    command = ["--data-dir", str(tmp_path), "--model", str(decoder_folder), "--tasks", "wnli"]
    with pytest.raises(RuntimeError, match=r"exit code 2; see .*\.log"):
        attention.main([*command, "--results", str(tmp_path / "r.jsonl"), "--work", str(tmp_path / "work")])
    assert not (tmp_path / "r.jsonl").exists()


def test_the_table_of_the_comparison():
    trials = [
        attention.Trial("m", "rte", None, arm, 5e-5, seed) for arm in attention.ARMS for seed in range(3)
    ]
    records = [
        {
            "main_metric": "accuracy",
            "metrics": {"accuracy": 0.5 + 0.01 * trial.seed + 0.02 * (trial.arm == "causal + last token")},
            "baseline": {"accuracy": 0.5},
        }
        for trial in trials
    ]
    lines = attention.table(dict(zip(trials, records, strict=True))).splitlines()
    before = "| m | rte | all | 1 | accuracy | 50.0 | 5e-05 |"
    assert lines[2] == f"{before} bidirectional + mean | 3 | 51.0 ± 2.5 |  |"
    assert lines[3] == f"{before} causal + last token | 3 | 53.0 ± 2.5 | +2.0 ± 0.0 |"
    assert len(lines) == 2 + len(attention.ARMS)
