"""On a GPU: every back end against attention written out, states and gradients, and that a pass doesn't wait
for the GPU; skipped without one."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from gemma_encoder import Encoder
from gemma_encoder.attention_backends import BACKENDS, PackedContext, ScoreRule
from gemma_encoder.compiling import compiled_layers
from gemma_encoder.packing import PackedLayout, pack
from gemma_encoder.testing import tiny_decoder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

HEAD_DIM = 256
MIXED = [1, 17, 300, 2, 64, 65, 1, 128]
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest error, as a share of the largest number. A bfloat16 has steps of 0.8 % at most."""
OF_LARGE_SCORES = {torch.float32: 1e-4, torch.bfloat16: 0.15}
"""The same where scores are so large that a soft-cap of 50 is felt: theirs are steps of 0.1."""


@pytest.fixture(autouse=True)
def _full_float32():
    """Products of float32 in float32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module", autouse=True)
def _room_for_versions():
    """torch gives up compiling a function after eight versions; each case here is one of FlexAttention."""
    with torch._dynamo.config.patch(recompile_limit=64):
        yield


def layout_of(lengths: list[int], device: str = "cuda") -> PackedLayout:
    return pack((torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long().to(device))


def random_states(lengths: list[int], heads: tuple[int, int]) -> list[Tensor]:
    """Queries, keys, values and the gradient of the output, float32."""
    generator = torch.Generator().manual_seed(sum(lengths))
    query_heads, key_heads = heads
    shapes = [(1, count, sum(lengths), HEAD_DIM) for count in (query_heads, key_heads, key_heads)]
    shapes.append((1, sum(lengths), query_heads, HEAD_DIM))
    return [torch.randn(shape, generator=generator).cuda() for shape in shapes]


def outcome(
    backend: str, states: list[Tensor], lengths: list[int], scores: ScoreRule, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Output and gradients, computed in a type, as float64."""
    *inputs, upstream = (each.to(dtype) for each in states)
    inputs = [each.requires_grad_() for each in inputs]
    context = PackedContext(layout_of(lengths), scores.causal)
    output = BACKENDS[backend](*inputs, context, scores)
    found = [output, *torch.autograd.grad(output, inputs, upstream)]
    names = ("output", "query", "key", "value")
    return {name: each.detach().double() for name, each in zip(names, found, strict=True)}


def assert_like_eager(
    backend: str, dtype: torch.dtype, lengths: list[int], heads: tuple[int, int], scores: ScoreRule
) -> None:
    states = random_states(lengths, heads)
    rounded = [each.to(dtype) for each in states]  # both get the numbers as they are in this type
    expected = outcome("eager", [each.double() for each in rounded], lengths, scores, torch.float64)
    found = outcome(backend, rounded, lengths, scores, dtype)
    tolerance = (TOLERANCES if scores.softcap is None else OF_LARGE_SCORES)[dtype]
    for name, reference in expected.items():
        # Of one token by itself the gradients of query and key are zero.
        largest = float(reference.abs().max()) or 1.0
        error = float((found[name] - reference).abs().max()) / largest
        assert error < tolerance, f"{name}: {error:.1e} of the largest number"


def rule(causal: bool = False, window: int | None = None, softcap: float | None = None) -> ScoreRule:
    # A large scaling, so that probabilities are far from uniform and a soft-cap is felt.
    return ScoreRule(causal, window, 0.125 if softcap is None else 0.5, softcap, dropout=0.0)


@pytest.mark.parametrize("lengths", [[1], [17], MIXED], ids=["one token", "one text", "mixed"])
@pytest.mark.parametrize("heads", [(4, 1), (8, 4)], ids=["4:1", "8:4"])
@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("varlen", torch.bfloat16),
        ("sdpa", torch.bfloat16),
        ("sdpa", torch.float32),
        ("matmul", torch.bfloat16),
        ("matmul", torch.float32),
    ],
)
def test_back_end_equals_eager(backend, dtype, causal, window, heads, lengths):
    assert_like_eager(backend, dtype, lengths, heads, rule(causal, window))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_matmul_with_a_soft_cap_equals_eager(dtype):
    assert_like_eager("matmul", dtype, MIXED, (8, 4), rule(window=16, softcap=50.0))


# Each of these compiles FlexAttention for seconds: few, that together have everything.
@pytest.mark.parametrize(
    ("dtype", "heads", "scores"),
    [
        (torch.bfloat16, (4, 1), rule(window=16)),
        (torch.bfloat16, (8, 4), rule(causal=True, softcap=50.0)),
        (torch.float32, (4, 1), rule(causal=True, window=16)),
        (torch.float32, (8, 4), rule(softcap=50.0)),
    ],
    ids=["window", "causal, soft-cap", "float32, causal, window", "float32, soft-cap"],
)
def test_flex_equals_eager(dtype, heads, scores):
    assert_like_eager("flex", dtype, MIXED, heads, scores)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_flex_of_few_tokens_equals_eager(dtype):
    """Below 128 tokens in all, where it would choose another kernel."""
    assert_like_eager("flex", dtype, [17, 2], (4, 1), rule(window=16))


def test_flex_is_not_compiled_again_for_other_texts():
    """Rows of several blocks of 128 tokens; the second batch is what shows torch that lengths change."""
    from torch._dynamo.utils import counters

    scores = rule(window=16)
    for lengths in (MIXED, [200, 33, 90]):
        assert_like_eager("flex", torch.bfloat16, lengths, (4, 1), scores)
    compiled = counters["stats"]["unique_graphs"]
    for lengths in ([5, 80, 130], [512, 1], [100] * 7, [17, 300, 1, 40, 9, 77], [1] * 200):
        assert_like_eager("flex", torch.bfloat16, lengths, (4, 1), scores)
    assert counters["stats"]["unique_graphs"] == compiled


def encoder_on(device: str, family: str = "gemma3") -> Encoder:
    return Encoder.from_decoder(tiny_decoder(family), verify=False, seed=0, labels=("no", "yes")).to(device)


def step(encoder: Encoder, *, compiled: bool = False) -> dict[str, Tensor]:
    """Scores, loss and all gradients of a training step, on the CPU."""
    lengths = [11, 3, 1, 40, 130]
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(4, 20, (length,), generator=generator).tolist() for length in lengths]
    labels = torch.tensor([0, 1, 1, 0, 1], device=encoder.device)
    encoder.zero_grad()
    with compiled_layers(encoder.backbone).in_use() if compiled else nullcontext():
        output = encoder(**encoder.collate(ids), labels=labels)
        output.loss.backward()
    found = {"logits": output.logits.detach(), "loss": output.loss.detach()}
    found |= {name: each.grad for name, each in encoder.named_parameters() if each.grad is not None}
    return {name: each.cpu() for name, each in found.items()}


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, reference in expected.items():
        error = float((found[name] - reference).abs().max() / reference.abs().max().clamp(min=1e-6))
        assert error < tolerance, f"{name}: {error:.1e} of the largest number"


@pytest.mark.parametrize("backend", ["sdpa", "matmul"])
def test_a_training_step_is_that_of_the_cpu(backend):
    """In float32; `auto` would be FlexAttention, which has its own tests."""
    encoder = encoder_on("cuda")
    encoder.requested_backend = backend
    assert_alike(step(encoder), step(encoder_on("cpu")), 1e-3)


def test_a_training_step_of_compiled_layers_is_that_of_stock_layers():
    encoder = encoder_on("cuda")
    encoder.requested_backend = "matmul"
    assert_alike(step(encoder, compiled=True), step(encoder), 1e-3)


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_the_chosen_back_end_scores_like_the_cpu(family):
    """Gemma 3 by varlen in bfloat16 under autocast, Gemma 2 by FlexAttention for its soft-cap."""
    encoder = Encoder.from_decoder(
        tiny_decoder(family, head_dim=64), verify=False, seed=0, labels=("no", "yes")
    )
    rows = [[2] + [5 + number % 11 for number in range(length)] for length in (1, 16, 299, 40)]
    with torch.no_grad():
        expected = encoder(**encoder.collate(rows)).pooled
        encoder.to("cuda")
        with torch.autocast("cuda", torch.bfloat16):
            assert encoder.backend.name == {"gemma2": "flex", "gemma3": "varlen"}[family]
            found = encoder(**encoder.collate(rows)).pooled.cpu()
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.99


def test_a_pass_over_a_batch_on_the_cpu_does_not_wait_for_the_gpu():
    encoder = encoder_on("cuda").eval()
    encoder.requested_backend = "matmul"
    batch = encoder.collate([[2, 5, 6, 7], [2, 5], [2, *[6] * 40]])
    with torch.inference_mode():
        expected = encoder(**batch).logits
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = encoder(**batch).logits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, expected)
