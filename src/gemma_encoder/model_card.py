"""The README.md of a saved folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .decoders import describe_decoder

if TYPE_CHECKING:
    from .encoder_config import EncoderConfig


def model_card(config: EncoderConfig, adapter_kept: bool, remark: str = "") -> str:
    """Markdown that says what the folder is and how to use it; `remark` is a sentence of its own."""
    example = '("first text", "second text")' if config.text.is_pair else '"a text"'
    alone = '[("first text", "second text")]' if config.text.is_pair else '"a text"'
    pooling = config.pooling.kind + (
        f" (k={config.pooling.k})" if config.pooling.kind in ("first_k", "last_k") else ""
    )
    plain_pooler = config.pooling.kind == "mean" or (
        config.pooling.kind in ("first_k", "last_k") and config.pooling.k == 1 and not config.pooling.skip_bos
    )
    attention = config.attention_in_words
    gemma = "gemma" in config.decoder.lower()
    labels = ", ".join(config.labels)
    lines = [
        "---",
        "library_name: gemma-encoder",
        "tags: [sentence-transformers, cross-encoder, gemma-encoder]",
        *(["license: gemma"] if gemma else []),
        "---",
        "",
        f"# Encoder from {config.decoder or 'a decoder'}",
        "",
        f"A decoder turned into an encoder: {attention} attention, {pooling} pooling, MLP head.",
        *([remark] if remark else []),
        f"The decoder is {describe_decoder(config.decoder)}.",
        *(f"Its weights were trained before as `{name}`." for name in config.warm_start),
        f"It gives {config.num_labels} score(s) per text ({config.problem_type}): {labels}.",
        "",
        "```python",
        "from gemma_encoder import Encoder, score_all",
        "",
        'encoder = Encoder.from_pretrained("this/folder")',
        f"print(score_all(encoder, [{example}]))",
        "```",
    ]
    if adapter_kept:
        lines += ["", "The LoRA adapter is kept beside its base: only gemma-encoder opens this folder."]
    elif config.mixed:
        lines += ["", "Only gemma-encoder computes layers of both kinds: nothing else opens this folder."]
    else:
        needs = (
            ""
            if plain_pooler
            else " Its pooler is a module of gemma-encoder, which must be installed and trusted."
        )
        trust = "" if plain_pooler else ", trust_remote_code=True"
        lines += [
            "",
            f"The folder is also a sentence-transformers cross-encoder with the same scores.{needs}",
            "",
            "```python",
            "from sentence_transformers import CrossEncoder",
            "",
            f'print(CrossEncoder("this/folder"{trust}).predict({alone}))',
            "```",
        ]
    if gemma:
        lines += ["", "Derived from Gemma: the Gemma Terms of Use (ai.google.dev/gemma/terms) apply."]
    return "\n".join(lines) + "\n"
