"""An encoder comes back from its folder bit for bit."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from folder_samples import PAIR, PAIRS, TEXTS, encoder_of, scores

from gemma_encoder.encoder import Encoder
from gemma_encoder.heads import HeadConfig
from gemma_encoder.pooling import attention, first_k, last_k
from gemma_encoder.testing import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention_policy", ["bidirectional", "causal"])
def test_reload_gives_equal_logits(family, attention_policy, tmp_path):
    encoder = encoder_of(family, attention=attention_policy, window="width", text=PAIR)
    encoder.save_pretrained(tmp_path / "model")
    again = Encoder.from_pretrained(tmp_path / "model")
    assert again.config == encoder.config and not again.training
    assert np.array_equal(scores(again, PAIRS), scores(encoder, PAIRS))
    again.layout = encoder.layout = "padded"  # the stock path reads policy and window from config.json
    assert np.array_equal(scores(again, PAIRS), scores(encoder, PAIRS))


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": last_k(3)},
        {"pooling": first_k(2, skip_bos=True), "head": HeadConfig(depth=2, width=7, activation="silu")},
        {"pooling": attention("query", 2), "head": HeadConfig(depth=0, norm="none")},
        {"pooling": attention("kv", 3), "labels": ("one", "two", "drei ß")},
        {"problem_type": "regression", "labels": ("score",)},
    ],
)
def test_reload_gives_pooler_head_and_options_back(options, tmp_path):
    encoder = encoder_of(**options)
    if encoder.config.problem_type == "regression":
        encoder.head.output_scale, encoder.head.output_shift = 1 / 3, 2.7
    encoder.save_pretrained(tmp_path / "first")
    again = Encoder.from_pretrained(tmp_path / "first")
    again.save_pretrained(tmp_path / "second")  # no drift over generations
    again = Encoder.from_pretrained(tmp_path / "second")
    assert again.config == encoder.config
    for part in ("pooler", "head"):
        ours, theirs = getattr(encoder, part).state_dict(), getattr(again, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert np.array_equal(scores(again, TEXTS), scores(encoder, TEXTS))


def test_saving_changes_nothing_of_the_live_model(tmp_path):
    encoder = encoder_of()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.save_pretrained(tmp_path / "model")
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert encoder.tokenizer.chat_template is None and encoder.tokenizer.model_max_length > 10**9
    assert encoder.layout == "packed" and scores(encoder, ["a"]).shape == (1, 2)


def test_loading_in_bfloat16_keeps_pooler_and_head_in_float32(tmp_path):
    encoder_of(pooling=attention()).save_pretrained(tmp_path / "model")
    again = Encoder.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16
    assert {p.dtype for part in (again.pooler, again.head) for p in part.parameters()} == {torch.float32}


def test_the_files_are_safetensors_and_text(tmp_path):
    encoder_of(pooling=attention(), labels=("no", "yes")).save_pretrained(tmp_path / "model")
    suffixes = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".jinja", ".md"}
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "yes"} and config["label2id"] == {"no": 0, "yes": 1}
    assert config["problem_type"] == "single_label_classification" and config["is_causal"] is False
    assert json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())["model_max_length"] == 32


def test_plain_transformers_and_numpy_read_the_folder(tmp_path, monkeypatch):
    """The recipe of docs/format.md as it stands there, which has nothing of this package."""
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    [recipe] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "numpy" in block]
    assert "gemma_encoder" not in recipe
    encoder, printed = encoder_of(labels=("a", "b", "c")), []
    encoder.save_pretrained(tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    exec(recipe, {"print": printed.append})
    np.testing.assert_allclose(printed[0], scores(encoder, ["a text"]), atol=1e-5)
