"""The MLP head against a reference written out in numpy (float64)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gemma_encoder.errors import ConfigError
from gemma_encoder.heads import HeadConfig, MLPHead

ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": np.vectorize(lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
}


def reference(head: MLPHead, pooled: np.ndarray) -> np.ndarray:
    """Eval-mode forward in float64, from the state dict and the config alone."""
    weights = {name: value.double().numpy() for name, value in head.state_dict().items()}
    x = pooled
    if head.config.norm == "layer_norm":
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        x = x * weights["norm.weight"] + weights["norm.bias"]
    for i in range(head.config.depth):
        x = ACTIVATIONS[head.config.activation](
            x @ weights[f"layers.{i}.weight"].T + weights[f"layers.{i}.bias"]
        )
    return (x @ weights["output.weight"].T + weights["output.bias"]) * head.output_scale + head.output_shift


def make_head(config: HeadConfig, dropout: float = 0.0) -> MLPHead:
    torch.manual_seed(0)
    head = MLPHead(config, 16, 3, dropout).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


@pytest.mark.parametrize("norm", ["layer_norm", "none"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("depth", "width"), [(0, None), (1, None), (2, 5)])
def test_equals_the_reference(depth: int, width: int | None, activation: str, norm: str) -> None:
    head = make_head(HeadConfig(depth, width, activation, norm), dropout=0.5)
    head.output_scale, head.output_shift = 2.5, -1.0
    pooled = torch.randn(4, 16)
    np.testing.assert_allclose(
        head(pooled).detach().numpy(), reference(head, pooled.double().numpy()), rtol=1e-4, atol=1e-5
    )


def test_shapes_follow_the_config() -> None:
    head = MLPHead(HeadConfig(depth=2, width=5), 16, 3)
    assert [tuple(layer.weight.shape) for layer in head.layers] == [(5, 16), (5, 5)]
    assert head.output.weight.shape == (3, 5)
    assert isinstance(MLPHead(HeadConfig(norm="none"), 16, 3).norm, torch.nn.Identity)
    assert sorted(head.state_dict()) == sorted(
        ["norm.weight", "norm.bias", "output.weight", "output.bias"]
        + [f"layers.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")]
    )


def test_scale_and_shift_are_affine() -> None:
    head, pooled = make_head(HeadConfig()), torch.randn(4, 16)
    raw = head(pooled)
    head.output_scale, head.output_shift = 1.5, 2.5
    torch.testing.assert_close(head(pooled), raw * 1.5 + 2.5)


def test_bfloat16_input_is_computed_in_float32() -> None:
    head, pooled = make_head(HeadConfig()), (300 * torch.randn(4, 16)).bfloat16()
    logits = head(pooled)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(pooled.float()))


def test_autocast_changes_nothing() -> None:
    head, pooled = make_head(HeadConfig(depth=2)), torch.randn(4, 16)
    expected = head(pooled)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(pooled)
        # The test can fail: autocast does change a plain linear layer here.
        assert head.output(pooled).dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)


def test_parameters_stay_float32() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), make_head(HeadConfig()))
    before = {name: value.clone() for name, value in model[1].state_dict().items()}
    model.to(torch.bfloat16)
    assert model[0].weight.dtype == torch.bfloat16
    assert all(torch.equal(value, before[name]) for name, value in model[1].state_dict().items())
    model.to(torch.float32).half()
    assert {parameter.dtype for parameter in model[1].parameters()} == {torch.float32}
    assert {parameter.device.type for parameter in model.to("meta").parameters()} == {"meta"}


def test_gradients_reach_every_parameter_and_the_input() -> None:
    head, pooled = make_head(HeadConfig(depth=2, activation="gelu")), torch.randn(4, 16, requires_grad=True)
    head(pooled).square().sum().backward()
    for gradient in [pooled.grad, *(parameter.grad for parameter in head.parameters())]:
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_norm_keeps_tanh_out_of_saturation() -> None:
    """Pooled states of several hundred: with the norm tanh has a slope, without it hardly any."""

    def mean_slope(norm: str) -> float:
        torch.manual_seed(0)
        head = MLPHead(HeadConfig(norm=norm), 640, 2)
        pooled = 400 * torch.randn(16, 640)
        hidden = torch.tanh(head.layers[0](head.norm(pooled)))
        return (1 - hidden**2).mean().item()

    assert mean_slope("layer_norm") > 0.5
    assert mean_slope("none") < 0.05


def test_fresh_logits_are_small() -> None:
    torch.manual_seed(0)
    logits = MLPHead(HeadConfig(), 640, 2)(400 * torch.randn(64, 640))
    assert logits.abs().max() < 2


def test_dropout_in_training_only() -> None:
    head, pooled = make_head(HeadConfig(), dropout=0.5), torch.randn(4, 16)
    assert torch.equal(head(pooled), head(pooled))
    head.train()
    assert not torch.equal(head(pooled), head(pooled))


def test_dropout_of_a_linear_head_keeps_the_expectation() -> None:
    head = make_head(HeadConfig(depth=0), dropout=0.3)
    pooled = torch.randn(1, 16)
    expected = head(pooled)
    head.train()
    torch.manual_seed(0)
    draws = head(pooled.expand(200_000, 16))
    error = (draws.mean(dim=0) - expected).abs() / (draws.std(dim=0) / math.sqrt(len(draws)))
    assert error.max() < 5  # standard errors


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"depth": -1}, "head.depth is -1"),
        ({"depth": 1.0}, "head.depth is 1.0"),
        ({"width": 0}, "head.width is 0"),
        ({"activation": "swish"}, "head.activation is 'swish'. Mend: use one of tanh, gelu, relu, silu"),
        ({"norm": "rms"}, "head.norm is 'rms'"),
    ],
)
def test_wrong_values_are_named(values: dict, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        HeadConfig(**values)
