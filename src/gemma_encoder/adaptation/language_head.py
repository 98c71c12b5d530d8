"""The decoder's own language-model head: vocabulary logits at a few places, in parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ..decoders import quiet
from ..encoder import Encoder
from ..errors import ConfigError, first_line

LOGITS_AT_ONCE = 2**24
"""Logits in memory at a time, a sixteenth of a gigabyte in float32: Gemma has 262,144 for a place."""

_CHANGES_LOGITS = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier_scale")
"""Config fields by which some families scale their logits, which is not computed here."""


@dataclass(frozen=True)
class LanguageHead:
    """A frozen language-model head.

    Attributes:
        weight: `[V, H]`; often the token embeddings themselves.
        softcap: Logits become `softcap * tanh(logits / softcap)` (Gemma 2), or None.
    """

    weight: Tensor
    softcap: float | None = None
    _cast: dict[tuple[torch.device, torch.dtype], Tensor] = field(
        default_factory=dict, repr=False, compare=False
    )

    def loss(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the vocabulary.

        Never are more than `LOGITS_AT_ONCE` logits in memory, backward neither: the gradient by the states is
        made together with the logits. There is none by the head.

        Args:
            states: `[M, H]`; products run in autocast's type, if on.
            targets: Token ids `[M]`.

        Returns:
            The sum of the losses, float32, and how many of the targets are the likeliest token.
        """
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        place = (states.device, dtype)  # training moves the encoder to a GPU, and not this
        if place not in self._cast:
            self._cast[place] = self.weight.to(*place)
        return _CrossEntropy.apply(states, self._cast[place], targets, self.softcap)


def language_head(encoder: Encoder) -> LanguageHead:
    """The head of the decoder that an encoder was made from.

    Raises:
        ConfigError: The decoder has one of its own that can't be loaded, or its family computes logits in
            another way.
    """
    config: Any = encoder.stock_backbone.config
    for name in _CHANGES_LOGITS:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ConfigError(
                f"{config.model_type} scales its logits ({name}), which adapting doesn't compute",
                fix="use another decoder, or adapt without an objective",
            )
    softcap = getattr(config, "final_logit_softcapping", None)
    if config.tie_word_embeddings:
        embeddings: Any = encoder.stock_backbone.get_input_embeddings()
        return LanguageHead(embeddings.weight.detach(), softcap)
    try:
        with quiet():
            model: Any = AutoModelForCausalLM.from_pretrained(
                encoder.config.decoder, dtype=encoder.dtype, trust_remote_code=False
            )
    except Exception as error:  # as in `decoders`: each library raises its own kinds
        raise ConfigError(
            f"The language-model head of {encoder.config.decoder} can't be loaded: {first_line(error)}",
            fix="adapt from the decoder's own folder or hub id",
        ) from error
    head = model.get_output_embeddings()
    if head.bias is not None:
        raise ConfigError(f"The head of {config.model_type} has a bias", fix="use another decoder")
    return LanguageHead(head.weight.detach().to(encoder.device), softcap)


class _CrossEntropy(torch.autograd.Function):
    """Loss, and the gradient by the states in the same go, part by part."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        loss = torch.zeros((), device=states.device)
        right = torch.zeros((), dtype=torch.int64, device=states.device)
        gradient = torch.empty_like(states)
        part = max(1, LOGITS_AT_ONCE // len(weight))
        for start in range(0, len(states), part):
            own, wanted = states[start : start + part].to(weight.dtype), targets[start : start + part]
            logits = (own @ weight.T).float()
            if softcap is not None:
                capped = torch.tanh(logits / softcap)
                logits = softcap * capped
            likeliest, guessed = logits.max(dim=-1, keepdim=True)
            right += (guessed.squeeze(-1) == wanted).sum()
            logits -= likeliest  # softmax in place: a second tensor of their size would be half of the memory
            wanted_logits = logits.gather(-1, wanted[:, None])
            by_logits = logits.exp_()
            total = by_logits.sum(dim=-1, keepdim=True)
            loss += (total.log() - wanted_logits).sum()
            by_logits /= total
            by_logits[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
            if softcap is not None:
                by_logits *= 1 - capped**2
            gradient[start : start + part] = by_logits.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(right)
        return loss, right

    @staticmethod
    def backward(ctx: Any, loss: Tensor, right: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return loss * gradient, None, None, None
