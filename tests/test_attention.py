"""Packed attention against stock padded eager attention and against masks written out by hand."""

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gemma_encoder.attention import PACKED_ATTENTION, apply_policy, packed_attention
from gemma_encoder.attention_backends import (
    BACKENDS,
    AttentionNeeds,
    PackedContext,
    ScoreRule,
    resolve_backend,
)
from gemma_encoder.errors import AttentionError, ConfigError
from gemma_encoder.packing import pack, repad, unpad
from gemma_encoder.testing import FAMILIES, tiny_decoder

LENGTHS = [11, 3, 1, 7]  # longer and shorter than the tiny window of 4


def padded_batch(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(LENGTHS) + 2
    mask = torch.zeros(len(LENGTHS), width, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        mask[row, -length:] = 1
    if side == "right":
        mask = mask.flip(1)
    ids = torch.randint(4, 20, mask.shape, generator=torch.Generator().manual_seed(0))
    return ids * mask, mask


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("window", ["radius", "width", "full"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_backend_equals_stock_padded_eager_attention(family, attention, window, side):
    backbone = tiny_decoder(family).backbone.eval()
    apply_policy(backbone, attention, window)
    ids, mask = padded_batch(side)
    backbone.set_attn_implementation("eager")
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    reference = backbone(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
    reference = reference * mask.unsqueeze(-1)
    backbone.set_attn_implementation(PACKED_ATTENTION)
    layout = pack(mask)
    for backend in ("auto", "sdpa", "eager", "matmul", "flex"):
        if (backend, family) == ("sdpa", "gemma2"):
            continue  # it has no soft-cap
        context = PackedContext(layout, attention == "causal", backend)
        states = backbone(
            input_ids=unpad(ids, layout)[None],
            position_ids=layout.position_ids[None],
            use_cache=False,
            packed=context,
        ).last_hidden_state[0]
        torch.testing.assert_close(repad(states, layout), reference, rtol=1e-4, atol=1e-4)


WINDOW_2 = {
    # rows: queries, columns: keys, of a text of five tokens in a layer of window 2
    "bidirectional": ["11100", "11110", "11111", "01111", "00111"],
    "causal": ["10000", "11000", "01100", "00110", "00011"],
}


@pytest.mark.parametrize("backend", ["sdpa", "eager", "matmul", "flex"])
@pytest.mark.parametrize("policy", WINDOW_2)
def test_visible_keys_are_those_written_out_by_hand(policy, backend):
    length, heads = 5, 2
    layout = pack(torch.ones(2, length))  # two texts: neither may see the other
    value = torch.eye(2 * length)[None, None].expand(1, heads, -1, -1).contiguous()
    context = PackedContext(layout, policy == "causal", backend)
    states = torch.zeros(1, heads, 2 * length, 2 * length)
    output, _ = packed_attention(
        torch.nn.Identity(), states, states, value, None, packed=context, sliding_window=2
    )
    visible = (output[0, :, 0] > 0).int()
    expected = torch.tensor([[int(cell) for cell in row] for row in WINDOW_2[policy]], dtype=torch.int32)
    assert torch.equal(visible, torch.block_diag(expected, expected).int())


@given(
    lengths=st.lists(st.sampled_from([1, 2, 5, 8, 9, 24, 33]), min_size=1, max_size=9),
    heads=st.sampled_from([(1, 1), (1, 4), (2, 2), (2, 6)]),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 3]),
    softcap=st.sampled_from([None, 2.0]),
)
def test_batched_products_equal_the_ones_written_out_text_by_text(lengths, heads, causal, window, softcap):
    """States and gradients, in float64."""
    key_heads, groups = heads
    mask = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    generator = torch.Generator().manual_seed(0)

    def random(heads: int) -> torch.Tensor:
        states = torch.randn(1, heads, sum(lengths), 8, generator=generator, dtype=torch.float64)
        return states.requires_grad_()

    states = [random(key_heads * groups), random(key_heads), random(key_heads)]
    upstream = random(key_heads * groups).transpose(1, 2).detach()
    scores = ScoreRule(causal, window, scaling=0.5, softcap=softcap, dropout=0.0)
    found = {}
    for name in ("eager", "matmul") if softcap else ("eager", "matmul", "sdpa"):
        output = BACKENDS[name](*states, PackedContext(pack(mask), causal), scores)
        found[name] = [output, *torch.autograd.grad(output, states, upstream)]
    for name in found:
        # Softmax runs in float32 in both of ours.
        torch.testing.assert_close(found[name], found["eager"], rtol=1e-5, atol=1e-5)


def ramped(*, future: float, backend: str = "auto", causal: bool = False):
    """Output of packed attention over two texts, later tokens counting `future`."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8, generator=generator) for heads in (4, 2, 2))
    layout = pack(torch.tensor([[1] * 6, [1] * 3 + [0] * 3]))
    context = PackedContext(layout, causal, backend, future)
    return packed_attention(torch.nn.Identity(), query, key, value, None, packed=context)[0]


@pytest.mark.parametrize("backend", ["eager", "matmul"])
def test_a_ramp_begins_causal_and_ends_bidirectional(backend):
    torch.testing.assert_close(
        ramped(future=0.0, backend=backend), ramped(future=1.0, backend="eager", causal=True)
    )
    torch.testing.assert_close(ramped(future=1.0, backend=backend), ramped(future=1.0, backend="eager"))
    assert torch.equal(ramped(future=1.0), ramped(future=1.0, backend="sdpa")), "nothing is left of it"


@pytest.mark.parametrize("backend", ["auto", "eager", "matmul"])
def test_later_tokens_count_their_share(backend):
    """Weights written out: exp(score), times the share for keys behind the query."""
    length, share = 5, 0.25
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(1, 1, length, 8, generator=generator) for _ in range(2))
    layout = pack(torch.ones(1, length))
    context = PackedContext(layout, False, backend, share)
    found, _ = packed_attention(
        torch.nn.Identity(), query, key, torch.eye(length)[None, None], None, packed=context, scaling=0.5
    )
    weights = (0.5 * query[0, 0] @ key[0, 0].T).exp()
    weights = weights.tril() + share * weights.triu(1)
    torch.testing.assert_close(found[0, :, 0], weights / weights.sum(dim=-1, keepdim=True))


@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_back_ends_without_a_ramp_refuse_it(backend):
    with pytest.raises(AttentionError, match="weighs all tokens alike"):
        ramped(future=0.5, backend=backend)


@pytest.mark.parametrize("backend", ["sdpa", "eager", "matmul"])
def test_what_is_not_finite_stays_in_its_text(backend):
    lengths = [5, 3, 4]  # padded to the same length in a batch
    states = torch.ones(1, 1, sum(lengths), 4)
    states[:, :, 5:8] = float("nan")
    layout = pack((torch.arange(5) < torch.tensor(lengths)[:, None]).long())
    scores = ScoreRule(causal=False, window=None, scaling=1.0, softcap=None, dropout=0.0)
    output = BACKENDS[backend](states, states, states, PackedContext(layout, False), scores)
    finite = output[0, :, 0].isfinite().all(dim=-1)
    assert finite.tolist() == [True] * 5 + [False] * 3 + [True] * 4


@pytest.mark.parametrize("backend", ["sdpa", "eager", "matmul"])
def test_dropout_hits_probabilities_at_the_asked_rate(backend):
    torch.manual_seed(0)
    layout = pack(torch.ones(1, 64))
    value = torch.eye(64)[None, None]
    zeros = torch.zeros(1, 1, 64, 64)
    output, _ = packed_attention(
        torch.nn.Identity(),
        zeros,
        zeros,
        value,
        None,
        packed=PackedContext(layout, False, backend),
        dropout=0.25,
    )
    dropped = (output == 0).float().mean().item()
    assert abs(dropped - 0.25) < 0.03  # 4096 draws: 4.4 standard errors
    assert output.max().item() == pytest.approx(1 / 64 / 0.75)


def test_autocast_computes_in_its_own_type():
    layout = pack(torch.ones(1, 4))
    states = torch.randn(1, 2, 4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = packed_attention(
            torch.nn.Identity(), states, states, states.bfloat16(), None, packed=PackedContext(layout, False)
        )
    assert mixed.dtype == torch.bfloat16


def test_width_halves_the_window_everywhere_it_is_kept():
    backbone = tiny_decoder("gemma3").backbone
    before = backbone.config.sliding_window
    apply_policy(backbone, "bidirectional", "width")
    widths = {layer.self_attn.sliding_window for layer in backbone.layers if layer.self_attn.is_sliding}
    assert backbone.config.sliding_window == before // 2 and widths == {before // 2}


def test_unknown_policies_are_refused():
    backbone = tiny_decoder("llama").backbone
    with pytest.raises(ConfigError, match="attention is 'both'"):
        apply_policy(backbone, "both", "radius")
    with pytest.raises(ConfigError, match="window is 'half'"):
        apply_policy(backbone, "causal", "half")


def needs(**changes) -> AttentionNeeds:
    defaults = {"device": "cpu", "dtype": torch.float32, "head_dim": 256, "longest": 513}
    defaults |= dict.fromkeys(("softcap", "dropout", "gradients"), False)
    return AttentionNeeds(**(defaults | changes))


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({}, "sdpa", "fastest on cpu"),
        ({"dropout": True}, "sdpa", "fastest on cpu"),
        ({"softcap": True}, "matmul", "SDPA has no soft-cap"),
        ({"longest": 512}, "sdpa", "fastest on cpu"),
        ({"longest": 512, "dtype": torch.bfloat16}, "matmul", "fastest on cpu"),
        ({"dtype": torch.bfloat16}, "sdpa", "fastest on cpu"),
    ],
)
def test_resolver_on_cpu(changes, name, reason):
    backend = resolve_backend(needs(**changes))
    assert backend.name == name and reason in backend.reason


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"dtype": torch.bfloat16}, "varlen"),
        ({"dtype": torch.bfloat16, "softcap": True}, "flex"),
        ({"dtype": torch.float32}, "flex"),
        ({"dtype": torch.bfloat16, "dropout": True}, "sdpa"),
        ({"dtype": torch.bfloat16, "dropout": True, "longest": 512}, "matmul"),
        ({"dtype": torch.bfloat16, "dropout": True, "softcap": True}, "matmul"),
        ({"dtype": torch.bfloat16, "head_dim": 512}, "flex"),
    ],
)
def test_resolver_on_a_modern_gpu_without_the_flash_attn_package(monkeypatch, changes, name):
    monkeypatch.setattr("gemma_encoder.attention_backends._flash_capable", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert resolve_backend(needs(device="cuda", **changes)).name == name


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "varlen"),
        ({"dropout": True}, "flash_attn"),
        ({"softcap": True}, "flash_attn"),
        ({"softcap": True, "dropout": True}, "matmul"),  # SDPA has no soft-cap
        ({"dtype": torch.float32, "dropout": True}, "sdpa"),
    ],
)
def test_resolver_on_a_modern_gpu_with_the_flash_attn_package(monkeypatch, changes, name):
    monkeypatch.setattr("gemma_encoder.attention_backends._flash_capable", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: "found")
    assert resolve_backend(needs(device="cuda", **{"dtype": torch.bfloat16, **changes})).name == name


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_flash_attn_equals_eager(monkeypatch, softcap):
    """The package's signature around eager, which stands for its kernel."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8, generator=generator) for heads in (4, 2, 2))
    packed = PackedContext(pack(torch.tensor([[1] * 6, [1] * 3 + [0] * 3])), causal=True)
    scores = ScoreRule(causal=True, window=3, scaling=0.5, softcap=softcap, dropout=0.0)

    def kernel(q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **options):
        assert cu_seqlens_q.tolist() == cu_seqlens_k.tolist() == [0, 6, 9]
        assert max_seqlen_q == max_seqlen_k == 6
        assert options == {
            "dropout_p": 0.0,
            "softmax_scale": 0.5,
            "causal": True,
            "window_size": (2, 0),
            "softcap": softcap or 0.0,
        }
        states = (states.transpose(0, 1).unsqueeze(0) for states in (q, k, v))
        return BACKENDS["eager"](*states, packed, scores).squeeze(0)

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=kernel))
    found, expected = (BACKENDS[name](query, key, value, packed, scores) for name in ("flash_attn", "eager"))
    torch.testing.assert_close(found, expected)


def test_varlen_without_windows_is_not_taken(monkeypatch):
    monkeypatch.setattr("gemma_encoder.attention_backends._flash_capable", lambda: True)
    monkeypatch.setattr("gemma_encoder.attention_backends._varlen_keywords", lambda: frozenset({"scale"}))
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    backend = resolve_backend(needs(device="cuda", dtype=torch.bfloat16))
    assert backend.name == "flex" and "no varlen with windows" in backend.reason


@pytest.mark.parametrize("keywords", [{"window_size"}, {"window_size", "enable_gqa"}], ids=["2.11", "2.12"])
def test_varlen_of_every_version_of_torch_equals_eager(monkeypatch, keywords):
    """Its signature around eager, which stands for the kernel: heads, offsets and window arrive."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8, generator=generator) for heads in (4, 2, 2))
    packed = PackedContext(pack(torch.tensor([[1] * 6, [1] * 3 + [0] * 3])), causal=True)
    scores = ScoreRule(causal=True, window=3, scaling=0.5, softcap=None, dropout=0.0)

    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, **options):
        assert set(options) == keywords - {"window_size"}
        assert options.get("enable_gqa", False) == (query.shape[1] != key.shape[1])
        assert (cu_seq_q.tolist(), max_q, scale, window_size) == ([0, 6, 9], 6, 0.5, (2, 0))
        states = (states.transpose(0, 1).unsqueeze(0) for states in (query, key, value))
        return BACKENDS["eager"](*states, packed, scores).squeeze(0)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr("gemma_encoder.attention_backends._varlen_keywords", lambda: frozenset(keywords))
    found, expected = (BACKENDS[name](query, key, value, packed, scores) for name in ("varlen", "eager"))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("backend", "changes", "objection"),
    [
        ("sdpa", {"softcap": True}, "no soft-cap"),
        ("flex", {"dropout": True}, "no dropout"),
        ("flex", {"gradients": True}, "no backward on CPU"),
        ("varlen", {}, "needs a CUDA device"),
    ],
)
def test_a_requested_backend_refuses_what_it_can_not_do(backend, changes, objection):
    with pytest.raises(AttentionError, match=objection):
        resolve_backend(needs(**changes), backend)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ConfigError, match="back end is 'fast'"):
        resolve_backend(needs(), "fast")


@pytest.mark.parametrize("keyword", ["attention_mask", "s_aux", "position_bias"])
def test_what_would_change_attention_is_not_ignored(keyword):
    states = torch.zeros(1, 1, 2, 4)
    keywords = {"attention_mask": None, keyword: torch.ones(1)}
    context = PackedContext(pack(torch.ones(1, 2)), False)
    with pytest.raises(AttentionError, match=f"Identity passes '{keyword}'"):
        packed_attention(torch.nn.Identity(), states, states, states, packed=context, **keywords)
    harmless = {"position_ids": torch.arange(2), "use_cache": False, "is_causal": True, keyword: None}
    packed_attention(
        torch.nn.Identity(), states, states, states, **{"attention_mask": None, **harmless}, packed=context
    )


def test_packed_attention_without_a_layout_says_what_to_call():
    states = torch.zeros(1, 1, 2, 4)
    with pytest.raises(AttentionError, match="call the Encoder"):
        packed_attention(torch.nn.Identity(), states, states, states, None)
