"""Tiny decoders, a tiny tokenizer and the conformance checks, for the tests of this package and of yours."""

from .conformance import CHECKS, FOLDER_CHECKS, check_all
from .tiny import FAMILIES, tiny_decoder
from .tokenizer import tiny_tokenizer

__all__ = ["CHECKS", "FAMILIES", "FOLDER_CHECKS", "check_all", "tiny_decoder", "tiny_tokenizer"]
