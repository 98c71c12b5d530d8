"""Whether a decoder can become an encoder: what can be told before, and what is measured afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .attention import PACKED_ATTENTION
from .decoders import Decoder, quiet
from .dropout import base_model, decoder_layers
from .errors import AttentionError, ConfigError, DecoderError, GemmaEncoderError
from .receptive import assert_policy

if TYPE_CHECKING:
    from .encoder import Encoder
    from .encoder_config import EncoderConfig

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest difference of packed and padded states, relative to their norm, by the type of the weights."""
LOW_PRECISION_TOLERANCE = 0.2
"""The same for bfloat16 and float16, whose rounding grows with the number of layers. Measured in bfloat16:
2 % with Gemma 3 270M, 1 % (causal) and 4 % (bidirectional) with SmolLM2 135M."""

_PROBE_LENGTHS = (24, 13)
_OFFSET_LIMIT = 8  # OPT's table of positions has two rows more than positions
_OTHER_FAMILY = "use another decoder family, such as Gemma, Llama, Mistral or Qwen"


# -------------------------------------------------------------------------------------- before adaptation


def refuse_unfit(decoder: Decoder, config: EncoderConfig) -> None:
    """Refuse a decoder that can't become this encoder, as far as can be told without a pass through it.

    Args:
        decoder: The decoder, which is left as it is.
        config: What shall become of it.

    Raises:
        DecoderError: The family has no attention heads, or transformers can't replace its attention function.
        ConfigError: Texts may be longer than the decoder has positions, `bidirectional_layers` are not layers
            of it, or `skip_bos` is asked for and texts do not start with a BOS.
    """
    _refuse_family(decoder)
    config.causal_layers(decoder.backbone.config.num_hidden_layers)
    _refuse_too_long_texts(decoder.backbone, config.text.max_length)
    _refuse_skipping_words(decoder, config)


def _refuse_family(decoder: Decoder) -> None:
    backbone = decoder.backbone
    if not getattr(backbone.config, "num_attention_heads", None):
        reason = "it has no attention heads"
    elif not _takes_packed_attention(backbone):
        reason = "transformers can't replace its attention function"
    else:
        return
    raise DecoderError(
        f"The family {backbone.config.model_type} can't be adapted: {reason}",
        where=decoder.source,
        fix=_OTHER_FAMILY,
    )


def _takes_packed_attention(backbone: PreTrainedModel) -> bool:
    """Try it: where it can't be done transformers only warns."""
    config: Any = backbone.config
    before = config._attn_implementation
    with quiet():
        backbone.set_attn_implementation(PACKED_ATTENTION)
        taken = config._attn_implementation == PACKED_ATTENTION
        if taken:
            backbone.set_attn_implementation(before)
    return taken


def _refuse_too_long_texts(backbone: PreTrainedModel, max_length: int) -> None:
    positions = _learnt_positions(backbone)
    if positions is not None and max_length > positions:
        family = backbone.config.model_type
        raise ConfigError(
            f"text.max_length is {max_length}, this decoder of the family {family} has {positions} positions",
            fix=f"set text.max_length to {positions} or less",
        )


def _learnt_positions(backbone: PreTrainedModel) -> int | None:
    """Positions a decoder has learnt an embedding for (GPT-2, OPT); None if positions are computed.

    Rotary embeddings are computed and go on beyond `max_position_embeddings`.
    """
    positions = getattr(backbone.config, "max_position_embeddings", None)
    if positions is None or any("Rotary" in type(module).__name__ for module in backbone.modules()):
        return None
    for module in backbone.modules():
        is_table = isinstance(module, nn.Embedding) and module is not backbone.get_input_embeddings()
        if is_table and 0 <= module.num_embeddings - positions < _OFFSET_LIMIT:
            return int(positions)
    return None


def choose_padding_side(decoder: Decoder) -> None:
    """Let the tokenizer of a decoder with learnt positions pad on the right, in place.

    Whoever else opens the saved folder counts positions from the first column, which must be a token.
    """
    if _learnt_positions(decoder.backbone) is not None:
        decoder.tokenizer.padding_side = "right"


def _refuse_skipping_words(decoder: Decoder, config: EncoderConfig) -> None:
    """Without a BOS, `skip_bos` would skip the first word."""
    if config.pooling.kind != "first_k" or not config.pooling.skip_bos:
        return
    bos = decoder.tokenizer.bos_token
    if bos and (config.text.bos or config.text.template.startswith(bos)):
        return
    raise ConfigError(
        "pooling.skip_bos is on, but "
        + ("text.bos is off" if bos else "the tokenizer has no BOS")
        + ": the first word would be skipped",
        fix="set pooling.skip_bos to false" + (" or text.bos to true" if bos else ""),
    )


# --------------------------------------------------------------------------------------- after adaptation


def assert_adapted(encoder: Encoder) -> None:
    """Measure both layouts, packed as used here and padded as others compute who open the saved folder.

    Each must attend as the policy says, and both must give the same states. If only some layers are
    bidirectional, which the padded layout can't compute, that is measured with all of them bidirectional, and
    what was asked for in the packed layout alone. The encoder's layout is the same afterwards. Layouts that
    disagree are measured once more, only to tell a family whose code disagrees every time from a difference
    that comes and goes.

    Args:
        encoder: A freshly adapted encoder.

    Raises:
        AttentionError: A layer deviates from the policy, or the layouts disagree; names the layer.
        DecoderError: The family's code fails in one of the layouts.
    """
    if encoder.config.mixed:
        alike = copy.copy(encoder)  # with the same backbone
        alike.config = replace(encoder.config, bidirectional_layers=None)
        assert_adapted(alike)
        assert_policy(encoder)
        return
    disagreement = _disagreement(encoder, check_policy=True)
    if disagreement is None:
        return
    if _disagreement(encoder) is None:
        raise AttentionError(
            f"{disagreement.what}; measured again they agree",
            where=disagreement.where,
            fix="run it once more; if it comes back, report it with your machine and versions",
        )
    raise disagreement


def _disagreement(encoder: Encoder, *, check_policy: bool = False) -> AttentionError | None:
    """Measure both layouts and hold them against each other."""
    from .encoder import Layout

    layout = encoder.layout
    states: dict[str, list[Tensor]] = {}
    try:
        for name in sorted(get_args(Layout), key=lambda name: name != layout):  # the one in use first
            encoder.layout = name
            _ = encoder.backend  # a back end that can't be used is not the family's fault
            with _blaming_the_family(encoder):
                states[name] = _probe_states(encoder)
            if check_policy:
                assert_policy(encoder)
    finally:
        encoder.layout = layout
    return _difference_of(encoder, states["packed"], states["padded"])


@contextmanager
def _blaming_the_family(encoder: Encoder) -> Iterator[None]:
    """An error inside a family's code becomes one line that names the family."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # modelling code of any family, which may raise anything
        reason = error.what if isinstance(error, GemmaEncoderError) else f"{type(error).__name__}: {error}"
        kind = AttentionError if isinstance(error, AttentionError) else DecoderError
        raise kind(
            f"The family {encoder.stock_backbone.config.model_type} can't be adapted: "
            + " ".join(reason.splitlines()),
            where=f"layout {encoder.layout}",
            fix=_OTHER_FAMILY,
        ) from error


def _probe_states(encoder: Encoder) -> list[Tensor]:
    """States at the real tokens of two short texts, `[tokens, H]`: after each layer, and the last ones.

    The texts are padded on the right, then on the left.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = base_model(encoder.backbone).config.vocab_size
    texts = [torch.randint(vocabulary, (length,), generator=generator) for length in _PROBE_LENGTHS]
    right = encoder.collate([text.tolist() for text in texts])
    left = {name: tensor.flip(1) for name, tensor in right.items()}
    return [torch.cat(states) for states in zip(*(_states(encoder, b) for b in (right, left)), strict=True)]


@torch.no_grad()
def _states(encoder: Encoder, batch: dict[str, Tensor]) -> list[Tensor]:
    real = batch["attention_mask"].bool()
    found: list[Tensor] = []

    def keep(layer: nn.Module, args: Any, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        found.append(states[0] if encoder.layout == "packed" else states[real])

    handles = [layer.register_forward_hook(keep) for layer in decoder_layers(encoder.backbone)]
    try:
        found.append(encoder.encode_tokens(batch["input_ids"], batch["attention_mask"])[real])
    finally:
        for handle in handles:
            handle.remove()
    return [states.float() for states in found]


def _difference_of(encoder: Encoder, packed: list[Tensor], padded: list[Tensor]) -> AttentionError | None:
    """The last states decide; the layers before tell where it begins."""
    tolerance = TOLERANCE.get(encoder.dtype, LOW_PRECISION_TOLERANCE)
    differences = [float((a - b).norm() / b.norm()) for a, b in zip(packed, padded, strict=True)]
    if differences[-1] <= tolerance:
        return None
    layers = len(differences) - 1
    first = next((i for i, difference in enumerate(differences[:-1]) if not difference <= tolerance), None)
    return AttentionError(
        f"Packed and padded layout disagree: states differ by {100 * differences[-1]:.2g}% "
        f"({100 * tolerance:.2g}% is rounding), so the saved folder would give other scores elsewhere",
        where="after the last layer" if first is None else f"from layer {first} of {layers} on",
        fix=_OTHER_FAMILY,
    )
