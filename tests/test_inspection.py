"""The receptive field is measured rightly, wrong layers are found, and the report says what is so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModel

from gemma_encoder.attention import apply_policy
from gemma_encoder.dropout import DropoutConfig, decoder_layers
from gemma_encoder.encoder import Encoder
from gemma_encoder.encoder_config import EncoderConfig
from gemma_encoder.errors import AttentionError
from gemma_encoder.inspection import assert_bidirectional, assert_policy, describe, receptive_field, render
from gemma_encoder.pooling import attention, first_k
from gemma_encoder.testing import tiny_tokenizer

SIZES = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
LOCAL_FIRST = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("GemmaConfig", {}),
    "gemma2": ("Gemma2Config", {"layer_types": LOCAL_FIRST}),
    "gemma3": ("Gemma3TextConfig", {"layer_types": LOCAL_FIRST}),
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {}),
    "qwen3": ("Qwen3Config", {}),
}
LOCAL_LAYERS = {"gemma2": (0, 2), "gemma3": (0, 2), "mistral": (0, 1, 2)}
WINDOW = 6
LAYOUTS = ("packed", "padded")
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def make_backbone(family: str, width: int = WINDOW, **options: Any) -> Any:
    torch.manual_seed(0)
    kind, extra = FAMILIES[family]
    config = getattr(transformers, kind)(**SIZES, **extra, **options)
    if family in LOCAL_LAYERS:
        config.sliding_window = width
    return AutoModel.from_config(config, attn_implementation="eager").eval()


def make_encoder(family: str, layout: Any = "packed", *, width: int = WINDOW, **options: Any) -> Encoder:
    backbone, config = make_backbone(family, width), EncoderConfig(**options)
    apply_policy(backbone, config.attention, config.window)
    return Encoder(backbone, tiny_tokenizer(), config, layout=layout).eval()


def reaches(encoder: Encoder, side: Any = "right", probe_length: int | None = None) -> list[tuple]:
    measured = receptive_field(encoder, padding_side=side, probe_length=probe_length)
    return [(field.reach_back, field.reach_forward) for field in measured.layers]


# ----------------------------------------------------------------------------------------- what is right


@every_layout
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("policy", "local"),
    [
        (("bidirectional", "radius"), (WINDOW, WINDOW)),
        (("bidirectional", "width"), (WINDOW // 2, WINDOW // 2)),
        (("bidirectional", "full"), (None, None)),
        (("causal", "radius"), (WINDOW - 1, 0)),
        (("causal", "full"), (None, 0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_reach_of_every_family_and_policy(
    family: str, policy: tuple[Any, Any], local: tuple[int | None, int | None], side: str, layout: str
) -> None:
    """The reaches are written out here, not taken from the code that predicts them."""
    encoder = make_encoder(family, layout, attention=policy[0], window=policy[1])
    everywhere = (None, None) if policy[0] == "bidirectional" else (None, 0)
    expected = [local if layer in LOCAL_LAYERS.get(family, ()) else everywhere for layer in range(3)]
    measured = receptive_field(encoder, padding_side=side)  # type: ignore[arg-type]
    assert [(field.reach_back, field.reach_forward) for field in measured.layers] == expected
    assert {field.kind for field in measured.layers} == {policy[0]}
    assert [field.problem for field in measured.layers] == [None] * 3
    assert (measured.layout, measured.padding_side) == (layout, side)
    assert_policy(encoder)


@every_layout
@pytest.mark.parametrize("window", [1, 2, 23, 24, 40])
def test_windows_around_the_probe_length(window: int, layout: str) -> None:
    encoder = make_encoder("gemma3", layout, width=window)
    assert reaches(encoder)[0] == (window, window)
    assert_bidirectional(encoder)


def test_a_long_window_is_not_claimed_to_be_measured() -> None:
    encoder = make_encoder("gemma3", width=100)
    assert reaches(encoder)[0] == (None, None)  # "all of the probe"
    assert reaches(encoder, probe_length=104)[0] == (100, 100)


@every_layout
def test_nothing_is_left_changed(layout: str) -> None:
    encoder = make_encoder("gemma3", layout, dropout=DropoutConfig.uniform(0.5)).train()
    encoder.backbone.layers[1].eval()
    modes = [module.training for module in encoder.modules()]
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in encoder.modules()]
    state = torch.get_rng_state()
    assert_bidirectional(encoder)
    assert [module.training for module in encoder.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(module._forward_hooks) for module in encoder.modules()] == hooks
    assert all(torch.equal(value, weights[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert torch.is_grad_enabled()


@every_layout
@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_bfloat16(family: str, layout: str) -> None:
    encoder = make_encoder(family, layout)
    encoder.backbone.bfloat16()
    assert_bidirectional(encoder)


@every_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_one_hot_attention_is_no_reason_to_refuse(family: str, dtype: torch.dtype, layout: str) -> None:
    """Scores in the hundreds: nearly all weight is on one token, the others are seen but don't count."""
    encoder = make_encoder(family, layout)
    torch.manual_seed(0)
    for layer in decoder_layers(encoder.backbone):
        for parameter in layer.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=2)
    encoder.backbone.to(dtype)
    scaling = [layer.self_attn.scaling for layer in decoder_layers(encoder.backbone)]
    assert_bidirectional(encoder)
    assert [layer.self_attn.scaling for layer in decoder_layers(encoder.backbone)] == scaling


@every_layout
def test_under_lora(layout: str) -> None:
    peft = pytest.importorskip("peft")
    encoder = make_encoder("gemma3", layout)
    encoder.backbone = peft.get_peft_model(
        encoder.backbone, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    assert reaches(encoder)[0] == (WINDOW, WINDOW)
    assert_bidirectional(encoder)
    description = describe(encoder)
    assert description["adapter"]["rank"] == 2
    counts = description["parameters"]
    # r * (in + out) for q (32 -> 32) and v (32 -> 16), three layers.
    assert counts["adapter"] == 3 * 2 * (64 + 48)


# ----------------------------------------------------------------------------------------- what is wrong


def change_attention(encoder: Encoder, layer: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Let `change` edit the keyword arguments of one layer's attention."""

    def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
        change(kwargs)
        return args, kwargs

    decoder_layers(encoder.backbone)[layer].self_attn.register_forward_pre_hook(hook, with_kwargs=True)


def make_causal(encoder: Encoder, layer: int) -> None:
    def packed(kwargs: dict[str, Any]) -> None:
        kwargs["packed"] = replace(kwargs["packed"], causal=True)

    def padded(kwargs: dict[str, Any]) -> None:
        length = kwargs["hidden_states"].shape[1]
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = torch.zeros(1, 1, length, length)
        elif mask.dtype == torch.bool:
            kwargs["attention_mask"] = mask & ~future
            return
        kwargs["attention_mask"] = mask.masked_fill(future, torch.finfo(mask.dtype).min)

    change_attention(encoder, layer, packed if encoder.layout == "packed" else padded)


@every_layout
@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3", "llama"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_single_causal_layer_is_named(layer: int, family: str, layout: str) -> None:
    """Among bidirectional layers, and although the network as a whole still looks both ways."""
    encoder = make_encoder(family, layout)
    make_causal(encoder, layer)
    kinds = [field.kind for field in receptive_field(encoder).layers]
    assert kinds == ["causal" if index == layer else "bidirectional" for index in range(3)]
    with pytest.raises(AttentionError) as caught:
        assert_bidirectional(encoder)
    message = str(caught.value)
    assert f"layer {layer} of 3" in message
    assert "measured causal" in message
    assert "0 forward" in message
    assert f"layout {layout}" in message
    assert f"back end {encoder.backend.name}" in message
    assert "padding right" in message


@pytest.mark.parametrize("family", ["gemma", "gemma2"])
def test_the_trap_of_gemma_1_and_2(family: str) -> None:
    """`use_bidirectional_attention=True` alone leaves them causal without a word."""
    backbone = make_backbone(family)
    backbone.config.use_bidirectional_attention = True
    encoder = Encoder(backbone, tiny_tokenizer(), EncoderConfig(), layout="padded").eval()
    with pytest.raises(AttentionError, match=r"measured causal.*layer 0 of 3"):
        assert_bidirectional(encoder)
    # Packed attention is bidirectional all the same, but the saved folder would not be.
    encoder.layout = "packed"
    with pytest.raises(AttentionError, match=r"config\.is_causal is True"):
        assert_bidirectional(encoder)


def test_the_trap_of_gemma_3() -> None:
    """`use_bidirectional_attention=True` gives it a narrower window than its config then says."""
    config = transformers.Gemma3TextConfig(
        **SIZES, **FAMILIES["gemma3"][1], sliding_window=8, use_bidirectional_attention=True
    )
    backbone = AutoModel.from_config(config, attn_implementation="eager").eval()
    assert config.sliding_window == 8 // 2 + 1
    encoder = Encoder(backbone, tiny_tokenizer(), EncoderConfig(), layout="padded").eval()
    with pytest.raises(AttentionError, match="sees 4 tokens back and 4 forward, not 5 and 5"):
        assert_bidirectional(encoder)


@every_layout
def test_a_stock_decoder_called_bidirectional_is_refused(layout: str) -> None:
    encoder = Encoder(make_backbone("llama"), tiny_tokenizer(), EncoderConfig(), layout=layout).eval()  # type: ignore
    with pytest.raises(AttentionError):
        assert_bidirectional(encoder)


@every_layout
def test_a_bidirectional_layer_in_a_causal_encoder_is_named(layout: str) -> None:
    encoder = make_encoder("llama", layout, attention="causal")
    assert_policy(encoder)

    def leak(kwargs: dict[str, Any]) -> None:
        if layout == "packed":
            kwargs["packed"] = replace(kwargs["packed"], causal=False)
        elif kwargs.get("attention_mask") is not None:
            mask = kwargs["attention_mask"]
            kwargs["attention_mask"] = (
                torch.ones_like(mask) if mask.dtype == torch.bool else torch.zeros_like(mask)
            )

    change_attention(encoder, 1, leak)
    with pytest.raises(AttentionError, match="layer 1 of 3"):
        assert_policy(encoder)


def test_a_window_wider_than_the_policy_is_refused() -> None:
    encoder = make_encoder("gemma3")

    def widen(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        decoder_layers(encoder.backbone)[2].self_attn.sliding_window = WINDOW + 1

    layer = decoder_layers(encoder.backbone)[2].self_attn
    layer.register_forward_pre_hook(widen, with_kwargs=True)
    layer.register_forward_hook(lambda *_: setattr(layer, "sliding_window", WINDOW))
    with pytest.raises(AttentionError, match="7 tokens back and 7 forward, not 6 and 6"):
        assert_policy(encoder)


def test_texts_that_run_together_are_found() -> None:
    """A packed layout that forgets where one text ends."""
    encoder = make_encoder("llama")

    def join(kwargs: dict[str, Any]) -> None:
        layout = kwargs["packed"].layout
        joined = replace(layout, cu_seqlens=layout.cu_seqlens[[0, -1]], lengths=(layout.tokens,))
        kwargs["packed"] = replace(kwargs["packed"], layout=joined)

    change_attention(encoder, 1, join)
    with pytest.raises(AttentionError, match=r"one text changes another text.*layer 1 of 3"):
        assert_policy(encoder)


@pytest.mark.parametrize("side", ["right", "left"])
def test_visible_padding_is_found(side: str) -> None:
    encoder = make_encoder("llama", "padded")

    def unmask(kwargs: dict[str, Any]) -> None:
        kwargs["attention_mask"] = None

    change_attention(encoder, 2, unmask)
    encoder.backbone.layers[2].self_attn.is_causal = False
    problems = [field.problem for field in receptive_field(encoder, padding_side=side).layers]  # type: ignore[arg-type]
    assert problems == [None, None, "padding changes real tokens"]


def test_a_layer_that_is_wrong_under_left_padding_only() -> None:
    encoder = make_encoder("llama", "padded")
    batches: list[torch.Tensor] = []
    encoder.backbone.register_forward_pre_hook(
        lambda _module, _args, kwargs: batches.append(kwargs["attention_mask"]), with_kwargs=True
    )

    def forget_padding(kwargs: dict[str, Any]) -> None:
        if batches[-1][0, 0] == 0:
            kwargs["attention_mask"] = torch.ones_like(kwargs["attention_mask"])

    change_attention(encoder, 1, forget_padding)
    with pytest.raises(AttentionError, match=r"padding changes real tokens.*layer 1 of 3.*padding left"):
        assert_policy(encoder)


def test_a_hole_in_the_window_is_found() -> None:
    encoder = make_encoder("llama", "padded")

    def punch(kwargs: dict[str, Any]) -> None:
        mask = kwargs["attention_mask"].clone()
        mask[0, :, 5, 12] = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        kwargs["attention_mask"] = mask

    change_attention(encoder, 0, punch)
    with pytest.raises(AttentionError, match="not all of them"):
        assert_policy(encoder)


@every_layout
def test_nan_is_found_in_the_layer_where_it_starts(layout: str) -> None:
    encoder = make_encoder("gemma3", layout)
    with torch.no_grad():
        decoder_layers(encoder.backbone)[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(AttentionError, match="Layer 1 gives NaN"):
        assert_policy(encoder)
    assert not any(module._forward_hooks for module in encoder.modules())


def test_a_causal_encoder_is_not_bidirectional() -> None:
    with pytest.raises(AttentionError, match="policy is 'causal'"):
        assert_bidirectional(make_encoder("llama", attention="causal"))


# -------------------------------------------------------------------------------------------- the report


def test_description() -> None:
    encoder = make_encoder(
        "gemma3",
        width=70,
        pooling=attention("query", probes=2),
        dropout=DropoutConfig(attention=0.1),
        labels=("no", "yes", "maybe"),
        decoder="tiny",
    )
    encoder.backbone.get_input_embeddings().weight.requires_grad_(False)
    description = describe(encoder)
    assert json.loads(json.dumps(description)) == json.loads(json.dumps(description, sort_keys=True))
    assert description["backbone"]["family"] == "gemma3_text"
    assert description["labels"] == ["no", "yes", "maybe"]
    assert description["training"] is None
    # Both sides with the short probe, then one long enough for the window of 70.
    assert [(m["padding_side"], m["probe_length"]) for m in description["receptive_field"]] == [
        ("right", 24),
        ("left", 24),
        ("right", 74),
    ]
    counts = description["parameters"]
    assert counts["embedding"] == 160 * 32
    # Probes, norm, then key, value and output projections; head: norm, 64 -> 64, 64 -> 3.
    assert counts["pooler"] == 2 * 32 + 2 * 32 + 3 * (32 * 32 + 32)
    assert counts["head"] == 2 * 64 + 64 * 64 + 64 + 64 * 3 + 3
    assert counts["total"] == sum(p.numel() for p in encoder.parameters())
    assert sum(count for part, count in counts.items() if part != "total") == counts["total"]

    report = render(description)
    assert (
        "layers 0, 2: local, window 70, bidirectional, sees at least 23 back, at least 23 forward" in report
    )
    assert (
        "layers 0, 2: local, window 70, bidirectional, sees 70 back, 70 forward; as the policy says" in report
    )
    assert "layers 1: global, bidirectional, sees all back, all forward" in report
    assert "query probe, 2 probes, 4 heads" in report
    assert "no, yes, maybe" in report
    assert encoder.backend.reason in report


def test_report_of_a_wrong_encoder_says_so() -> None:
    """`inspect` shows what is; it does not refuse."""
    encoder = make_encoder("llama")
    make_causal(encoder, 1)
    report = render(describe(encoder))
    assert "layers 0, 2: global, bidirectional" in report
    assert "layers 1: global, causal, sees all back, 0 forward; NOT as the policy says" in report


def test_training_comes_from_run_json(tmp_path: Path) -> None:
    encoder = make_encoder("llama", pooling=first_k(2, skip_bos=True))
    run = {"seed": 7, "metrics": {"accuracy": 0.912345678, "per_epoch": [1, 2]}, "history": [1, 2, 3]}
    (tmp_path / "run.json").write_text(json.dumps(run))
    description = describe(encoder, folder=tmp_path)
    assert description["training"] == run
    report = render(description)
    assert "seed: 7" in report
    assert "metrics: accuracy 0.912346" in report
    assert "first_k (k 2, first token skipped)" in report

    (tmp_path / "run.json").write_text("{broken")
    assert "unreadable" in render(describe(encoder, folder=tmp_path))


def test_description_of_a_folder(tmp_path: Path) -> None:
    encoder = make_encoder("gemma3")
    encoder.save_pretrained(tmp_path / "model")
    saved, live = describe(tmp_path / "model"), describe(encoder)
    assert saved.pop("training") == live.pop("training")
    assert saved == live
