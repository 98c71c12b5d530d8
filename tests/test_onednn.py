"""oneDNN's fused layers against the stock ones."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from gemma_encoder import onednn
from gemma_encoder.onednn import through_onednn
from gemma_encoder.testing import FAMILIES, tiny_decoder

onednn_is_faster = onednn.faster_in_float32
STATES = torch.randint(4, 20, (1, 7), generator=torch.Generator().manual_seed(0))


def replaced(backbone: nn.Module) -> list[str]:
    return [name for name, module in backbone.named_modules() if "forward" in vars(module)]


@pytest.fixture(autouse=True)
def faster(monkeypatch):
    """As on a processor where oneDNN is the faster one in float32."""
    monkeypatch.setattr(onednn, "faster_in_float32", lambda: True)


@pytest.fixture
def available():
    backbone = tiny_decoder("llama").backbone
    with through_onednn(backbone):
        if not replaced(backbone):
            pytest.skip("needs an x86 processor and torch with oneDNN")


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_computes_the_same(available, family, dtype):
    backbone = tiny_decoder(family).backbone.eval().to(dtype)
    expected = backbone(STATES).last_hidden_state
    with through_onednn(backbone):
        names = replaced(backbone)
        found = backbone(STATES).last_hidden_state
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    if dtype == torch.float32 or names:  # bfloat16 needs a processor that has it
        assert any(name.endswith("mlp") for name in names) and any(name.endswith("o_proj") for name in names)
    assert not replaced(backbone)


@torch.no_grad()
def test_layers_with_a_bias(available):
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = nn.Linear(6, 9), nn.Linear(6, 9), nn.Linear(9, 6)
            self.act_fn = tiny_decoder("gemma3").backbone.layers[0].mlp.act_fn

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(states)) * self.up_proj(states))

    module, states = Gated(), torch.randn(2, 3, 6)
    expected = module(states)
    with through_onednn(module):
        assert "" in replaced(module)
        torch.testing.assert_close(module(states), expected)


@torch.no_grad()
def test_a_feed_forward_that_does_more_keeps_its_own_forward(available):
    """As Gemma 3n's, which sets most of the gate to zero between parts of the same names."""
    backbone = tiny_decoder("gemma3").backbone.eval()
    mlp = backbone.layers[0].mlp

    class Sparse(type(mlp)):
        def forward(self, states):
            gate = self.gate_proj(states)
            return self.down_proj(self.act_fn(gate - gate.mean()) * self.up_proj(states))

    mlp.__class__ = Sparse
    expected = backbone(STATES).last_hidden_state
    with through_onednn(backbone):
        assert "layers.0.mlp" not in replaced(backbone) and "layers.1.mlp" in replaced(backbone)
        torch.testing.assert_close(backbone(STATES).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_lora_keeps_its_part(available):
    backbone = get_peft_model(
        tiny_decoder("llama").backbone,
        LoraConfig(target_modules=["gate_proj", "q_proj"], init_lora_weights=False),
    ).eval()
    expected = backbone(STATES).last_hidden_state
    with through_onednn(backbone):
        torch.testing.assert_close(backbone(STATES).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


def test_weights_of_another_class_are_left_alone(available):
    class Weight(torch.Tensor):
        """As quantisation libraries have them."""

    backbone = tiny_decoder("llama").backbone
    layer = backbone.layers[0].mlp.gate_proj
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Weight))
    with through_onednn(backbone):
        names = replaced(backbone)
    assert "layers.0.mlp" not in names and "layers.0.mlp.gate_proj" not in names and "layers.1.mlp" in names


def test_the_forward_comes_back_after_an_error():
    backbone = tiny_decoder("llama").backbone
    before = copy.copy(vars(backbone.layers[0].mlp))
    with pytest.raises(RuntimeError, match="stop"), through_onednn(backbone):
        raise RuntimeError("stop")
    assert not replaced(backbone) and vars(backbone.layers[0].mlp) == before


@pytest.mark.parametrize("without", ["autocast", "float16", "switched off", "other processor", "slower"])
def test_nothing_happens_where_it_is_not_possible(monkeypatch, without):
    backbone = tiny_decoder("llama").backbone
    if without == "float16":
        backbone.half()
    if without == "switched off":
        monkeypatch.setattr("torch.backends.mkldnn.enabled", False)
    if without == "slower":
        monkeypatch.setattr(onednn, "faster_in_float32", lambda: False)
    if without == "other processor":
        monkeypatch.setattr("platform.machine", lambda: "arm64")
    with torch.autocast("cpu", torch.bfloat16, enabled=without == "autocast"), through_onednn(backbone):
        assert not replaced(backbone)


def test_which_is_faster_in_float32_is_tried_once(available):
    onednn_is_faster.cache_clear()
    before = torch.get_rng_state()
    assert onednn_is_faster() is onednn_is_faster() in (True, False)
    assert onednn_is_faster.cache_info().misses == 1
    assert torch.equal(torch.get_rng_state(), before), "a training would go another way"
