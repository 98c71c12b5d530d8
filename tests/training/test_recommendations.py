"""What `--attention auto` stands for, by rows and kind of problem; its figures stand where it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from gemma_encoder.attention import AttentionPolicy
from gemma_encoder.pooling import PoolingKind
from gemma_encoder.training import recommended

ROOT = Path(__file__).parents[2]
CAUSAL, BIDIRECTIONAL = ("causal", "last_k"), ("bidirectional", "mean")


@pytest.mark.parametrize(
    ("rows", "problem_type", "chosen", "says"),
    [
        (1, "regression", CAUSAL, "after 500 rows"),
        (1000, "single_label_classification", CAUSAL, "4.1 to 11.5"),
        (1001, "regression", CAUSAL, "90.0 to 86.0"),
        (3200, "single_label_classification", CAUSAL, "that so few rows teach"),
        (3201, "single_label_classification", CAUSAL, "not measured here"),
        (10_000, "multi_label_classification", CAUSAL, "not measured here"),
        (10_001, "single_label_classification", BIDIRECTIONAL, "not measured here"),
        (1, "ranking", CAUSAL, "TREC DL 2019"),
        (10_000, "ranking", CAUSAL, "0.577"),
        (10_001, "ranking", BIDIRECTIONAL, "arXiv 2503.02656"),
    ],
)
def test_the_choice_by_number_of_rows(rows, problem_type, chosen, says):
    found = recommended(rows, problem_type)
    assert (found.attention, found.pooling) == chosen and says in found.why
    assert found.attention in get_args(AttentionPolicy) and found.pooling in get_args(PoolingKind)


@pytest.mark.parametrize(
    ("rows", "problem_type"), [(1, "regression"), (2000, "regression"), (5000, "regression"), (1, "ranking")]
)
def test_every_figure_of_the_evidence_stands_in_the_document_named(rows, problem_type):
    evidence, _, document = recommended(rows, problem_type).why.rstrip(")").rpartition(" (")
    figures = re.findall(r"\d[\d,.]*\d", evidence)
    text = (ROOT / document).read_text(encoding="utf-8").replace(",", "")
    assert figures and not [each for each in figures if each.replace(",", "") not in text]
