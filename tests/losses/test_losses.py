"""Losses against their formulas written out, and against one another where two must agree."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_encoder.errors import ConfigError
from gemma_encoder.losses import (
    RANKING_LOSSES,
    binary_cross_entropy,
    cross_entropy,
    loss_for,
    squared_error,
    to_lists,
)


def test_cross_entropy_by_hand():
    """softmax(0, ln 3) = (1/4, 3/4); softmax(0, 0) = (1/2, 1/2)."""
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    labels = torch.tensor([1, 0])
    expected = math.log(4 / 3) + math.log(2)
    assert cross_entropy(logits, labels, "sum").item() == pytest.approx(expected)
    assert cross_entropy(logits, labels).item() == pytest.approx(expected / 2)


def test_binary_cross_entropy_by_hand():
    """sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2: each row is the mean over its labels."""
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), math.log(3)]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    rows = [(math.log(4 / 3) + math.log(2)) / 2, math.log(4)]
    assert binary_cross_entropy(logits, labels, "sum").item() == pytest.approx(sum(rows))
    assert binary_cross_entropy(logits, labels).item() == pytest.approx(sum(rows) / 2)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_squared_error_by_hand(shape):
    logits, labels = torch.tensor([[1.0], [5.0]]), torch.tensor([3.0, 4.0]).view(shape)
    assert squared_error(logits, labels, "sum").item() == pytest.approx(4 + 1)
    assert squared_error(logits, labels).item() == pytest.approx(2.5)


def test_squared_error_of_one_column_does_not_broadcast():
    """`[B, 1] - [B]` would silently be `[B, B]`."""
    values = torch.arange(5.0)
    assert squared_error(values[:, None], values, "sum").item() == 0


def test_squared_error_is_the_mean_over_several_targets():
    logits, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]])
    assert squared_error(logits, labels, "sum").item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("single_label_classification", torch.tensor([0, 2, 1, 2, 0])),
        ("multi_label_classification", torch.eye(3)[[0, 1, 2, 1, 0]]),
        ("regression", torch.linspace(-2, 2, 15).view(5, 3)),
    ],
)
def test_the_mean_is_the_sum_over_the_rows_however_they_are_cut(problem_type, labels):
    """What lets a batch be cut into passes: sums of parts over the rows of all."""
    torch.manual_seed(0)
    logits, loss = torch.randn(5, 3), loss_for(problem_type)
    parts = [loss(logits[part], labels[part], reduction="sum") for part in ([3], [0, 4], [1, 2])]
    torch.testing.assert_close(sum(parts) / 5, loss(logits, labels))


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_large_logits_stay_finite(problem_type):
    labels = torch.tensor([0]) if problem_type.startswith("single") else torch.tensor([[1.0, 0.0]])
    logits = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = loss_for(problem_type)(logits, labels)
    loss.backward()
    expected = 2e4 if problem_type.startswith("single") else 1e4
    assert loss.item() == pytest.approx(expected) and logits.grad.isfinite().all()


def test_two_classes_are_one_logistic_decision():
    """Softmax over (0, z) is the sigmoid of z."""
    z, labels = torch.linspace(-3, 3, 7), torch.tensor([0, 1, 0, 1, 1, 0, 1])
    softmax = cross_entropy(torch.stack([torch.zeros(7), z], dim=1), labels)
    np.testing.assert_allclose(softmax.item(), binary_cross_entropy(z[:, None], labels[:, None]), rtol=1e-6)


def test_an_unknown_problem_type_is_named():
    with pytest.raises(ConfigError, match="'guessing'.*single_label_classification"):
        loss_for("guessing")


def test_an_unknown_ranking_loss_is_named():
    with pytest.raises(ConfigError, match="'hinge'.*pointwise, pairwise, softmax, poly1, listmle, lambda"):
        loss_for("ranking", "hinge")


# ----------------------------------------------------------------------------------------------- lists


# In ListMLE the order of the rows decides ties.
@pytest.mark.parametrize("name", [name for name in RANKING_LOSSES if name != "listmle"])
@given(
    rows=st.lists(
        st.tuples(st.integers(-3, 3), st.floats(-5, 5), st.integers(0, 1)), min_size=1, max_size=12
    ),
    random=st.randoms(),
)
@settings(deadline=None)
def test_the_order_of_rows_and_lists_changes_no_ranking_loss(name, rows, random):
    values = []
    for _ in range(2):
        groups, scores, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
        loss = loss_for("ranking", name)(scores[:, None].double(), labels.double(), "sum", groups)
        values.append(loss.item())
        random.shuffle(rows)
    assert values[0] == pytest.approx(values[1], abs=1e-9)


def test_lists_are_laid_out_in_their_order():
    values, mask = to_lists(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([7, 3, 7, 7]))
    assert values.tolist() == [[2.0, 0.0, 0.0], [1.0, 3.0, 4.0]]
    assert mask.tolist() == [[True, False, False], [True, True, True]]


def test_a_ranking_loss_needs_lists():
    with pytest.raises(ConfigError, match="lists"):
        loss_for("ranking")(torch.zeros(2, 1), torch.tensor([0, 1]))


def test_ranking_is_trained_by_the_loss_that_is_named():
    """Rows (ln 3, 1) and (0, 0) of one list: see the numbers worked out by hand in test_ranking_losses.py."""
    logits, labels, lists = torch.tensor([[math.log(3)], [0.0]]), torch.tensor([1, 0]), torch.zeros(2).int()
    by_hand = {"softmax": math.log(4 / 3), "poly1": math.log(4 / 3) + 1 / 4, "listmle": math.log(4 / 3) / 2}
    assert loss_for("ranking")(logits, labels, lists=lists).item() == pytest.approx(by_hand["softmax"])
    for name, expected in by_hand.items():
        assert loss_for("ranking", name)(logits, labels, lists=lists).item() == pytest.approx(expected)


def test_teacher_scores_are_not_rounded_to_the_type_of_the_logits():
    """1.003 and 1.0 are one number in bfloat16."""
    logits, labels = torch.tensor([[0.0], [0.0]], dtype=torch.bfloat16), torch.tensor([1.003, 1.0])
    loss = loss_for("ranking", "margin_mse")(logits, labels, lists=torch.zeros(2).int())
    assert loss.item() == pytest.approx(0.003**2, rel=1e-3)
