"""Losses against their formulas written out, and against one another where two must agree."""

import math

import numpy as np
import pytest
import torch

from gemma_encoder.errors import ConfigError
from gemma_encoder.losses import binary_cross_entropy, cross_entropy, loss_for, squared_error


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
    with pytest.raises(ConfigError, match="'ranking'.*single_label_classification"):
        loss_for("ranking")
