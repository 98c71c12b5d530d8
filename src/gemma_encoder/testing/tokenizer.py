"""A tokenizer that needs no download: one token per word or sign it knows, single characters for the rest."""

from __future__ import annotations

from string import ascii_letters, digits, punctuation

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
_WORDS = [
    "the",
    "a",
    "of",
    "to",
    "and",
    "is",
    "in",
    "it",
    "text",
    "film",
    "good",
    "bad",
    "not",
    "very",
    "query",
    "document",
    "what",
    "river",
    "bank",
    "money",
]


def tiny_tokenizer(*, pad: bool = True, padding_side: str = "left") -> PreTrainedTokenizerFast:
    """A hermetic tokenizer of about 120 tokens, like Gemma's in habit: spaces are part of the tokens, it pads
    left.

    Args:
        pad: Whether it has a padding token; many decoders' tokenizers don't.
        padding_side: `left` or `right`.
    """
    signs = ["▁", *ascii_letters, *digits, *punctuation, "\n"]
    pieces = [*_SPECIAL, *signs, *("▁" + word for word in _WORDS)]
    merges = []
    for word in _WORDS:  # byte-pair merges that build each known word from its left end
        built = "▁"
        for letter in word:
            merges.append((built, letter))
            built += letter
            pieces.append(built)
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges)), unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    core.decoder = decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>" if pad else None,
        padding_side=padding_side,
        clean_up_tokenization_spaces=False,
    )
