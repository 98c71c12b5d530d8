"""Options of encoders and of where they run.

`PoolingOptions`, `HeadOptions` and `DropoutOptions` have the fields of `PoolingConfig`, `HeadConfig` and
`DropoutConfig`, whose modules need torch; a test holds them equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

DtypeName = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class PoolingOptions:
    """How token states become one vector.

    Attributes:
        kind: Mean of all tokens, of the first k, of the last k, mean and last token side by side, or learned
            attention.
        k: Tokens averaged by first_k and last_k; all there are in a shorter text.
        skip_bos: first_k leaves out the first token (BOS, an attention sink) unless the text has no other.
        probe: In attention, learned probes are the query, or the keys and values (kv).
        probes: Number of learned probes in attention.
        heads: Attention heads in attention; must divide the hidden size.
    """

    kind: Literal["mean", "first_k", "last_k", "mean_last", "attention"] = "mean"
    k: int = 1
    skip_bos: bool = False
    probe: Literal["query", "kv"] = "query"
    probes: int = 1
    heads: int = 4


@dataclass(frozen=True)
class HeadOptions:
    """The MLP on the pooled vector.

    Attributes:
        depth: Hidden layers; 0 is a linear head.
        width: Size of a hidden layer, that of the pooled vector if not given.
        activation: After each hidden layer.
        norm: Normalisation of the pooled vector. Without one, tanh saturates on Gemma 3's large states.
    """

    depth: int = 1
    width: int | None = None
    activation: Literal["tanh", "gelu", "relu", "silu"] = "tanh"
    norm: Literal["layer_norm", "none"] = "layer_norm"


@dataclass(frozen=True)
class DropoutOptions:
    """Dropout rates while training.

    Attributes:
        attention: On attention probabilities.
        feed_forward: On the output of every feed-forward block.
        embedding: On token embeddings.
        head: Before every linear layer of the head.
    """

    attention: float = 0.0
    feed_forward: float = 0.0
    embedding: float = 0.0
    head: float = 0.0


@dataclass(frozen=True)
class EncoderOptions:
    """What a decoder is made into.

    Attributes:
        attention: Who sees whom. In train and study also auto: the attention and, if not given, the pooling
            by the number of training rows (docs/adaptation.md); a folder keeps its own.
        window: What local layers with window W see when bidirectional: W to each side (radius), W in all
            (width), or everything (full).
        bidirectional_layers: Only these layers become bidirectional and the others stay causal: a range as in
            Python, 9:18, 9: or, for the last six, --bidirectional_layers=-6: (in a YAML file in quotes). All
            if not given.
        pooling: How token states become one vector.
        head: The MLP on the pooled vector.
        dropout: One rate for all places, or a rate each: --dropout.attention, --dropout.feed_forward,
            --dropout.embedding, --dropout.head. If not given, the task's recipe, or what an adapted folder
            has.
        max_length: Most tokens of a text, special tokens included; longer ones are cut and counted. The
            task's recipe if not given.
        template: How a row is written out: {text} and, for pairs, {text_pair}; the task's own if not given.
        bos: Begin every text with the tokenizer's BOS token, if it has one.
        eos: End every text with the tokenizer's EOS token, if it has one.
    """

    attention: Literal["bidirectional", "causal", "auto"] = "bidirectional"
    window: Literal["radius", "width", "full"] = "radius"
    bidirectional_layers: str | None = None
    pooling: PoolingOptions = field(default_factory=PoolingOptions)
    head: HeadOptions = field(default_factory=HeadOptions)
    dropout: float | DropoutOptions | None = None
    max_length: int | None = None
    template: str | None = None
    bos: bool = True
    eos: bool = True
    # No option itself: names of those that were given, be it at their default.
    given: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True)
class ComputeOptions:
    """Where and how a trained encoder runs.

    Attributes:
        max_tokens: Most tokens in one forward pass; lower it when memory runs out; the scores stay the same.
        device: auto (the GPU if there is one), cpu, cuda or cuda:N.
        dtype: Type of the backbone's weights; bfloat16 is about twice as fast and a little less exact. auto:
            bfloat16 where the processor or GPU multiplies it in hardware, so that scores differ by machine.
        compile_layers: Compute the layers by compiled code, which is faster and takes seconds to make. If not
            given: where that is possible, from where so much has been scored that it pays.
    """

    max_tokens: int = 4096
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    compile_layers: bool | None = None
