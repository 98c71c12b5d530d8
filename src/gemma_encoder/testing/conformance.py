"""The checks that every decoder family must pass as an encoder. Run them on a family of your own:

    from gemma_encoder import Encoder
    from gemma_encoder.testing import check_all

    check_all(lambda **options: Encoder.from_decoder("path/of/a/small/decoder", **options))

Each check builds fresh encoders with the function it is given, which passes its options on to
`Encoder.from_decoder`, and raises AssertionError with what it saw. `CHECKS` and `FOLDER_CHECKS` list them,
for pytest's parametrize.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dropout import DropoutConfig
from ..encoder import Encoder
from ..errors import AttentionError
from ..pooling import PoolingConfig, attention, first_k, last_k, mean, mean_last
from ..receptive import assert_policy

MakeEncoder = Callable[..., Encoder]
"""Builds a fresh encoder in eval mode from options of `Encoder.from_decoder`."""

TEXTS = (
    "good",
    "the film is very good and not bad at all, is it",
    "",
    "a river bank",
    "document text: a, b, c!",
)
POOLERS: tuple[PoolingConfig, ...] = (
    mean(),
    first_k(),
    first_k(3, skip_bos=True),
    last_k(),
    last_k(3),
    mean_last(),
    attention("query", 2),
    attention("kv", 4),
)
TOLERANCE = 1e-4
"""Largest relative difference of two ways to compute the same, in float32."""


def check_all(make: MakeEncoder, folder: str | Path | None = None) -> None:
    """Run every check.

    Args:
        make: Builds the encoders.
        folder: An empty folder to save into and to keep, a temporary one if None.

    Raises:
        AssertionError: What a check saw.
        GemmaEncoderError: No encoder can be made of the decoder.
    """
    for check in CHECKS:
        check(make)
    with tempfile.TemporaryDirectory() as scratch:
        for folder_check in FOLDER_CHECKS:
            target = Path(folder or scratch) / folder_check.__name__
            target.mkdir(parents=True)
            folder_check(make, target)


def attends_by_policy(make: MakeEncoder) -> None:
    """Every layer sees what its policy says, both padding sides, both layouts: nothing less, nothing more."""
    for policy, window, layout in itertools.product(
        ("bidirectional", "causal"), ("radius", "width", "full"), ("packed", "padded")
    ):
        encoder = make(attention=policy, window=window, layout=layout, verify=False)
        try:
            assert_policy(encoder)
        except AttentionError as error:
            raise AssertionError(f"{policy}, {window}: {error}") from error


def packed_equals_padded(make: MakeEncoder) -> None:
    """The packed layout gives what stock attention gives on padded batches, on either side."""
    for policy, window in itertools.product(("bidirectional", "causal"), ("radius", "width", "full")):
        encoder = make(attention=policy, window=window, seed=0)
        ids = encoder.tokenize(TEXTS).input_ids
        encoder.layout = "padded"
        encoder.stock_backbone.set_attn_implementation("eager")
        reference = _scores(encoder, ids, "right")
        encoder.layout = "packed"
        for side in ("right", "left"):
            _assert_close(
                _scores(encoder, ids, side), reference, f"packed and padded, {policy}, {window}, {side}"
            )


def padding_does_not_matter(make: MakeEncoder) -> None:
    """Scores don't depend on the side or amount of padding, nor on batch mates, nor on their order."""
    for layout, pooling in itertools.product(("packed", "padded"), POOLERS):
        encoder = make(pooling=pooling, seed=0, layout=layout)
        ids = encoder.tokenize(TEXTS).input_ids
        reference = torch.cat([_scores(encoder, [row], "right") for row in ids])
        for side, extra in (("left", 0), ("right", 0), ("left", 5), ("right", 9)):
            scores = _scores(encoder, ids, side, extra)
            _assert_close(
                scores, reference, f"{layout}, {pooling.kind}: alone and with {extra} more padding, {side}"
            )
        backwards = _scores(encoder, ids[::-1], "left").flip(0)
        _assert_close(backwards, reference, f"{layout}, {pooling.kind}: order of the batch")


def attention_matters(make: MakeEncoder) -> None:
    """The policies give different scores; otherwise the other checks would show nothing."""
    scores = []
    for policy in ("bidirectional", "causal"):
        encoder = make(attention=policy, seed=0, verify=False)
        scores.append(_scores(encoder, encoder.tokenize(TEXTS).input_ids, "right"))
    assert (scores[0] - scores[1]).abs().max() > 1e-3, (
        "bidirectional and causal attention give the same scores"
    )


def dropout_only_in_training(make: MakeEncoder) -> None:
    """Each dropout site changes scores while training and none in eval; state-dict names stay."""
    plain = make(seed=0)
    ids = plain.tokenize(TEXTS).input_ids
    reference = _scores(plain, ids, "right")
    for site in ("attention", "feed_forward", "embedding", "head"):
        encoder = make(seed=0, dropout=DropoutConfig(**{site: 0.5}))
        assert list(encoder.state_dict()) == list(plain.state_dict()), (
            f"dropout on {site} changes state-dict names"
        )
        _assert_close(_scores(encoder, ids, "right"), reference, f"dropout on {site} in eval")
        encoder.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first, second = _scores(encoder, ids, "right"), _scores(encoder, ids, "right")
        assert not torch.equal(first, second), f"dropout on {site} does nothing while training"


def gradients_reach_what_trains(make: MakeEncoder) -> None:
    """Whatever trains gets a gradient that is finite and not zero, nothing else does, in both layouts alike.

    Trained are: everything; everything but the embeddings; pooler, head and a LoRA adapter.
    """
    for what in ("everything", "all but embeddings", "adapter"):
        gradients = [
            _gradients(make(seed=0, layout=layout, pooling=attention()), what)
            for layout in ("packed", "padded")
        ]
        for name, gradient in gradients[0].items():
            _assert_close(gradient, gradients[1][name], f"gradient of {name}, packed and padded")


def survives_saving(make: MakeEncoder, folder: Path) -> None:
    """A saved and reloaded encoder gives equal scores, with every pooler."""
    for number, pooling in enumerate(POOLERS):
        encoder = make(seed=0, pooling=pooling, window="width")
        _assert_same_after_saving(encoder, folder / str(number), f"saved with {pooling.kind}")


def merged_lora_survives_saving(make: MakeEncoder, folder: Path) -> None:
    """A LoRA adapter that is merged on saving gives the same scores, and the live model stays as it was."""
    encoder = _with_lora(make(seed=0))
    ids = encoder.tokenize(TEXTS).input_ids
    before = copy.deepcopy(encoder.state_dict())
    scores = _scores(encoder, ids, "right")
    encoder.save_pretrained(folder / "merged")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), f"saving changed {name}"
    _assert_close(_scores(Encoder.from_pretrained(folder / "merged"), ids, "right"), scores, "merged LoRA")


def kept_lora_survives_saving(make: MakeEncoder, folder: Path) -> None:
    """A LoRA adapter that is kept beside its base gives equal scores, and is still an adapter."""
    encoder = _with_lora(make(seed=0, window="width"))
    again = _assert_same_after_saving(encoder, folder / "kept", "kept LoRA", merge_adapter=False)
    assert again.backbone is not again.stock_backbone, "the adapter was merged"


def opens_in_sentence_transformers(make: MakeEncoder, folder: Path) -> None:
    """`CrossEncoder` opens the folder without this package's code and gives the same scores on raw texts."""
    from sentence_transformers import CrossEncoder

    for number, pooling in enumerate((mean(), first_k(), last_k())):
        encoder = make(seed=0, pooling=pooling)
        scores = _scores(encoder, encoder.tokenize(TEXTS).input_ids, "right")
        encoder.save_pretrained(folder / str(number))
        model = CrossEncoder(str(folder / str(number)), device="cpu")
        theirs = model.predict(
            [[{"role": "user", "content": text}] for text in TEXTS], show_progress_bar=False
        )
        _assert_close(
            torch.as_tensor(theirs).reshape(scores.shape), scores, f"CrossEncoder with {pooling.kind}"
        )


CHECKS: tuple[Callable[[MakeEncoder], None], ...] = (
    attends_by_policy,
    packed_equals_padded,
    padding_does_not_matter,
    attention_matters,
    dropout_only_in_training,
    gradients_reach_what_trains,
)
"""Checks that need nothing but an encoder."""

FOLDER_CHECKS: tuple[Callable[[MakeEncoder, Path], None], ...] = (
    survives_saving,
    merged_lora_survives_saving,
    kept_lora_survives_saving,
    opens_in_sentence_transformers,
)
"""Checks that save into a folder."""


def _batch(ids: Sequence[Sequence[int]], side: str, extra: int = 0) -> dict[str, Tensor]:
    """Pad with `extra` more columns than needed; padding holds a real token, which must not be seen."""
    width = max(map(len, ids)) + extra
    batch = {
        "input_ids": torch.full((len(ids), width), 7),
        "attention_mask": torch.zeros(len(ids), width, dtype=torch.long),
    }
    for row, tokens in enumerate(ids):
        place = slice(0, len(tokens)) if side == "right" else slice(width - len(tokens), width)
        batch["input_ids"][row, place] = torch.as_tensor(tokens)
        batch["attention_mask"][row, place] = 1
    return batch


@torch.no_grad()
def _scores(encoder: Encoder, ids: Sequence[Sequence[int]], side: str, extra: int = 0) -> Tensor:
    logits: Tensor = encoder(**_batch(ids, side, extra)).logits
    return logits


def _assert_close(actual: Tensor, expected: Tensor, what: str) -> None:
    difference = (actual - expected).abs().max().item()
    scale = max(expected.abs().max().item(), 1e-3)
    assert difference <= TOLERANCE * scale, f"{what}: differ by {difference / scale:.2e} of the largest value"


def _assert_same_after_saving(encoder: Encoder, folder: Path, what: str, **options: Any) -> Encoder:
    """Save and load; options and scores must be the very same. Gives what was loaded."""
    ids = encoder.tokenize(TEXTS).input_ids
    encoder.save_pretrained(folder, **options)
    again = Encoder.from_pretrained(folder)
    assert again.config == encoder.config, f"{what}: the options changed on the way"
    difference = (_scores(again, ids, "right") - _scores(encoder, ids, "right")).abs().max().item()
    assert difference == 0, f"{what}: scores differ by {difference}"
    return again


def _gradients(encoder: Encoder, trained: str) -> dict[str, Tensor]:
    """Gradients of what trains, by name, after checking them and that nothing else has one."""
    if trained == "adapter":
        _with_lora(encoder)
    elif trained == "all but embeddings":
        encoder.stock_backbone.get_input_embeddings().requires_grad_(False)
    batch = _batch(encoder.tokenize(TEXTS).input_ids, "right")
    labels = torch.arange(len(TEXTS)) % encoder.config.num_labels
    encoder.train()(**batch, labels=labels).loss.backward()
    found: dict[str, Tensor] = {}
    for name, parameter in encoder.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen and got a gradient"
            continue
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
        if name != "pooler.key.bias":  # it shifts all scores of a probe alike, which softmax ignores
            assert parameter.grad.any(), f"the gradient of {name} is zero"
        found[name] = parameter.grad
    assert any("backbone" in name for name in found), "nothing of the backbone trains"
    return found


def _with_lora(encoder: Encoder) -> Encoder:
    from peft import LoraConfig, get_peft_model

    # Without PEFT's initialisation the update is not zero, and shows.
    config: Any = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        encoder.backbone = get_peft_model(encoder.stock_backbone, config)
    return encoder.eval()
