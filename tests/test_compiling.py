"""Compiled layers against the stock ones."""

import contextlib
from functools import partial

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._dynamo.utils import counters

from gemma_encoder import scoring
from gemma_encoder.attention_backends import _compiled_flex
from gemma_encoder.compiling import CompiledLayers, parameters_of_layers, pays, why_not_compiled
from gemma_encoder.encoder import Encoder
from gemma_encoder.scoring import score, score_all
from gemma_encoder.testing import FAMILIES, tiny_decoder

pytestmark = pytest.mark.skipif(bool(why_not_compiled()), reason=f"can't compile: {why_not_compiled()}")


def encoder_of(family: str, **options) -> Encoder:
    return Encoder.from_decoder(tiny_decoder(family), seed=0, verify=False, **options)


def batch(seed: int, lengths: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 20, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def outcome(encoder: Encoder, inputs, dtype=None):
    """Logits and gradients, dropout drawn from seed 0."""
    torch.manual_seed(0)
    encoder.zero_grad()
    with torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext():
        logits = encoder(**inputs).logits
    logits.square().sum().backward()
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in encoder.named_parameters()
        if parameter.grad is not None
    }
    return logits.detach(), gradients


def assert_same(found, expected, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        scale = max(gradient.abs().max().item(), 1e-3)
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
    "family", [f if f in ("gemma3", "llama") else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_training_computes_the_same_with_any_number_of_tokens(family):
    torch.compiler.reset()
    encoder = encoder_of(family, dropout=0.2).train()
    encoder.backbone.get_input_embeddings().weight.requires_grad_(False)
    layers = CompiledLayers(encoder.backbone)
    with layers.in_use():
        outcome(encoder, batch(0, [5, 9, 2]))
    graphs = counters["stats"]["unique_graphs"]
    for seed, lengths in enumerate([[7, 3, 3], [1, 12], [30, 2, 40, 8], [2]], start=1):
        inputs = batch(seed, lengths)
        expected = outcome(encoder, inputs)
        with layers.in_use():
            found = outcome(encoder, inputs)
        assert_same(found, expected)
    assert counters["stats"]["unique_graphs"] == graphs > 0, "other lengths compile anew"
    assert all("forward" not in vars(layer) for layer in encoder.backbone.layers)


def test_layers_of_lora_and_activation_checkpointing():
    encoder = encoder_of("gemma3")
    encoder.backbone = get_peft_model(
        encoder.backbone, LoraConfig(target_modules="all-linear", lora_dropout=0.1, init_lora_weights=False)
    )
    encoder.train()
    encoder.activation_checkpointing_enable({"use_reentrant": False})
    inputs = batch(0, [5, 9, 2])
    expected = outcome(encoder, inputs)
    with CompiledLayers(encoder.backbone).in_use():
        found = outcome(encoder, inputs)
    assert_same(found, expected)


def test_half_precision():
    encoder = encoder_of("gemma3").train()
    inputs = batch(0, [5, 9, 2])
    expected = outcome(encoder, inputs, torch.bfloat16)
    with CompiledLayers(encoder.backbone).in_use():
        found = outcome(encoder, inputs, torch.bfloat16)
    assert_same(found, expected, 0.1)


def test_layers_of_both_kinds():
    torch.compiler.reset()
    encoder = encoder_of("gemma3", bidirectional_layers="1:3", window="width").train()
    inputs = batch(0, [5, 9, 2])
    expected = outcome(encoder, inputs)
    with CompiledLayers(encoder.backbone).in_use():
        found = outcome(encoder, inputs)
    assert_same(found, expected)
    assert counters["stats"]["unique_graphs"] > 0


@pytest.mark.parametrize("first", [0.0, 0.2])
def test_a_model_has_its_own_dropout_whatever_was_compiled_before(first):
    torch.compiler.reset()
    inputs = batch(0, [5, 9, 2])
    for rate in (first, 0.2 - first):
        encoder = encoder_of("gemma3", dropout={"feed_forward": rate}).train()
        expected = outcome(encoder, inputs)
        with CompiledLayers(encoder.backbone).in_use():
            found = outcome(encoder, inputs)
        assert_same(found, expected)


def test_layers_are_stock_again_after_an_error():
    encoder = encoder_of("gemma3")
    with contextlib.suppress(RuntimeError), CompiledLayers(encoder.backbone).in_use():
        assert all("forward" in vars(layer) for layer in encoder.backbone.layers)
        raise RuntimeError
    assert all("forward" not in vars(layer) for layer in encoder.backbone.layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_the_same(dtype):
    encoder = encoder_of("gemma3", dtype=dtype).eval()
    rows = ["a film", "not a very very good film", "money", "the river is in the bank"] * 3
    expected = score_all(encoder, rows, max_tokens=20)
    encoder.compile_layers = True
    found = score_all(encoder, rows, max_tokens=20)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_a_long_stream_is_compiled_on_its_way(monkeypatch):
    encoder = encoder_of("llama").eval()
    used = []
    monkeypatch.setattr(scoring, "compiled_layers", lambda backbone: used.append(backbone))
    list(score(encoder, ["a film"] * 10, buffer_rows=4))
    assert not used
    monkeypatch.setattr(scoring, "WORTH_COMPILING", 2 * parameters_of_layers(encoder.backbone) * 10)
    list(score(encoder, ["a film"] * 10, buffer_rows=4))
    assert len(used) == 2, "all buffers but the first"
    encoder.compile_layers = False
    list(score(encoder, ["a film"] * 10, buffer_rows=4))
    assert len(used) == 2


def test_parameters_of_layers():
    backbone = tiny_decoder("llama").backbone
    others = backbone.embed_tokens.weight.numel() + backbone.norm.weight.numel()
    assert parameters_of_layers(backbone) == sum(p.numel() for p in backbone.parameters()) - others


def test_compiling_pays_for_much_work_only_and_not_on_devices_that_were_not_tried():
    layers = encoder_of("gemma3").backbone
    operations = 2 * parameters_of_layers(layers)
    assert pays(layers, 100, 100 * operations, backward=False)
    assert not pays(layers, 99, 100 * operations, backward=False)
    assert pays(layers, 34, 100 * operations, backward=True)
    assert not pays(layers.to("meta"), 1e18, 1.0, backward=False)


def test_flex_attention_is_compiled_with_a_soft_cap():
    """As a GPU computes it, for several lengths; a GPU's own kernels have tests in test_attention_cuda."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def attend(compute, length, cap):
        def soft_cap(score, batch, head, query_index, key_index):
            return cap * torch.tanh(score / cap)

        generator = torch.Generator().manual_seed(length)
        query = torch.randn(1, 4, length, 16, generator=generator)
        key = torch.randn(1, 2, length, 16, generator=generator)
        mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, length, length, device="cpu")
        with torch.no_grad():
            return compute(query, key, key, score_mod=soft_cap, block_mask=mask, scale=1.0, enable_gqa=True)

    for length in (130, 300):
        torch.testing.assert_close(
            attend(_compiled_flex(), length, 2.0), attend(flex_attention, length, 2.0), rtol=1e-4, atol=1e-5
        )


def test_a_forward_that_was_set_before_is_set_again():
    encoder = encoder_of("gemma3")
    first, *others = encoder.backbone.layers
    first.forward = own = partial(type(first).forward, first)  # as accelerate sets one
    with CompiledLayers(encoder.backbone).in_use():
        assert first.forward is not own
    assert first.forward is own and all("forward" not in vars(layer) for layer in others)
