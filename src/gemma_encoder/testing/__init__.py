"""Tiny decoders, a tiny tokenizer and the conformance checks, for the tests of this package and of yours."""

from .tiny import FAMILIES, tiny_decoder
from .tokenizer import tiny_tokenizer

__all__ = ["FAMILIES", "tiny_decoder", "tiny_tokenizer"]
