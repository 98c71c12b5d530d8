"""Masked-token adaptation: the switched backbone learns plain text before the task."""

from .corpus import Corpus, read_corpus
from .masking import Masking, mask_token
from .stage import AdaptationPlan, AdaptationResult, adapt

__all__ = ["AdaptationPlan", "AdaptationResult", "Corpus", "Masking", "adapt", "mask_token", "read_corpus"]
