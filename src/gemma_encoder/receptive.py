"""Who sees whom, measured: the receptive field of every layer of an encoder.

A flag in a config does not prove that a layer is bidirectional. So it is measured, each layer by itself: the
layer gets random states as input, one state is replaced, and the outputs that move are those that see it.
Meanwhile attention scores are scaled down, so that all visible tokens weigh about the same: a trained layer
may give a token that it sees a weight that drowns in rounding. The mask, which is what decides who sees whom,
and the back end stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .dropout import base_model, decoder_layers
from .errors import AttentionError

if TYPE_CHECKING:
    from .encoder import Encoder

PaddingSide = Literal["right", "left"]
BOTH_SIDES: tuple[PaddingSide, PaddingSide] = ("right", "left")

SHORT_PROBE = 24
"""Tokens of the probe text when no local window is shorter; enough to see the direction of attention."""
WINDOW_PROBE = 64
"""Longest probe text that every adaptation can afford; shorter windows are measured to their end."""

_PAD_COLUMNS = 2
_DRAWS = 3
_SOFTENING = 1e-3  # not 0: flash kernels scale after masking, and 0 * -inf is NaN


@dataclass(frozen=True)
class LayerField:
    """The measured receptive field of one layer.

    Attributes:
        layer: Index of the layer, from 0.
        kind: In which directions a token was seen to look.
        window: Window of a local layer in tokens, None for a global one.
        reach_back: Tokens seen before the own position; None = all that the probe has.
        reach_forward: Tokens seen after it; None = all that the probe has.
        expected_back: Tokens before that the policy asks for; None = all.
        expected_forward: Tokens after that the policy asks for; None = all.
        problem: First deviation from the policy, None if there is none.
    """

    layer: int
    kind: Literal["bidirectional", "causal", "forward only", "own position only"]
    window: int | None
    reach_back: int | None
    reach_forward: int | None
    expected_back: int | None
    expected_forward: int | None
    problem: str | None


@dataclass(frozen=True)
class ReceptiveField:
    """The measured receptive fields of all layers under one layout, back end and padding side.

    Attributes:
        layout: `packed` or `padded`.
        backend: Attention back end in use.
        padding_side: Side on which the batch was padded.
        probe_length: Tokens of the probe text; a reach of None means at least one less.
        layers: One entry per layer.
    """

    layout: str
    backend: str
    padding_side: PaddingSide
    probe_length: int
    layers: tuple[LayerField, ...]


def receptive_field(
    encoder: Encoder, *, padding_side: PaddingSide = "right", probe_length: int | None = None
) -> ReceptiveField:
    """Measure which tokens every layer lets a token see, with the layout and back end in use.

    Two texts of different length go through the encoder together, so that influence between texts and of
    padding is found as well; a probe of more than 64 tokens is a single text and shows the reach only. Runs
    in eval mode without gradients, leaves modes and random states as they were. Costs about six forward
    passes over the probe, a long one four.

    Args:
        encoder: The encoder.
        padding_side: Where to pad the texts.
        probe_length: Tokens of the longer text, at least 4. By default 24, or a little more than the longest
            local window if that takes up to 64.

    Raises:
        AttentionError: A layer gives NaN or infinite states.
    """
    layers = decoder_layers(encoder.backbone)
    config = base_model(encoder.backbone).config
    windows = [layer_window(config, layer, index) for index, layer in enumerate(layers)]
    causal = [index in encoder.causal_layers for index in range(len(layers))]
    if encoder.config.halves_windows:
        windows = [
            window if window is None or alone else window // 2
            for window, alone in zip(windows, causal, strict=True)
        ]
    length = max(4, probe_length or fitting_probe(windows, WINDOW_PROBE))
    with _frozen(encoder):
        backend = encoder.backend.name
        probe = _Probe(encoder, length, padding_side)
        reports: list[LayerField] = []

        def measure(index: int) -> Callable[..., None]:
            def hook(layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
                expected = _expected_reach(causal[index], windows[index])
                try:
                    seen = probe.measure(layer, args, kwargs, output, expected)
                except _NotFiniteError as error:
                    where = f"layer {index}, {_place(backend, encoder.layout, padding_side)}"
                    raise AttentionError(
                        f"Layer {index} gives NaN or infinite states",
                        where=where,
                        fix="use float32 or bfloat16, and check the decoder's weights",
                    ) from error
                reports.append(_layer_field(index, windows[index], expected, seen, probe))

            return hook

        handles = [
            layer.register_forward_hook(measure(i), with_kwargs=True) for i, layer in enumerate(layers)
        ]
        try:
            encoder.encode_tokens(probe.batch["input_ids"], probe.batch["attention_mask"])
        finally:
            for handle in handles:
                handle.remove()
    return ReceptiveField(encoder.layout, backend, padding_side, length, tuple(reports))


def assert_policy(encoder: Encoder) -> None:
    """Measure every layer for both padding sides; refuse an encoder that does not attend as it should.

    Windows of more than about 60 tokens are checked for their direction only, not to their end; `describe`
    measures them.

    Raises:
        AttentionError: A layer deviates, or the stock config says otherwise than the policy, so that the
            saved folder would compute something else elsewhere. Names the layer, what was measured, back end
            and padding side.
    """
    policy = encoder.config.attention
    for side in BOTH_SIDES:
        measured = receptive_field(encoder, padding_side=side)
        for field in measured.layers:
            if field.problem is not None:
                place = _place(measured.backend, measured.layout, side)
                raise AttentionError(
                    f"Attention of layer {field.layer} is not as the policy {policy!r} says: {field.problem}",
                    where=f"layer {field.layer} of {len(measured.layers)}, {place}",
                    fix="use another back end, or a decoder family that is known to work",
                )
    causal = getattr(base_model(encoder.backbone).config, "is_causal", True)
    if causal != (policy == "causal"):
        raise AttentionError(
            f"config.is_causal is {causal}, the policy is {policy!r}: elsewhere the saved folder would not "
            "attend as it does here",
            fix="set the policy with attention.apply_policy",
        )


def assert_bidirectional(encoder: Encoder) -> None:
    """`assert_policy`, and the policy must be bidirectional.

    Raises:
        AttentionError: A layer is not bidirectional, or the encoder is causal on purpose.
    """
    if encoder.config.attention != "bidirectional":
        raise AttentionError(
            f"The encoder's attention policy is {encoder.config.attention!r}",
            fix="adapt with attention='bidirectional'",
        )
    if encoder.causal_layers:
        raise AttentionError(
            f"Attention is {encoder.config.attention_in_words}", fix="adapt without bidirectional_layers"
        )
    assert_policy(encoder)


def _place(backend: str, layout: str, side: str) -> str:
    return f"back end {backend}, layout {layout}, padding {side}"


@contextmanager
def _frozen(encoder: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode comes back afterwards."""
    training = [module for module in encoder.modules() if module.training]
    encoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def layer_window(config: Any, layer: nn.Module, index: int) -> int | None:
    """Window of a layer in tokens, None if it is global: from its module, or else from the config."""
    for module in layer.modules():
        if hasattr(module, "sliding_window"):
            return module.sliding_window  # type: ignore[return-value]
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[index] == "full_attention":
        return None
    return getattr(config, "sliding_window", None)


def _expected_reach(causal: bool, window: int | None) -> tuple[int | None, int | None]:
    """Tokens a token should see before and after itself; None = all."""
    if causal:
        return (None if window is None else window - 1), 0
    return window, window


def fitting_probe(windows: Sequence[int | None], limit: int) -> int:
    """A probe a little longer than the longest window that fits into `limit`."""
    affordable = [window + 4 for window in windows if window is not None and window + 4 <= limit]
    return max([SHORT_PROBE, *affordable])


class _NotFiniteError(Exception):
    """A layer gives NaN or infinite states at a real token."""


@dataclass(frozen=True)
class _Poke:
    """One replaced state. `text` and `token` say which; `text` None = padding."""

    text: int | None
    token: int
    flat: int


class _Probe:
    """The texts, where their tokens stand in what a layer sees, and the states to put there.

    Text 0 has `length` tokens and is poked at its ends, which shows the whole reach in both directions. A
    probe of up to `WINDOW_PROBE` tokens costs little, so it has a text 1, half as long, and is also poked in
    the middle of both texts and, in the padded layout, at a padding position.
    """

    def __init__(self, encoder: Encoder, length: int, side: PaddingSide) -> None:
        short = length <= WINDOW_PROBE
        lengths = [length, length // 2 + 1] if short else [length]
        texts, width = len(lengths), length + _PAD_COLUMNS
        self.length = length
        generator = torch.Generator().manual_seed(0)
        tokenizer: Any = encoder.tokenizer
        vocabulary = base_model(encoder.backbone).config.vocab_size
        mask = torch.zeros(texts, width, dtype=torch.long)
        for text, tokens in enumerate(lengths):
            mask[text, slice(0, tokens) if side == "right" else slice(width - tokens, width)] = 1
        ids = torch.randint(vocabulary, (texts, width), generator=generator)
        ids = ids.masked_fill(mask == 0, tokenizer.pad_token_id or 0)
        self.batch = {"input_ids": ids.to(encoder.device), "attention_mask": mask.to(encoder.device)}

        packed = encoder.layout == "packed"
        rows, columns = (1, sum(lengths)) if packed else (texts, width)
        # Text and token that stand at each flat position a layer sees; -1 at padding.
        self.text = torch.arange(texts).repeat_interleave(torch.tensor(lengths))
        self.token = torch.cat([torch.arange(tokens) for tokens in lengths])
        if not packed:
            real = mask.flatten().bool()
            self.text = torch.full((texts * width,), -1).masked_scatter(real, self.text)
            self.token = torch.full((texts * width,), -1).masked_scatter(real, self.token)
        self.real = self.text >= 0
        starts = [int((self.text == text).nonzero()[0]) for text in range(texts)]
        at = [(0, 0), (0, length - 1)]
        if short:
            at += [(0, length // 2), (1, lengths[1] // 2)]
        self.pokes = [_Poke(text, token, starts[text] + token) for text, token in at]
        if not packed and short:
            self.pokes.append(_Poke(None, 0, int((~self.real).nonzero()[0])))
        hidden_size = base_model(encoder.backbone).config.hidden_size
        self._draws = torch.randn(_DRAWS, rows, columns, hidden_size, generator=generator)
        self._news = torch.randn(_DRAWS, hidden_size, generator=generator)

    def expected(self, reach: tuple[int | None, int | None]) -> Tensor:
        """Which flat positions may see each poked one, bool `[pokes, N]`."""
        back, forward = (self.length if tokens is None else tokens for tokens in reach)
        rows = []
        for poke in self.pokes:
            distance = self.token - poke.token  # > 0: an output after the poke, which looks back at it
            rows.append((self.text == poke.text) & (distance <= back) & (-distance <= forward))
            if poke.text is None:
                rows[-1] = torch.zeros_like(self.real)
        return torch.stack(rows)

    def measure(
        self,
        layer: nn.Module,
        args: tuple,
        kwargs: dict[str, Any],
        output: Any,
        reach: tuple[int | None, int | None],
    ) -> Tensor:
        """Call a layer again with other states: which flat positions moved with each poke, `[pokes, N]`.

        What should move and did not is tried again with other random states, as its change may have been
        rounded away. What moved did see the poke: everything else in the two calls is the same to the bit.
        """
        real = self.real
        if not _states(output).flatten(0, 1)[real.to(_states(output).device)].isfinite().all():
            raise _NotFiniteError
        own = args[0] if args else kwargs["hidden_states"]
        expected = self.expected(reach)
        moved = torch.zeros_like(expected)

        def call(states: Tensor) -> Tensor:
            # `forward` itself, so that no hook sees these calls.
            if args:
                result = layer.forward(states, *args[1:], **kwargs)
            else:
                result = layer.forward(**{**kwargs, "hidden_states": states})
            return _states(result).flatten(0, 1)

        with _soft_scores(layer):
            for draw, new in zip(self._draws.to(own), self._news.to(own), strict=True):
                before = call(draw)
                if not before[real.to(before.device)].isfinite().all():
                    raise _NotFiniteError
                for index, poke in enumerate(self.pokes):
                    poked = draw.clone()
                    poked.view(-1, poked.shape[-1])[poke.flat] = new
                    moved[index] |= (call(poked) != before).any(dim=-1).cpu() & real
                if not (expected & ~moved).any():
                    break
        return moved


@contextmanager
def _soft_scores(layer: nn.Module) -> Iterator[None]:
    """Scale a layer's attention scores down, by the `scaling` that its module hands on."""
    scaled = [
        (module, scaling)
        for module in layer.modules()
        if isinstance(
            scaling := getattr(module, "scaling", None), float
        )  # PEFT's layers have a dict of that name
    ]
    try:
        for module, scaling in scaled:
            module.scaling = scaling * _SOFTENING  # type: ignore[assignment]
        yield
    finally:
        for module, scaling in scaled:
            module.scaling = scaling  # type: ignore[assignment]


def _states(output: Any) -> Tensor:
    """The hidden states in what a layer returns."""
    return output if isinstance(output, Tensor) else output[0]


def _layer_field(
    index: int, window: int | None, reach: tuple[int | None, int | None], moved: Tensor, probe: _Probe
) -> LayerField:
    """Read reach, kind and the first deviation off the measurement."""
    back = forward = 0
    for poke, row in zip(probe.pokes, moved, strict=True):
        if poke.text == 0:
            tokens = probe.token[row & (probe.text == 0)]
            back = max(back, int((tokens - poke.token).max()))
            forward = max(forward, int((poke.token - tokens).max()))
    farthest = probe.length - 1
    kind: Any = "bidirectional" if back and forward else "causal" if back else "own position only"
    if forward and not back:
        kind = "forward only"
    return LayerField(
        layer=index,
        kind=kind,
        window=window,
        reach_back=None if back == farthest else back,
        reach_forward=None if forward == farthest else forward,
        expected_back=reach[0],
        expected_forward=reach[1],
        problem=_problem(back, forward, kind, reach, moved, probe),
    )


def _problem(
    back: int, forward: int, kind: str, reach: tuple[int | None, int | None], moved: Tensor, probe: _Probe
) -> str | None:
    expected = probe.expected(reach)
    if torch.equal(moved, expected):
        return None
    for poke, row in zip(probe.pokes, moved, strict=True):
        if poke.text is None and row.any():
            return "padding changes real tokens"
        if (row & probe.real & (probe.text != poke.text)).any():
            return "one text changes another text of the batch"
    farthest = probe.length - 1
    wanted_back, wanted_forward = (farthest if tokens is None else min(tokens, farthest) for tokens in reach)
    measured = f"measured {kind}, a token sees {back} tokens back and {forward} forward"
    if (back, forward) != (wanted_back, wanted_forward):
        return f"{measured}, not {wanted_back} and {wanted_forward} (probe of {probe.length} tokens)"
    return f"{measured}, but not all of them (probe of {probe.length} tokens)"
