"""The folder: back bit for bit, the same scores in sentence-transformers, whole or refused."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import CheckpointError
from gemma_encoder.heads import HeadConfig
from gemma_encoder.pooling import attention, first_k, last_k, mean
from gemma_encoder.testing import FAMILIES, tiny_decoder
from gemma_encoder.text import TextConfig

TEXTS = [
    "a",
    "",
    "the film is good\nbad",
    "not very " * 30,
    'it\'s {braced} "quoted" {{ x }} {% y %} \\n 😀',
    "a literal <eos> inside <bos> <pad>",
]
PAIRS = [(first, second) for first in TEXTS[:4] for second in TEXTS] + [("document " * 40, "b")]
SINGLE = TextConfig("{text}", max_length=32)
PAIR = TextConfig('  "query": {text}\n{document}: {text_pair} \n', max_length=48)


def encoder_of(family: str = "gemma3", **options) -> Encoder:
    encoder = Encoder.from_decoder(tiny_decoder(family), verify=False, seed=0, **{"text": SINGLE, **options})
    with torch.no_grad():  # biases and norms start at values that would hide a swapped or missing tensor
        for parameter in [*encoder.pooler.parameters(), *encoder.head.parameters()]:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return encoder


def with_lora(encoder: Encoder, **options) -> Encoder:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **options)
    encoder.backbone = get_peft_model(encoder.backbone, lora)
    return encoder.eval()


def scores(encoder: Encoder, rows) -> np.ndarray:
    with torch.no_grad():
        return encoder(**encoder.collate(encoder.tokenize(rows).input_ids)).logits.numpy()


def served(folder, rows, **options) -> np.ndarray:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu", **options)
    # A list of strings would be one pair: single texts of a batch go in as messages.
    rows = [row if isinstance(row, tuple) else [{"role": "user", "content": row}] for row in rows]
    return model.predict(rows, batch_size=5).reshape(len(rows), -1)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --------------------------------------------------------------------------------------- back from the folder


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
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
    [recipe] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "numpy" in block]
    assert "gemma_encoder" not in recipe
    encoder, printed = encoder_of(labels=("a", "b", "c")), []
    encoder.save_pretrained(tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    exec(recipe, {"print": printed.append})
    np.testing.assert_allclose(printed[0], scores(encoder, ["a text"]), atol=1e-5)


# ----------------------------------------------------------------------------------- in sentence-transformers


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


# --------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize(
    "options", [{}, {"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["up_proj"]}]
)
def test_merged_adapter(options, tmp_path):
    encoder = with_lora(encoder_of(), **options)
    if "modules_to_save" in options:
        with torch.no_grad():
            for name, parameter in encoder.backbone.named_parameters():
                if "modules_to_save" in name:
                    parameter.mul_(1.5)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    live = scores(encoder, TEXTS)
    assert np.abs(live - scores(encoder_of(), TEXTS)).max() > 0.01
    encoder.save_pretrained(tmp_path / "model")
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert np.array_equal(scores(encoder, TEXTS), live)
    again = Encoder.from_pretrained(tmp_path / "model")
    assert isinstance(again.backbone, PreTrainedModel)
    np.testing.assert_allclose(scores(again, TEXTS), live, atol=1e-5)
    np.testing.assert_allclose(served(tmp_path / "model", TEXTS), live, atol=1e-4)


def test_kept_adapter_of_a_model_made_in_memory_keeps_its_base_too(tmp_path):
    encoder = with_lora(encoder_of(window="width"))
    encoder.save_pretrained(tmp_path / "model", merge_adapter=False)
    assert (tmp_path / "model" / "base" / "model.safetensors").is_file()
    again = Encoder.from_pretrained(tmp_path / "model")
    assert hasattr(again.backbone, "peft_config")
    assert np.array_equal(scores(again, TEXTS), scores(encoder, TEXTS))
    again.save_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(
        scores(Encoder.from_pretrained(tmp_path / "merged"), TEXTS), scores(encoder, TEXTS), atol=1e-5
    )


@pytest.fixture
def decoder_folder(tmp_path) -> Path:
    decoder = tiny_decoder("gemma3")
    decoder.backbone.save_pretrained(tmp_path / "decoder")
    decoder.tokenizer.save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


@pytest.fixture
def adapted(decoder_folder, tmp_path) -> tuple[Encoder, Path]:
    encoder = with_lora(
        Encoder.from_decoder(decoder_folder, verify=False, seed=0, text=SINGLE, window="width")
    )
    encoder.save_pretrained(tmp_path / "model", merge_adapter=False)
    return encoder, tmp_path / "model"


def test_kept_adapter_loads_its_decoder_from_where_it_was(adapted):
    encoder, folder = adapted
    assert not (folder / "base").exists() and not (folder / "model.safetensors").exists()
    for dtype in (torch.float32, torch.bfloat16):  # the digest of the base does not depend on the type
        assert Encoder.from_pretrained(folder, dtype=dtype).dtype == dtype
    assert np.array_equal(scores(Encoder.from_pretrained(folder), TEXTS), scores(encoder, TEXTS))


def test_kept_adapter_on_weights_that_are_the_decoders_no_more_keeps_its_base(adapted, tmp_path):
    encoder, _ = adapted
    encoder.save_pretrained(tmp_path / "merged")
    trained_on = with_lora(Encoder.from_pretrained(tmp_path / "merged"))
    trained_on.save_pretrained(tmp_path / "second", merge_adapter=False)
    assert (tmp_path / "second" / "base").is_dir()
    again = Encoder.from_pretrained(tmp_path / "second")
    again.save_pretrained(tmp_path / "third", merge_adapter=False)
    for name in ("second", "third"):
        again = Encoder.from_pretrained(tmp_path / name)
        assert np.array_equal(scores(again, TEXTS), scores(trained_on, TEXTS))


def test_kept_adapter_without_its_decoder(adapted, decoder_folder):
    shutil.rmtree(decoder_folder)
    with pytest.raises(CheckpointError, match=r"can't be loaded.*bring .*decoder back"):
        Encoder.from_pretrained(adapted[1])


def test_kept_adapter_on_another_decoder(adapted, decoder_folder):
    tiny_decoder("gemma3", seed=7).backbone.save_pretrained(decoder_folder)
    with pytest.raises(CheckpointError, match="other weights"):
        Encoder.from_pretrained(adapted[1])


def test_kept_adapter_is_nothing_for_sentence_transformers_to_guess_at(adapted):
    with pytest.raises(ValueError, match="Unrecognized model"):
        served(adapted[1], TEXTS)


# ------------------------------------------------------------------------------------------------ bad folders


@pytest.fixture
def folder(tmp_path) -> Path:
    encoder_of(pooling=attention("query", 2)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


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


# -------------------------------------------------------------------------------------- saving, or not at all


def test_saving_replaces_the_encoder_and_keeps_other_files(tmp_path):
    folder = tmp_path / "model"
    encoder_of(head=HeadConfig(depth=3)).save_pretrained(folder)
    (folder / "run.json").write_text("{}")
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7" / "state.pt").write_text("x")
    encoder_of("llama", head=HeadConfig(depth=0)).save_pretrained(folder)
    assert (folder / "run.json").read_text() == "{}" and (folder / "checkpoint-7" / "state.pt").exists()
    assert sorted(path.name for path in folder.glob("[0-9]_*")) == ["1_Pooling", "2_LayerNorm", "3_Dense"]
    assert not list(tmp_path.glob(".*")) and not list(folder.glob(".*"))
    assert Encoder.from_pretrained(folder).stock_backbone.config.model_type == "llama"


def test_saving_into_an_empty_folder_and_beside_training_leftovers(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    encoder_of().save_pretrained(tmp_path)
    assert Encoder.from_pretrained(tmp_path).config == encoder_of().config


def test_saving_refuses_to_overwrite_what_it_did_not_write(tmp_path, decoder_folder):
    before = tree(decoder_folder)
    with pytest.raises(CheckpointError, match=r"another origin.*config\.json"):
        encoder_of().save_pretrained(decoder_folder)
    assert tree(decoder_folder) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        encoder_of().save_pretrained(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1_Pooling").write_text("mine")
    with pytest.raises(CheckpointError, match="another origin.*1_Pooling"):
        encoder_of().save_pretrained(tmp_path / "folder")
    assert tree(tmp_path / "folder") == {"1_Pooling": b"mine"}


@pytest.mark.parametrize("place", ["backbone", "head", "text"])
def test_a_full_disk_leaves_the_old_encoder(place, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    encoder_of().save_pretrained(folder)
    before = tree(folder)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {
        "backbone": (PreTrainedModel, "save_pretrained"),
        "head": ("gemma_encoder.st_stack.save_file",),
        "text": (Path, "write_text"),
    }[place]
    monkeypatch.setattr(*target, full)
    for path in (folder, tmp_path / "new"):
        with pytest.raises(CheckpointError, match="No space left on device.*free disk space"):
            encoder_of("llama").save_pretrained(path)
    monkeypatch.undo()
    assert tree(tmp_path) == {f"model/{name}": content for name, content in before.items()}
    Encoder.from_pretrained(folder)


@pytest.mark.parametrize("limit", [100, 3_000, 40_000])
def test_a_real_write_failure_leaves_the_old_encoder(limit, tmp_path):
    """Files may not grow beyond a limit, so that the libraries' own writers fail, each in its way."""
    folder = tmp_path / "model"
    encoder_of().save_pretrained(folder)
    before = tree(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    encoder = encoder_of("llama")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CheckpointError, match="can't be saved"):
            encoder.save_pretrained(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(folder) == before


@pytest.mark.parametrize("failing", range(1, 27, 5))
def test_a_failure_while_moving_in_is_undone(failing, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    encoder_of(head=HeadConfig(depth=2)).save_pretrained(folder)
    before, calls, rename = tree(folder), [], Path.rename

    def flaky(self, target):
        calls.append(self)
        if len(calls) == failing:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", flaky)
    with pytest.raises(CheckpointError, match="Input/output error"):
        encoder_of("llama").save_pretrained(folder)
    assert tree(folder) == before


def test_ctrl_c_while_moving_in_is_undone(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    encoder_of().save_pretrained(folder)
    before, rename = tree(tmp_path), Path.rename

    def interrupted(self, target):
        if self.name == "tokenizer.json" and self.parent.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encoder_of("llama").save_pretrained(folder)
    assert tree(tmp_path) == before


def test_what_stops_while_moving_in_is_refused_not_misread_nor_lost(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    encoder_of().save_pretrained(folder)
    before, moved, rename = tree(folder), [], Path.rename

    def stops(self, target):
        moved.extend([self] if self.name == "tokenizer.json" and self.parent.name == "new" else [])
        if moved:  # from here on nothing can be moved, not even back
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stops)
    with pytest.raises(CheckpointError, match="Input/output error"):
        encoder_of("llama").save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"gemma_encoder\.json is missing"):
        Encoder.from_pretrained(folder)
    [old] = folder.glob(".saving-*/old")
    assert tree(old) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="Permission denied.*may write"):
        encoder_of().save_pretrained(tmp_path / "locked" / "model")


def test_the_model_card_says_how_to_use_it(tmp_path):
    encoder_of(text=PAIR, labels=("no", "yes")).save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    for phrase in (
        "Encoder.from_pretrained",
        "CrossEncoder(",
        "Gemma Terms of Use",
        "no, yes",
        "tiny-gemma3",
    ):
        assert phrase in card
