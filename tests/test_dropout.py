"""Dropout by hooks, on tiny random backbones of several families."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from gemma_encoder.dropout import DropoutConfig, decoder_layers, install_dropout
from gemma_encoder.errors import ConfigError, DecoderError

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attention_dropout": 0.25,
}
FAMILIES = {"gemma3": "Gemma3TextConfig", "gemma2": "Gemma2Config", "llama": "LlamaConfig"}
every_family = pytest.mark.parametrize("family", FAMILIES)
RATES = ("attention", "feed_forward", "embedding")


def make_backbone(family: str, implementation: str | None = None) -> PreTrainedModel:
    """A tiny random backbone; stock SDPA, or eager for Gemma 2, whose soft-cap SDPA can't do."""
    torch.manual_seed(0)
    if implementation is None:
        implementation = "eager" if family == "gemma2" else "sdpa"
    config = getattr(transformers, FAMILIES[family])(**SIZES)
    return transformers.AutoModel.from_config(config, attn_implementation=implementation).eval()


def states(backbone: PreTrainedModel) -> Tensor:
    return backbone(torch.arange(12).reshape(2, 6)).last_hidden_state


def test_a_module_called_attention_dropout_is_not_taken_for_a_rate() -> None:
    """Persimmon and Bloom have one."""
    backbone = make_backbone("llama")
    for layer in decoder_layers(backbone):
        del layer.self_attn.attention_dropout
        layer.self_attn.attention_dropout = nn.Dropout(0.25)
    install_dropout(backbone, DropoutConfig())
    assert isinstance(decoder_layers(backbone)[0].self_attn.attention_dropout, nn.Dropout)
    with pytest.raises(DecoderError, match=r"dropout\.attention to 0"):
        install_dropout(backbone, DropoutConfig(attention=0.1))


@every_family
def test_inactive_in_eval(family: str) -> None:
    backbone = make_backbone(family)
    names, before = list(backbone.state_dict()), states(backbone)
    install_dropout(backbone, DropoutConfig.uniform(0.5))
    assert list(backbone.state_dict()) == names
    assert torch.equal(states(backbone), before)

    backbone.train()
    assert not torch.equal(states(backbone), before)


@every_family
@pytest.mark.parametrize("site", RATES)
def test_each_rate_by_itself_makes_training_random(family: str, site: str) -> None:
    backbone = make_backbone(family).train()
    install_dropout(backbone, DropoutConfig(**{site: 0.5}))
    assert not torch.equal(states(backbone), states(backbone))


@every_family
def test_rates_of_zero_make_training_deterministic(family: str) -> None:
    """The decoder's own `attention_dropout` (0.25 here) does not survive a policy that says 0."""
    backbone = make_backbone(family)
    expected = states(backbone)
    install_dropout(backbone.train(), DropoutConfig(head=0.5))
    assert torch.equal(states(backbone), expected)


def realised(module: nn.Module, backbone: PreTrainedModel, seed: int) -> tuple[Tensor, Tensor]:
    """A module's output in eval and in training (behind our hook), for the same input."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    tokens = torch.randint(64, (16, 32), generator=torch.Generator().manual_seed(3))
    for training in (False, True):
        torch.manual_seed(seed)
        backbone.train(training)(tokens)
    handle.remove()
    return seen[0].detach(), seen[1].detach()


def assert_rate(clean: Tensor, dropped: Tensor, rate: float) -> None:
    """`dropped` is `clean` with a share `rate` zeroed and the rest divided by `1 - rate`."""
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], clean[kept] / (1 - rate))
    count = kept.numel()
    deviation = abs((1 - kept.double().mean().item()) - rate) / math.sqrt(rate * (1 - rate) / count)
    assert deviation < 5, f"realised rate is {deviation:.1f} standard errors off"


@every_family
def test_realised_embedding_rate(family: str) -> None:
    backbone = make_backbone(family)
    install_dropout(backbone, DropoutConfig(embedding=0.2))
    table = backbone.get_input_embeddings()
    with torch.no_grad():
        table.weight.normal_()
        table.weight[table.weight == 0] = 1  # the padding row, if any, is zero by itself
    assert_rate(*realised(table, backbone, seed=0), rate=0.2)


@every_family
def test_realised_feed_forward_rate_on_the_residual(family: str) -> None:
    """What the first layer adds to the residual stream after its feed-forward block, seen from outside."""
    backbone = make_backbone(family)
    layer = decoder_layers(backbone)[0]
    install_dropout(backbone, DropoutConfig(feed_forward=0.2))
    norm = "post_attention_layernorm" if family == "llama" else "pre_feedforward_layernorm"
    residuals: list[Tensor] = []
    layer.get_submodule(norm).register_forward_pre_hook(
        lambda _module, inputs: residuals.append(inputs[0].detach())
    )
    clean, dropped = realised(layer, backbone, seed=1)
    assert torch.equal(residuals[0], residuals[1])
    added, added_dropped = clean - residuals[0], dropped - residuals[1]
    zero = added_dropped.abs() < 1e-7
    kept = ~zero & (added.abs() > 1e-3)
    torch.testing.assert_close(added_dropped[kept], added[kept] / 0.8, rtol=1e-2, atol=1e-4)
    assert abs(zero.double().mean().item() - 0.2) < 0.015


@every_family
def test_realised_attention_rate(family: str) -> None:
    """Eager attention hands out its probabilities after dropout."""
    backbone = make_backbone(family, "eager")
    install_dropout(backbone, DropoutConfig(attention=0.2))
    tokens = torch.randint(64, (32, 24), generator=torch.Generator().manual_seed(3))
    clean = backbone.eval()(tokens, output_attentions=True).attentions[0]
    dropped = backbone.train()(tokens, output_attentions=True).attentions[0]
    visible = clean > 0
    assert_rate(clean[visible].detach(), dropped[visible].detach(), rate=0.2)


@every_family
def test_attention_keeps_the_expectation(family: str) -> None:
    backbone = make_backbone(family)
    install_dropout(backbone, DropoutConfig(attention=0.3))
    attention = decoder_layers(backbone)[0].self_attn
    seen: list[Tensor] = []
    attention.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0].detach()))
    tokens = torch.arange(8).unsqueeze(0)
    backbone.eval()(tokens)
    backbone.train()(tokens.expand(3_000, 8))
    expected, draws = seen[0][0], seen[1]
    error = (draws.mean(dim=0) - expected).abs() / (draws.std(dim=0) / math.sqrt(len(draws)) + 1e-9)
    assert error.max() < 5.5  # standard errors, over 256 values


def test_hooks_survive_copy_and_pickle() -> None:
    backbone = make_backbone("llama")
    install_dropout(backbone, DropoutConfig.uniform(0.5))
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(states(twin), states(backbone))
        assert not torch.equal(states(twin.train()), states(backbone))


def test_works_under_peft() -> None:
    peft = pytest.importorskip("peft")
    backbone = peft.get_peft_model(
        make_backbone("gemma3"), peft.LoraConfig(target_modules=["q_proj", "down_proj"])
    )
    assert len(decoder_layers(backbone)) == 2
    backbone.train()
    install_dropout(backbone, DropoutConfig())
    assert torch.equal(states(backbone), states(backbone))
    install_dropout(backbone, DropoutConfig.uniform(0.5))
    assert not torch.equal(states(backbone), states(backbone))


def test_gradient_checkpointing_redraws_the_same_dropout() -> None:
    backbone = make_backbone("gemma3").train()
    install_dropout(backbone, DropoutConfig.uniform(0.3))
    gradients = []
    for use in (False, True):
        if use:
            backbone.gradient_checkpointing_enable()
        torch.manual_seed(0)
        backbone.zero_grad()
        states(backbone).square().sum().backward()
        gradients.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize(
    ("config", "missing"),
    [(DropoutConfig(attention=0.1), "attention_dropout"), (DropoutConfig(feed_forward=0.1), "mlp")],
)
def test_a_layer_without_a_place_is_named_and_nothing_changed(config: DropoutConfig, missing: str) -> None:
    backbone = make_backbone("llama")
    layer = decoder_layers(backbone)[1]
    if missing == "mlp":
        layer.feed_forward = layer.mlp
        del layer.mlp
    else:
        del layer.self_attn.attention_dropout
    with pytest.raises(DecoderError, match=rf"{missing}.*layer 1"):
        install_dropout(backbone, config)
    assert decoder_layers(backbone)[0].self_attn.attention_dropout == 0.25
    assert not any(module._forward_hooks for module in backbone.modules())


@pytest.mark.parametrize("site", ["attention", "feed_forward", "embedding", "head"])
@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan"), "0.1", True])
def test_wrong_rates_are_named(site: str, rate: object) -> None:
    with pytest.raises(ConfigError, match=f"dropout.{site} is"):
        DropoutConfig(**{site: rate})


def test_uniform() -> None:
    assert DropoutConfig.uniform(0.1) == DropoutConfig(0.1, 0.1, 0.1, 0.1)
