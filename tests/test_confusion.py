"""The fast metrics against those that results are reported with, on scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_encoder.evaluation import compute_metrics
from gemma_encoder.evaluation.confusion import FROM_CONFUSION, confusion


@given(st.data(), st.integers(2, 4), st.integers(1, 12))
def test_equal_to_the_metrics_of_scores(data, classes, rows):
    """Also where a class never occurs, or the answer is always the same."""
    draw = st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)
    labels, predicted = (np.array(data.draw(draw)) for _ in range(2))
    names = [name for name in FROM_CONFUSION if name != "f1" or classes == 2]
    slow = compute_metrics(names, np.eye(classes)[predicted], labels)
    matrix = confusion(labels, predicted, classes)
    assert {name: FROM_CONFUSION[name](matrix) for name in names} == pytest.approx(slow)
