"""Poolers against references written out in numpy (float64), and their invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gemma_encoder import pooling
from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.pooling import PoolingConfig, build_pooler

HIDDEN = 8
CONFIGS = {
    "mean": pooling.mean(),
    "first_1": pooling.first_k(),
    "first_3": pooling.first_k(3),
    "first_1_skip_bos": pooling.first_k(1, skip_bos=True),
    "first_3_skip_bos": pooling.first_k(3, skip_bos=True),
    "last_1": pooling.last_k(),
    "last_3": pooling.last_k(3),
    "mean_last": pooling.mean_last(),
    "query": pooling.attention("query", probes=1, heads=2),
    "query_3": pooling.attention("query", probes=3, heads=4),
    "kv": pooling.attention("kv", probes=5, heads=2),
}
every_pooler = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def make_pooler(config: PoolingConfig) -> pooling.Pooler:
    """A pooler whose every parameter is random, so that none hides behind a zero or a one."""
    torch.manual_seed(1)
    pooler = build_pooler(config, HIDDEN)
    for parameter in pooler.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return pooler


def make_texts(lengths: list[int], scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(lengths))
    return [scale * rng.normal(size=(length, HIDDEN)) for length in lengths]


def pad(
    texts: list[np.ndarray], sides: list[str], extra: int = 0, filler: float = np.nan
) -> tuple[Tensor, Tensor]:
    """Padded states and mask, each text at the side told; padding holds `filler`."""
    width = max(len(text) for text in texts) + extra
    hidden = np.full((len(texts), width, HIDDEN), filler)
    mask = np.zeros((len(texts), width), dtype=np.int64)
    for row, (text, side) in enumerate(zip(texts, sides, strict=True)):
        start = {"right": 0, "left": width - len(text), "both": (width - len(text)) // 2}[side]
        hidden[row, start : start + len(text)] = text
        mask[row, start : start + len(text)] = 1
    return torch.tensor(hidden, dtype=torch.float32), torch.tensor(mask)


# ------------------------------------------------------------------------------------- the references


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def reference(config: PoolingConfig, pooler: pooling.Pooler, text: np.ndarray) -> np.ndarray:
    """One text at a time, no mask, loops over heads, queries: float64 `[length, H]` -> `[output_size]`."""
    if config.kind == "mean":
        return text.mean(axis=0)
    if config.kind == "last_k":
        return text[-config.k :].mean(axis=0)
    if config.kind == "mean_last":
        return np.concatenate([text.mean(axis=0), text[-1]])
    if config.kind == "first_k":
        start = 1 if config.skip_bos and len(text) > 1 else 0
        return text[start : start + config.k].mean(axis=0)

    weights = {name: value.detach().double().numpy() for name, value in pooler.state_dict().items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    tokens = np.stack(
        [
            (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weights["norm.weight"] + weights["norm.bias"]
            for x in text
        ]
    )
    latents = weights["probes"]
    if config.probe == "query":
        queries, keys, values = latents, linear("key", tokens), linear("value", tokens)
    else:
        queries, keys, values = linear("query", tokens), linear("key", latents), linear("value", latents)
    size = HIDDEN // config.heads
    attended = np.empty_like(queries)
    for head in range(config.heads):
        part = slice(head * size, (head + 1) * size)
        for i, query in enumerate(queries):
            probabilities = softmax(keys[:, part] @ query[part] / np.sqrt(size))
            attended[i, part] = probabilities @ values[:, part]
    result = linear("output", attended)
    return result.reshape(-1) if config.probe == "query" else (tokens + result).mean(axis=0)


# ---------------------------------------------------------------------------------------------- tests


@every_pooler
@pytest.mark.parametrize("sides", [["right"] * 4, ["left"] * 4, ["left", "right", "both", "left"]], ids=str)
def test_equals_the_reference(config: PoolingConfig, sides: list[str]) -> None:
    """Texts of 1, 2 (shorter than k), 5 and 9 tokens, NaN under padding, any side."""
    texts, pooler = make_texts([1, 2, 5, 9]), make_pooler(config)
    hidden, mask = pad(texts, sides, extra=2)
    pooled = pooler(hidden, mask)
    expected = np.stack([reference(config, pooler, text) for text in texts])
    assert pooled.dtype == torch.float32
    assert pooled.shape == (4, pooler.output_size)
    np.testing.assert_allclose(pooled.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_first_and_last_by_hand() -> None:
    states = torch.arange(5.0).reshape(1, 5, 1).expand(1, 5, HIDDEN)  # token i holds i
    mask = torch.tensor([[0, 1, 1, 1, 0]])  # tokens 1, 2, 3
    for config, value in (
        (pooling.mean(), 2.0),
        (pooling.first_k(), 1.0),
        (pooling.first_k(2), 1.5),
        (pooling.first_k(1, skip_bos=True), 2.0),
        (pooling.first_k(9, skip_bos=True), 2.5),
        (pooling.last_k(), 3.0),
        (pooling.last_k(2), 2.5),
        (pooling.last_k(9), 2.0),
    ):
        assert build_pooler(config, HIDDEN)(states, mask)[0].tolist() == [value] * HIDDEN, config


def test_skip_bos_keeps_an_only_token() -> None:
    pooler = build_pooler(pooling.first_k(2, skip_bos=True), HIDDEN)
    hidden = torch.full((1, 3, HIDDEN), 7.0)
    assert (pooler(hidden, torch.tensor([[0, 1, 0]])) == 7.0).all()


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(CONFIGS)),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    extra=st.integers(0, 5),
    data=st.data(),
)
def test_padding_cannot_matter(name: str, lengths: list[int], extra: int, data: st.DataObject) -> None:
    """Side, amount and content of padding, and batch mates, change nothing."""
    config = CONFIGS[name]
    texts, pooler = make_texts(lengths), make_pooler(config)
    sides = data.draw(
        st.lists(st.sampled_from(["left", "right", "both"]), min_size=len(texts), max_size=len(texts))
    )
    filler = data.draw(st.sampled_from([0.0, 1e30, float("inf"), float("nan")]))
    together = pooler(*pad(texts, sides, extra, filler))
    alone = torch.cat([pooler(*pad([text], ["right"])) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@every_pooler
def test_bool_and_integer_masks_agree(config: PoolingConfig) -> None:
    hidden, mask = pad(make_texts([2, 4]), ["left", "right"])
    pooler = make_pooler(config)
    assert torch.equal(pooler(hidden, mask), pooler(hidden, mask.bool()))


@every_pooler
def test_gradients_stay_finite_and_out_of_padding(config: PoolingConfig) -> None:
    hidden, mask = pad(make_texts([2, 5]), ["left", "right"])
    hidden.requires_grad_()
    pooler = make_pooler(config)
    pooler(hidden, mask).square().sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert (hidden.grad[~mask.bool()] == 0).all()
    # Every text gets a gradient at some token.
    assert (hidden.grad.abs().amax(dim=(1, 2)) > 0).all()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in pooler.parameters()
    )


def test_sums_in_float32() -> None:
    """300 + 1 is not a bfloat16 number: summed in bfloat16, the ones would be lost."""
    hidden = torch.ones(1, 257, HIDDEN, dtype=torch.bfloat16)
    hidden[0, 0] = 512
    pooled = build_pooler(pooling.mean(), HIDDEN)(hidden, torch.ones(1, 257))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, torch.full((1, HIDDEN), 768 / 257))


@every_pooler
def test_stays_float32_under_autocast_and_cast(config: PoolingConfig) -> None:
    hidden, mask = pad(make_texts([3, 5]), ["left", "right"])
    pooler = make_pooler(config)
    expected = pooler(hidden, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pooler(hidden, mask), expected)
    pooler.bfloat16()
    assert torch.equal(pooler(hidden, mask), expected)
    assert pooler(hidden.bfloat16(), mask).dtype == torch.float32


@pytest.mark.parametrize("probe", ["query", "kv"])
def test_attention_starts_sane_on_large_states(probe: pooling.ProbeKind) -> None:
    """Tokens of magnitude 500: fresh poolers answer with numbers of order 1, every token gets a gradient."""
    torch.manual_seed(0)
    hidden = (500 * torch.randn(4, 12, 64)).requires_grad_()
    pooler = build_pooler(pooling.attention(probe), 64)
    pooled = pooler(hidden, torch.ones(4, 12))
    assert 0.1 < pooled.std() < 3
    assert pooled.abs().max() < 10
    (pooled * torch.randn_like(pooled)).sum().backward()
    assert hidden.grad is not None
    per_token = hidden.grad.norm(dim=-1)
    assert per_token.min() > 0.05 * per_token.max()


def test_probes_are_told_apart() -> None:
    pooler = build_pooler(pooling.attention("query", probes=3), 64)
    assert pooler.output_size == 192
    with torch.no_grad():
        pooler.probes.normal_(std=3)
    parts = pooler(torch.randn(1, 6, 64), torch.ones(1, 6)).reshape(3, 64)
    assert torch.pdist(parts).min() > 0.1


def test_a_text_without_a_token_is_refused() -> None:
    with pytest.raises(DataError, match="row 1"):
        build_pooler(pooling.mean(), HIDDEN)(torch.zeros(2, 3, HIDDEN), torch.tensor([[1, 1, 0], [0, 0, 0]]))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"kind": "max"}, "pooling.kind is 'max'"),
        ({"k": 0}, "pooling.k is 0"),
        ({"k": 1.5}, "pooling.k is 1.5"),
        ({"probe": "value"}, "pooling.probe is 'value'"),
        ({"probes": -1}, "pooling.probes is -1"),
        ({"heads": True}, "pooling.heads is True"),
        ({"skip_bos": "yes"}, "pooling.skip_bos is 'yes'"),
        ({"kind": "attention", "probe": "kv", "probes": 1}, "one latent"),
    ],
)
def test_wrong_values_are_named(values: dict, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        PoolingConfig(**values)


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(
        ConfigError, match=r"does not divide the hidden size 10\. Mend: use one of 1, 2, 5, 10"
    ):
        build_pooler(pooling.attention(heads=4), 10)


def test_defaults_of_the_factories() -> None:
    assert pooling.mean() == PoolingConfig()
    assert pooling.attention("kv").probes == pooling.KV_PROBES
    assert pooling.attention().probes == 1
