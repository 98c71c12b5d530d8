"""A folder that is not whole is refused, with the reason."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from folder_samples import TEXTS, scores
from safetensors.torch import load_file, save_file

from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import CheckpointError


def edit(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def without(path: Path, tensor: str) -> None:
    tensors = load_file(path)
    del tensors[tensor]
    save_file(tensors, path, metadata={"format": "pt"})


def reshaped(path: Path, tensor: str) -> None:
    save_file({**load_file(path), tensor: torch.zeros(7)}, path, metadata={"format": "pt"})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda f: without(f / "3_Dense/model.safetensors", "linear.bias"),
            r"linear\.bias is missing.*3_Dense",
        ),
        (
            lambda f: without(f / "2_LayerNorm/model.safetensors", "norm.weight"),
            r"norm\.weight is missing.*2_L",
        ),
        (
            lambda f: without(f / "1_Pooling/model.safetensors", "pooler.probes"),
            r"pooler\.probes is missing.*1_P",
        ),
        (
            lambda f: without(f / "model.safetensors", "layers.2.mlp.up_proj.weight"),
            r"layers\.2\.mlp\.up_proj\.weight",
        ),
        (
            lambda f: reshaped(f / "model.safetensors", "norm.weight"),
            r"norm\.weight is \(7,\), should be \(32,\)",
        ),
        (
            lambda f: reshaped(f / "3_Dense/model.safetensors", "linear.bias"),
            r"head does not fit.*layers\.0\.bias",
        ),
        (lambda f: (f / "4_Dense/model.safetensors").unlink(), r"model\.safetensors is missing.*4_Dense"),
        (lambda f: shutil.rmtree(f / "4_Dense"), "4_Dense is missing"),
        (lambda f: cut(f / "model.safetensors"), r"can't be read.*model/model\.safetensors"),
        (lambda f: cut(f / "3_Dense/model.safetensors"), r"can't be read.*3_Dense/model\.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), r"can't be read.*model/model\.safetensors"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "can't be loaded"),
        (lambda f: (f / "gemma_encoder.json").write_text("{"), r"gemma_encoder\.json can't be read"),
        (lambda f: (f / "gemma_encoder.json").write_text("[]"), r"gemma_encoder\.json can't be read"),
        (lambda f: edit(f / "gemma_encoder.json", lambda d: d.update(format_version=2)), "format 2.*newer"),
        (
            lambda f: edit(f / "gemma_encoder.json", lambda d: d.update(output_shift="1")),
            "output_shift is '1'",
        ),
        (
            lambda f: edit(f / "gemma_encoder.json", lambda d: d.update(output_scale=float("nan"))),
            "output_scale is nan",
        ),
        (lambda f: edit(f / "gemma_encoder.json", lambda d: d.update(encoder=[])), r"encoder is \[\]"),
        (lambda f: edit(f / "gemma_encoder.json", lambda d: d.update(adapter={})), r"adapter is {}"),
        (lambda f: edit(f / "gemma_encoder.json", lambda d: d.update(files=None)), "files is None"),
        (
            lambda f: edit(f / "gemma_encoder.json", lambda d: d.pop("output_scale")),
            "'output_scale' is missing",
        ),
        (
            lambda f: edit(f / "gemma_encoder.json", lambda d: d["encoder"]["pooling"].update(kind="max")),
            "pooling.kind is 'max'",
        ),
        (
            lambda f: edit(f / "gemma_encoder.json", lambda d: d["encoder"].update(labels=["a", "b", "c"])),
            r"head does not fit.*output",
        ),
        (
            lambda f: edit(f / "config.json", lambda d: d.update(is_causal=True)),
            "is_causal=True.*bidirectional",
        ),
    ],
)
def test_a_broken_folder_is_refused_with_the_reason(break_it, message, folder, capfd):
    break_it(folder)
    capfd.readouterr()
    with pytest.raises(CheckpointError, match=message) as caught:
        Encoder.from_pretrained(folder)
    assert str(folder) in str(caught.value) and "Mend:" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # the error says it all


def test_a_folder_that_is_no_encoder_is_told_what_it_looks_like(tmp_path, decoder_folder, folder):
    (tmp_path / "empty").mkdir()
    (folder / "gemma_encoder.json").unlink()
    for path, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "empty", "this is no model"),
        (decoder_folder, "perhaps a decoder.*gemma-encoder adapt"),
        (folder, "this is a sentence-transformers model"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Encoder.from_pretrained(path)


def test_files_only_others_read_may_be_missing(folder):
    rows = scores(Encoder.from_pretrained(folder), TEXTS)
    for name in ("README.md", "modules.json", "chat_template.jinja", "config_sentence_transformers.json"):
        (folder / name).unlink()
    assert np.array_equal(scores(Encoder.from_pretrained(folder), TEXTS), rows)
