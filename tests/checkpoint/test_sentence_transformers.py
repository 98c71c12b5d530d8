"""The folder gives the same scores in `sentence_transformers.CrossEncoder`."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from folder_samples import PAIR, PAIRS, SINGLE, TEXTS, encoder_of, scores, served

from gemma_encoder.encoder import Encoder
from gemma_encoder.heads import HeadConfig
from gemma_encoder.pooling import attention, first_k, last_k, mean
from gemma_encoder.testing import FAMILIES, tiny_decoder
from gemma_encoder.text import TextConfig


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", [mean(), first_k(1), last_k(1)], ids=lambda pooling: pooling.kind)
def test_cross_encoder_gives_our_scores(family, pooling, tmp_path):
    for text, rows, labels in ((SINGLE, TEXTS, ("a", "b", "c")), (PAIR, PAIRS, ("a", "b"))):
        encoder = encoder_of(family, pooling=pooling, text=text, labels=labels)
        assert any(encoder.tokenize(rows).truncated) and encoder.tokenizer.padding_side == "left"
        encoder.save_pretrained(tmp_path / "model")
        ours = scores(encoder, rows)
        assert np.abs(ours - ours[0]).max() > 0.01  # the rows differ, so equality says something
        np.testing.assert_allclose(served(tmp_path / "model", rows), ours, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("window", ["radius", "width", "full"])
def test_cross_encoder_agrees_on_window_padding_and_causality(side, window, tmp_path):
    for policy in ("bidirectional", "causal"):
        encoder = encoder_of("gemma3", attention=policy, window=window, pooling=last_k(1), text=PAIR)
        encoder.tokenizer.padding_side = side
        encoder.save_pretrained(tmp_path / "model")
        np.testing.assert_allclose(served(tmp_path / "model", PAIRS), scores(encoder, PAIRS), atol=1e-4)


@pytest.mark.parametrize(
    "head",
    [
        HeadConfig(depth=0),
        HeadConfig(depth=0, norm="none"),
        HeadConfig(depth=2, width=5, activation="gelu"),
        HeadConfig(depth=1, activation="relu", norm="none"),
        HeadConfig(depth=3, width=9, activation="silu"),
    ],
)
def test_cross_encoder_agrees_on_every_head(head, tmp_path):
    encoder = encoder_of("llama", head=head, problem_type="regression", labels=("score",))
    encoder.head.output_scale, encoder.head.output_shift = 2.5, -40.0  # a sigmoid would show
    encoder.save_pretrained(tmp_path / "model")
    np.testing.assert_allclose(served(tmp_path / "model", TEXTS), scores(encoder, TEXTS), atol=1e-4)


def test_cross_encoder_takes_a_single_text_as_a_string_and_refuses_a_pair(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = encoder_of()
    encoder.save_pretrained(tmp_path / "model")
    model = sentence_transformers.CrossEncoder(str(tmp_path / "model"), device="cpu")
    alone = np.stack([model.predict(text) for text in TEXTS])
    np.testing.assert_allclose(alone, scores(encoder, TEXTS), atol=1e-4)
    with pytest.raises(ValueError, match="This model takes one text"):
        model.predict([("a", "b")])


def test_cross_encoder_reads_beyond_the_decoders_position_limit_as_we_do(tmp_path):
    encoder = Encoder.from_decoder(
        tiny_decoder("llama", max_position_embeddings=16), verify=False, seed=0, text=SINGLE
    )
    encoder.save_pretrained(tmp_path / "model")
    np.testing.assert_allclose(served(tmp_path / "model", TEXTS), scores(encoder, TEXTS), atol=1e-4)


def test_cross_encoder_agrees_on_a_row_of_just_the_limit_whose_tail_merged(tmp_path):
    # " a" is one token, so this row does not end in the suffix, and sentence-transformers puts that over it.
    row = "bad b b "
    tokens = tiny_decoder("llama").tokenizer(f"<bos>{row}a<eos>", add_special_tokens=False).input_ids
    encoder = encoder_of("llama", text=TextConfig("{text}a", max_length=len(tokens)), pooling=last_k(1))
    encoder.save_pretrained(tmp_path / "model")
    assert encoder.tokenize([row]).truncated == [False] and encoder.tokenize([row]).input_ids != [tokens]
    np.testing.assert_allclose(served(tmp_path / "model", [row]), scores(encoder, [row]), atol=1e-4)


def test_cross_encoder_needs_nothing_of_this_package(tmp_path):
    pytest.importorskip("sentence_transformers")
    encoder = encoder_of(text=PAIR)
    encoder.save_pretrained(tmp_path / "model")
    script = (
        "import sys, json; sys.modules['gemma_encoder'] = None\n"
        "from sentence_transformers import CrossEncoder\n"
        "rows = json.loads(sys.stdin.read())\n"
        "print(json.dumps(CrossEncoder(sys.argv[1], device='cpu').predict(rows).tolist()))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model")],
        input=json.dumps(PAIRS),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    np.testing.assert_allclose(json.loads(ran.stdout.splitlines()[-1]), scores(encoder, PAIRS), atol=1e-4)


@pytest.mark.parametrize(
    "pooling", [last_k(3), first_k(2, skip_bos=True), attention("query", 2), attention("kv", 3)]
)
def test_poolers_of_our_own_need_trust(pooling, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = encoder_of(pooling=pooling, text=PAIR)
    encoder.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="trust_remote_code"):
        served(tmp_path / "model", PAIRS)
    ours = scores(encoder, PAIRS)
    np.testing.assert_allclose(served(tmp_path / "model", PAIRS, trust_remote_code=True), ours, atol=1e-4)
    # saved again by sentence-transformers
    model = sentence_transformers.CrossEncoder(str(tmp_path / "model"), device="cpu", trust_remote_code=True)
    model.save_pretrained(str(tmp_path / "again"))
    np.testing.assert_allclose(served(tmp_path / "again", PAIRS, trust_remote_code=True), ours, atol=1e-4)


@pytest.mark.parametrize("pooling", [mean(), attention("query", 2)])
def test_cross_encoder_in_bfloat16_is_close(pooling, tmp_path):
    encoder = encoder_of(pooling=pooling).to(torch.bfloat16)
    encoder.save_pretrained(tmp_path / "model")
    theirs = served(tmp_path / "model", TEXTS, trust_remote_code=True)  # rounds the head to bfloat16 too
    np.testing.assert_allclose(theirs, scores(encoder, TEXTS), atol=0.1)


@pytest.mark.parametrize(("family", "since"), [("gemma2", ">=5.22"), ("gemma3", ">=5.2")])
def test_the_folder_says_which_transformers_computes_its_scores(family, since, tmp_path):
    """Before 5.22 transformers took SDPA for Gemma 2, which leaves its soft-cap out without a word."""
    encoder_of(family).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config_sentence_transformers.json").read_text())
    assert config["requirements"]["transformers"]["specifier"] == since


def test_an_older_transformers_is_refused_for_a_soft_cap(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    encoder_of("gemma2").save_pretrained(tmp_path / "model")
    monkeypatch.setattr("transformers.__version__", "5.21.0")
    with pytest.raises(ImportError, match="soft-cap"):
        served(tmp_path / "model", TEXTS)
