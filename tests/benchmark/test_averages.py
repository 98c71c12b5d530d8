"""Tasks' scores and suites' averages, worked out by hand from what the suites' papers say of them."""

from __future__ import annotations

import pytest

from gemma_encoder.benchmark import get_suite, suite_average, task_score
from gemma_encoder.benchmark.suites import counted_tasks
from gemma_encoder.errors import ConfigError

GLUE = {
    "cola": 0.4,
    "sst2": 0.9,
    "mrpc": 0.85,
    "stsb": 0.75,
    "qqp": 0.8,
    "mnli": 0.7,
    "qnli": 0.6,
    "rte": 0.5,
}
SUPERGLUE = {
    "boolq": 0.6,
    "cb": 0.7,
    "copa": 0.8,
    "multirc": 0.3,
    "record": 0.2,
    "superglue_rte": 0.5,
    "wic": 0.4,
    "wsc": 0.9,
}


@pytest.mark.parametrize(
    ("task", "splits", "score"),
    [
        ("cola", {"validation": {"matthews": -0.1}}, -0.1),
        ("mrpc", {"validation": {"accuracy": 0.8, "f1": 0.9}}, 0.85),
        ("qqp", {"validation": {"accuracy": 0.9, "f1": 0.6}}, 0.75),
        ("stsb", {"validation": {"pearson": 0.7, "spearman": 0.8}}, 0.75),
        (
            "mnli",
            {"validation_matched": {"accuracy": 0.6}, "validation_mismatched": {"accuracy": 0.8}},
            0.7,
        ),
        ("cb", {"validation": {"accuracy": 0.9, "f1_macro": 0.5}}, 0.7),
        ("multirc", {"validation": {"f1": 0.6, "exact_match": 0.2}}, 0.4),
        ("record", {"validation": {"answer_f1": 0.3, "answer_exact_match": 0.2}}, 0.25),
        ("axg", {"test": {"accuracy": 0.5, "gender_parity": 1.0}}, 0.75),
    ],
)
def test_a_task_counts_with_the_mean_of_its_metrics(task, splits, score):
    assert task_score(task, splits) == pytest.approx(score)


def test_glue_is_the_mean_of_eight_tasks_and_of_nine_with_wnli():
    glue = get_suite("glue")
    scores = GLUE | {"wnli": 0.1, "ax": 0.0}
    assert sum(GLUE.values()) == pytest.approx(5.5)
    assert suite_average(glue, scores) == pytest.approx(5.5 / 8)
    assert suite_average(glue, scores, wnli=True) == pytest.approx(5.6 / 9)
    assert suite_average(glue, GLUE) == pytest.approx(5.5 / 8), "neither AX nor WNLI is needed"
    assert suite_average(glue, GLUE, wnli=True) is None
    assert suite_average(glue, {name: GLUE[name] for name in GLUE if name != "qqp"}) is None


def test_superglue_is_the_mean_of_eight_tasks_without_its_diagnostics():
    scores = SUPERGLUE | {"axb": 0.0, "axg": 0.0}
    assert suite_average(get_suite("superglue"), scores) == pytest.approx(4.4 / 8)
    assert set(counted_tasks(get_suite("superglue"))) == set(SUPERGLUE)


def test_wnli_is_no_task_of_superglue():
    with pytest.raises(ConfigError, match="WNLI is no task of SuperGLUE"):
        counted_tasks(get_suite("superglue"), wnli=True)
