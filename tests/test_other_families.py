"""Families beyond the six that are held to work: each becomes a right encoder, or is refused in one line."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

from gemma_encoder.decoders import Decoder
from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import AttentionError, ConfigError, DecoderError
from gemma_encoder.testing import tiny_tokenizer
from gemma_encoder.text import TextConfig

POSITIONS = 64
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "max_position_embeddings": POSITIONS,
}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
OLD: dict[str, Any] = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": POSITIONS}
CONFIGS: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "doge": {**SIZES, **HEADS},
    "gpt2": OLD,
    "gpt_oss": {**SIZES, **HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
    "gptj": {**OLD, "rotary_dim": 8},
    "llama4_text": {
        **SIZES,
        **HEADS,
        "attention_chunk_size": 4,
        "num_local_experts": 2,
        "intermediate_size_mlp": 64,
        "no_rope_layers": [1, 0],
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": POSITIONS},
    "nemotron": {**SIZES, **HEADS},
    "olmo2": {**SIZES, **HEADS},
    "opt": {**SIZES, "num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "persimmon": {**SIZES, "num_attention_heads": 4},
    "phi3": {**SIZES, **HEADS},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
    "stablelm": {**SIZES, **HEADS},
    "vaultgemma": {
        **SIZES,
        **HEADS,
        "attn_logit_softcapping": 2.0,  # low, so that a cap left out shows
        "query_pre_attn_scalar": 8,
        "sliding_window": 4,
    },
}
TEXTS = ["good", "the film is very good and not bad at all, is it", "a river bank"]


def decoder_of(family: str) -> Decoder:
    tokenizer = tiny_tokenizer()
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    config = CONFIG_MAPPING[family](**CONFIGS[family], **tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = AutoModel.from_config(config, dtype=torch.float32)
        for name, parameter in backbone.named_parameters():
            if parameter.ndim > 1 or "sink" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return Decoder(backbone.eval(), tokenizer, f"tiny-{family}")


def encoder_of(family: str, **options: Any) -> Encoder:
    return Encoder.from_decoder(
        decoder_of(family), **{"seed": 0, "text": TextConfig(max_length=POSITIONS), **options}
    )


def pooled(encoder: Encoder) -> torch.Tensor:
    with torch.no_grad():
        return encoder(**encoder.collate(encoder.tokenize(TEXTS).input_ids)).pooled


@pytest.mark.parametrize("family", ["gpt2", "olmo2", "opt", "phi3", "vaultgemma"])
def test_an_adapted_family_computes_what_stock_eager_attention_computes(family):
    encoder = encoder_of(family)
    packed = pooled(encoder)
    encoder.layout = "padded"
    encoder.stock_backbone.set_attn_implementation("eager")
    torch.testing.assert_close(packed, pooled(encoder), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "keyword"), [("gpt_oss", "s_aux"), ("doge", "attention_mask")])
def test_what_a_family_passes_to_attention_is_not_left_out(family, keyword):
    encoder = encoder_of(family, verify=False)
    with pytest.raises(AttentionError, match=f"family {family} passes '{keyword}'"):
        pooled(encoder)


NO_INTERFACE = "transformers can't replace its attention function"


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize(
    ("family", "error", "message"),
    [
        ("bloom", DecoderError, NO_INTERFACE),
        ("gptj", DecoderError, NO_INTERFACE),
        ("mpt", DecoderError, NO_INTERFACE),
        ("mamba", DecoderError, "it has no attention heads"),
        ("rwkv", DecoderError, "it has no attention heads"),
        ("gpt_oss", AttentionError, "s_aux"),
        ("nemotron", AttentionError, "without a layout"),
        ("stablelm", AttentionError, "without a layout"),
    ],
)
def test_a_family_that_can_not_be_adapted_is_named(family, error, message, rate):
    with pytest.raises(error, match=f"The family {family} can't be adapted: .*{message}") as caught:
        encoder_of(family, dropout=DropoutConfig.uniform(rate))
    assert "dropout" not in str(caught.value) and "call the Encoder" not in str(caught.value)


def test_a_refused_decoder_is_left_as_it_was():
    decoder = decoder_of("gpt2")
    before = decoder.backbone.config._attn_implementation
    with pytest.raises(ConfigError):
        Encoder.from_decoder(decoder, text=TextConfig(max_length=POSITIONS + 1))
    assert decoder.backbone.config._attn_implementation == before
    Encoder.from_decoder(decoder, text=TextConfig(max_length=POSITIONS))


def test_an_error_of_modelling_code_becomes_one_line_that_names_the_family():
    decoder = decoder_of("olmo2")

    def break_down(*args):
        raise AttributeError("'NoneType' object has no attribute 'to'\nand more")

    decoder.backbone.layers[1].register_forward_pre_hook(break_down)
    with pytest.raises(DecoderError, match="family olmo2 can't be adapted: .*'NoneType'") as caught:
        Encoder.from_decoder(decoder)
    assert "\n" not in str(caught.value) and isinstance(caught.value.__cause__, AttributeError)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_family_that_stays_causal_in_the_padded_layout_is_refused(layout):
    """Llama 4 has chunked layers; the saved folder would be causal in sentence-transformers."""
    with pytest.raises(AttentionError, match="layer 0 is not as the policy 'bidirectional'.*layout padded"):
        encoder_of("llama4_text", layout=layout)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_texts_longer_than_the_learnt_positions_are_refused(family):
    with pytest.raises(ConfigError, match=f"max_length is {POSITIONS + 1},.*{family} has {POSITIONS} pos"):
        encoder_of(family, text=TextConfig(max_length=POSITIONS + 1))
    encoder = encoder_of(family)
    ids = encoder.tokenize(["good " * POSITIONS]).input_ids
    assert len(ids[0]) == POSITIONS
    with torch.no_grad():
        assert encoder(**encoder.collate(ids)).logits.isfinite().all()


def test_rotary_positions_may_be_exceeded():
    encoder = encoder_of("olmo2", text=TextConfig(max_length=2 * POSITIONS))
    ids = encoder.tokenize(["good " * 2 * POSITIONS]).input_ids
    with torch.no_grad():
        assert encoder(**encoder.collate(ids)).logits.isfinite().all()


def test_persimmon_has_a_dropout_module_where_others_have_a_rate():
    encoder = encoder_of("persimmon")
    assert isinstance(encoder.stock_backbone.layers[0].self_attn.attention_dropout, torch.nn.Dropout)
    with pytest.raises(DecoderError, match=r"dropout\.attention to 0"):
        encoder_of("persimmon", dropout=DropoutConfig(attention=0.1))


def test_the_padded_layout_keeps_a_soft_cap():
    encoder = encoder_of("vaultgemma", layout="padded")
    assert encoder.softcap and encoder.backend.name == "eager"


@pytest.mark.parametrize("family", ["gpt2", "olmo2", "opt", "phi3", "vaultgemma"])
def test_cross_encoder_gives_our_scores(family, tmp_path):
    """GPT-2 counts positions from the first column, so its folder must pad on the right."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = encoder_of(family)
    with torch.no_grad():
        ours = encoder(**encoder.collate(encoder.tokenize(TEXTS).input_ids)).logits.numpy()
    encoder.save_pretrained(tmp_path / "model")
    model = sentence_transformers.CrossEncoder(str(tmp_path / "model"), device="cpu")
    theirs = model.predict([[{"role": "user", "content": text}] for text in TEXTS])
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
