"""Everything that makes an encoder of a decoder, as one frozen dataclass that is saved with the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, get_args

from .attention import AttentionPolicy, WindowPolicy
from .dropout import DropoutConfig
from .errors import ConfigError
from .heads import HeadConfig
from .losses import ProblemType
from .pooling import PoolingConfig, PoolingKind
from .text import TextConfig, is_text

_NESTED: dict[str, type] = {
    "pooling": PoolingConfig,
    "head": HeadConfig,
    "dropout": DropoutConfig,
    "text": TextConfig,
}
_LAYER_RANGE = re.compile(r"-?\d+:(-?\d+)?|:-?\d+", re.ASCII)
# Told by identity, which `replace` keeps: labels nobody asked for don't outlive a change of problem type.
_LABELS_NOT_GIVEN = ("0", "1")


def _nested_config(name: str, value: Any) -> Any:
    """A nested config from what stands for one: itself, a mapping of its fields, or a shorthand."""
    kind = _NESTED[name]
    accepted = f"give a {kind.__name__} or a mapping with {', '.join(f.name for f in fields(kind))}"
    if isinstance(value, kind):
        return value
    if isinstance(value, Mapping):
        try:
            return kind(**value)
        except TypeError as error:
            raise ConfigError(f"{name} is {dict(value)!r}", fix=accepted) from error
    if name == "pooling":
        if isinstance(value, str):
            return PoolingConfig(kind=value)  # type: ignore[arg-type]
        accepted += f", or one of {', '.join(get_args(PoolingKind))}"
    if name == "dropout":
        if isinstance(value, int | float):
            return DropoutConfig.uniform(value)
        accepted += ", or one rate for all"
    raise ConfigError(f"{name} is {value!r}", fix=accepted)


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that makes an encoder of a decoder; saved with the model.

    Attributes:
        attention: Who sees whom: `bidirectional` or `causal`.
        window: What local layers see when bidirectional: `radius`, `width` or `full` (see
            `attention.apply_policy`).
        bidirectional_layers: Which layers bidirectional attention is for, as a Python slice of all: `"9:18"`,
            `"9:"`, or `"-6:"` for the last six; the others are causal. None is all layers. Only the packed
            layout of this package computes it.
        pooling: How token states become one vector; a kind such as `"mean"` will do.
        head: The MLP on the pooled vector.
        dropout: Dropout rates while training; a number is the rate everywhere.
        text: Template, maximal length and special tokens.
        problem_type: What the scores mean, and so which loss trains them.
        labels: Class names; for regression and ranking the name of each score, `score` if none is given.
        decoder: Where the weights came from.
        warm_start: Names of the folders that the backbone went through before, first to last; empty if it
            came right from the decoder (see `Encoder.from_encoder`).

    A mapping of fields will do for `pooling`, `head`, `dropout` and `text`; the attribute is the config made
    of it.

    Raises:
        ConfigError: A value is not allowed.
    """

    attention: AttentionPolicy = "bidirectional"
    window: WindowPolicy = "radius"
    bidirectional_layers: str | None = None
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    text: TextConfig = field(default_factory=TextConfig)
    problem_type: ProblemType = "single_label_classification"
    labels: tuple[str, ...] = _LABELS_NOT_GIVEN
    decoder: str = ""
    warm_start: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in (
            ("attention", AttentionPolicy),
            ("window", WindowPolicy),
            ("problem_type", ProblemType),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}", fix=f"use one of {', '.join(get_args(allowed))}"
                )
        self._check_bidirectional_layers()
        for name in _NESTED:
            object.__setattr__(self, name, _nested_config(name, getattr(self, name)))
        object.__setattr__(self, "labels", self._checked_labels())
        if not isinstance(self.warm_start, list | tuple) or not all(
            isinstance(name, str) for name in self.warm_start
        ):
            raise ConfigError(f"warm_start is {self.warm_start!r}", fix="give a list of names")
        object.__setattr__(self, "warm_start", tuple(self.warm_start))

    def _check_bidirectional_layers(self) -> None:
        layers: Any = self.bidirectional_layers
        if layers is None:
            return
        if not isinstance(layers, str) or not _LAYER_RANGE.fullmatch(layers):
            raise ConfigError(
                f"bidirectional_layers is {layers!r}",
                fix="give a range such as 9:18, 9: or -6: (in YAML in quotes), or leave it out for all",
            )
        if self.attention == "causal":
            raise ConfigError(
                "bidirectional_layers does nothing with attention causal",
                fix="leave it out, or use attention bidirectional",
            )

    def _checked_labels(self) -> tuple[str, ...]:
        labels: Any = self.labels
        if labels is _LABELS_NOT_GIVEN and self.problem_type != "single_label_classification":
            if self.problem_type in ("regression", "ranking"):
                return ("score",)
            raise ConfigError(
                f"labels are not given for {self.problem_type}",
                fix="name them, e.g. labels=('sports', 'politics')",
            )
        if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
            raise ConfigError(
                f"labels are {labels!r}", fix="give a list of names, e.g. labels=('negative', 'positive')"
            )
        if not all(map(is_text, labels)):
            raise ConfigError(f"labels are {labels!r}", fix="leave out lone surrogates, no characters")
        if not labels or len(set(labels)) != len(labels):
            raise ConfigError(f"labels are {labels!r}", fix="give at least one, each a different name")
        if self.problem_type == "single_label_classification" and len(labels) < 2:
            raise ConfigError(f"labels are {labels!r}", fix="give at least two classes")
        if self.problem_type == "ranking" and len(labels) > 1:
            raise ConfigError(f"labels are {labels!r}", fix="give one: ranking has a single score")
        return tuple(labels)

    @property
    def num_labels(self) -> int:
        """Scores per text."""
        return len(self.labels)

    @property
    def mixed(self) -> bool:
        """Whether some layers may be causal and others not, which only the packed layout computes."""
        return self.bidirectional_layers is not None

    @property
    def halves_windows(self) -> bool:
        """Whether packed attention halves windows: where all layers are alike the stock config does."""
        return self.mixed and self.window == "width"

    @property
    def attention_in_words(self) -> str:
        """The attention policy, for people."""
        if self.bidirectional_layers is None:
            return self.attention
        return f"bidirectional (layers {self.bidirectional_layers}, the others causal)"

    def causal_layers(self, count: int) -> frozenset[int]:
        """Indices of the layers that are causal, of a decoder with `count` of them.

        Raises:
            ConfigError: `bidirectional_layers` goes beyond them, or has none of them.
        """
        layers = range(count)
        if self.bidirectional_layers is None:
            return frozenset(layers if self.attention == "causal" else ())
        bounds = [int(bound) if bound else None for bound in self.bidirectional_layers.split(":")]
        bidirectional = layers[slice(*bounds)]
        if not bidirectional or any(abs(bound or 0) > count for bound in bounds):
            raise ConfigError(
                f"bidirectional_layers is {self.bidirectional_layers!r}, the decoder has {count} layers",
                fix=f"name some of the layers 0 to {count - 1}; the end of a range is not in it",
            )
        return frozenset(layers) - frozenset(bidirectional)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EncoderConfig:
        """Undo `to_dict`.

        Raises:
            ConfigError: A field is unknown or has a value that is not allowed.
        """
        try:
            return cls(**data)
        except TypeError as error:
            known = ", ".join(f.name for f in fields(cls))
            raise ConfigError(
                f"Encoder options can't be read: {error}", fix=f"the fields are {known}"
            ) from error


def overridden(config: EncoderConfig, overrides: Mapping[str, Any]) -> EncoderConfig:
    """A config with some of its fields changed."""
    if not isinstance(config, EncoderConfig):
        raise ConfigError(f"config is {config!r}", fix="give an EncoderConfig, or its fields by name")
    known = [f.name for f in fields(EncoderConfig)]
    for name in overrides:
        if name not in known:
            raise ConfigError(f"Encoder has no option {name!r}", fix=f"the fields are {', '.join(known)}")
    return replace(config, **overrides)
