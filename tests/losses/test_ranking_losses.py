"""Losses over lists: numbers worked out by hand, gradients, and what must change nothing."""

import math
from functools import partial
from math import exp, log, log2

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_encoder.errors import DataError
from gemma_encoder.losses import RANKING_LOSSES
from gemma_encoder.losses.distillation import kl_divergence, margin_mse
from gemma_encoder.losses.poly1 import poly1_softmax

every_loss = pytest.mark.parametrize("name", RANKING_LOSSES)

# Two documents and padding, three documents, and no document. The softmax of the first list is
# (3/4, 1/4) and that of the second (1/6, 2/6, 3/6); its sigmoids are 1/2, 2/3 and 3/4.
SCORES = torch.tensor([[log(3), 0, math.inf], [0, log(2), log(3)], [math.nan, 7, -math.inf]])
LABELS = torch.tensor([[1.0, 0, 3], [2, 1, 0], [1, 0, math.nan]])
MASK = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])

NEXT, NEXT_BUT_ONE = 1 - 1 / log2(3), 1 / log2(3) - 1 / log2(4)  # discounts of ranks 1 and 2 apart
TEACHER = [exp(2) / (exp(2) + exp(1) + 1), exp(1) / (exp(2) + exp(1) + 1), 1 / (exp(2) + exp(1) + 1)]
BY_HAND = {
    "pointwise": [(log(4 / 3) + log(2)) / 2, (log(2) + log(3 / 2) + log(4)) / 3],
    "pairwise": [log(4 / 3), (log(3) + log(4) + log(5 / 2)) / 3],
    "softmax": [log(4 / 3), 2 / 3 * log(6) + 1 / 3 * log(3)],
    "poly1": [log(4 / 3) + 1 / 4, 2 / 3 * (log(6) + 5 / 6) + 1 / 3 * (log(3) + 2 / 3)],
    "listmle": [log(4 / 3) / 2, (log(6) + log(5 / 2)) / 3],
    "lambda": [
        NEXT * log(4 / 3),
        (2 * NEXT * log(3) + 3 * NEXT_BUT_ONE * log(4) + NEXT * log(5 / 2)) / (3 + 1 / log2(3)),
    ],
    "margin_mse": [(log(3) - 1) ** 2, ((1 + log(2)) ** 2 + (2 + log(3)) ** 2 + (log(3 / 2) + 1) ** 2) / 3],
    "kl": [
        exp(1) / (1 + exp(1)) * log(exp(1) / (1 + exp(1)) * 4 / 3) + 1 / (1 + exp(1)) * log(4 / (1 + exp(1))),
        sum(p * log(p / q) for p, q in zip(TEACHER, [1 / 6, 2 / 6, 3 / 6], strict=True)),
    ],
}


@every_loss
def test_numbers_by_hand(name):
    """Each list, their sum, and their mean, in which the list without documents counts as 0."""
    loss, expected = RANKING_LOSSES[name], [*BY_HAND[name], 0.0]
    for row, one in enumerate(expected):
        rows = slice(row, row + 1)
        assert loss(SCORES[rows], LABELS[rows], MASK[rows]).item() == pytest.approx(one, rel=1e-6, abs=1e-7)
    assert loss(SCORES, LABELS, MASK, "sum").item() == pytest.approx(sum(expected), rel=1e-6)
    assert loss(SCORES, LABELS, MASK).item() == pytest.approx(sum(expected) / 3, rel=1e-6)


def test_relevant_is_what_is_above_zero():
    """A label of 1/2 or of 3 is as relevant as 1 to the pointwise loss."""
    ones, mask = torch.tensor([[1.0, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    scores, labels = torch.tensor([[-1.0, 2.0, 0.5]]), torch.tensor([[0.5, 3.0, -1.0]])
    loss = RANKING_LOSSES["pointwise"]
    assert loss(scores, labels, mask).item() == loss(scores, ones, mask).item() > 0


def test_listmle_takes_ties_by_their_places():
    """Labels 0, 1, 0 are the order 1, 0, 2."""
    scores, mask = torch.tensor([[0.3, -1.2, 2.0]]), torch.ones(1, 3, dtype=torch.bool)
    loss = RANKING_LOSSES["listmle"]
    tied = loss(scores, torch.tensor([[0.0, 1.0, 0.0]]), mask)
    assert tied.item() == pytest.approx(loss(scores, torch.tensor([[1.0, 2.0, 0.0]]), mask).item())
    assert tied.item() != pytest.approx(loss(scores, torch.tensor([[0.0, 2.0, 1.0]]), mask).item(), rel=0.1)


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_lambda_loss_ranks_the_least_relevant_of_equal_scores_first(order):
    """Labels 0 and 2 have the score 0 and are ranked 1 and 2, label 1 is third with -1; in any places."""
    scores, labels = torch.tensor([[0.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, 1.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    loss = RANKING_LOSSES["lambda"](scores[:, order], labels[:, order], mask)
    pairs = 3 * NEXT * log(2) + 2 * NEXT * log(1 + exp(-1)) + 1 * NEXT_BUT_ONE * log(1 + exp(1))
    assert loss.item() == pytest.approx(pairs / (3 + 1 / log2(3)), rel=1e-6)


def test_poly1_without_its_term_is_the_softmax_loss():
    assert torch.equal(
        poly1_softmax(SCORES, LABELS, MASK, epsilon=0.0), RANKING_LOSSES["softmax"](SCORES, LABELS, MASK)
    )
    half = poly1_softmax(SCORES[:1], LABELS[:1], MASK[:1], epsilon=0.5)
    assert half.item() == pytest.approx(log(4 / 3) + 1 / 8)


def test_hot_distillation_is_that_of_margins():
    """For T to infinity, T^2 KL goes to half the variance of the errors: margin MSE (n - 1) / (4 n)."""
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    mask = torch.ones(6, 5, dtype=torch.bool)
    hot = kl_divergence(scores, labels, mask, temperature=1e4)
    torch.testing.assert_close(hot, margin_mse(scores, labels, mask) * 4 / 20, rtol=1e-3, atol=0)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_both_scores(temperature):
    hot = kl_divergence(SCORES, LABELS, MASK, temperature=temperature)
    cold = kl_divergence(SCORES / temperature, LABELS / temperature, MASK)
    assert hot.item() == pytest.approx(temperature**2 * cold.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["margin_mse", "kl"])
def test_a_model_that_scores_as_its_teacher_has_nothing_to_learn(name):
    """Up to a constant in each list."""
    scores = torch.tensor([[0.5, -1.0, 3.0], [2.0, 2.5, 0.0]], requires_grad=True)
    labels = scores.detach() + torch.tensor([[4.0], [-2.0]])
    loss = RANKING_LOSSES[name](scores, labels, torch.ones(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and scores.grad.abs().max() < 1e-6


# --------------------------------------------------------------------------------- lists that say nothing

NOTHING = {
    "no document": ([1.0, 0.0, 2.0], [0, 0, 0], set(RANKING_LOSSES)),
    "one document": ([1.0, 0.0, 2.0], [1, 0, 0], set(RANKING_LOSSES) - {"pointwise"}),
    "nothing relevant": (
        [0.0, 0.0, 2.0],
        [1, 1, 0],
        {"pairwise", "softmax", "poly1", "listmle", "lambda"},
    ),
    "all labels equal": ([2.0, 2.0, 0.0], [1, 1, 0], {"pairwise", "listmle", "lambda"}),
}


@pytest.mark.parametrize("garbage", [math.inf, -math.inf, math.nan, 3e38])
@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for case, (_, _, names) in NOTHING.items() for name in sorted(names)]
)
def test_a_list_that_says_nothing(name, case, garbage):
    """Loss and gradient are 0 whatever stands in the padding, beside a list that says something.

    Nor is anything NaN on the way, which torch's anomaly detection would stop at.
    """
    labels, mask, _ = NOTHING[case]
    row = torch.tensor(mask, dtype=torch.bool)
    scores = torch.tensor([[0.5, -0.25, 1.0]] * 2)
    scores[0, ~row] = garbage
    scores.requires_grad_()
    both = torch.tensor([labels, [2.0, 1.0, 0.0]])
    both[0, ~row] = garbage
    masks = torch.stack([row, torch.ones(3, dtype=torch.bool)])
    with torch.autograd.set_detect_anomaly(True):
        loss = RANKING_LOSSES[name](scores, both, masks, "sum")
        loss.backward()
    alone = RANKING_LOSSES[name](scores[1:], both[1:], masks[1:], "sum")
    assert loss.item() == alone.item() > 0
    assert not scores.grad[0].any() and scores.grad[1].isfinite().all() and scores.grad[1].any()


def test_a_list_without_relevant_documents_says_that_they_are_irrelevant():
    """To the pointwise loss only, which scores each document by itself: log 2 for a score of 0."""
    mask = torch.tensor([[True, True, False]])
    loss = RANKING_LOSSES["pointwise"](torch.zeros(1, 3), torch.zeros(1, 3), mask)
    assert loss.item() == pytest.approx(log(2))


# ------------------------------------------------------------------------------------- gradients and types


@pytest.mark.parametrize(
    "loss",
    [*RANKING_LOSSES.values(), partial(kl_divergence, temperature=2.5), partial(poly1_softmax, epsilon=3.0)],
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_are_those_of_the_formula(loss, reduction):
    """Against finite differences: full lists, padding inside and behind, no document, nothing relevant."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1.0, 0, 0, 2], [3, 1, 0, 1], [0, 1, 2, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    for below in (0, 1):  # then some labels are below 0
        check = partial(loss, labels=labels - below, mask=mask, reduction=reduction)
        assert torch.autograd.gradcheck(lambda s, check=check: check(s), (scores,))


@pytest.mark.parametrize("name", ["softmax", "poly1", "lambda"])
def test_a_label_below_zero_is_no_reward_for_a_low_score(name):
    """With the label as a factor the loss would fall by as much as the score does, without end."""
    labels, mask = torch.tensor([[1.0, -2.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    for low in (-1.0, -1e2, -1e4):
        assert RANKING_LOSSES[name](torch.tensor([[0.0, low, low]]), labels, mask) >= 0


@pytest.mark.parametrize("label", [121.0, 128.0, 300.0])
def test_labels_whose_gain_overflows_are_refused_by_their_name(label):
    """float32 ends below 2^128; the loss would be NaN, which a lower learning rate does not mend."""
    scores, mask = torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(DataError, match=f"2.label as gain.*a label is {label:g}.*margin_mse"):
        RANKING_LOSSES["lambda"](scores, torch.tensor([[label, 0.0]]), mask)
    loss = RANKING_LOSSES["lambda"](scores, torch.tensor([[120.0, 0.0]]), mask)
    assert loss.item() == pytest.approx(NEXT * log(2))


@every_loss
def test_large_scores_stay_finite(name):
    scores = torch.tensor([[-1e4, 0.0, 1e4], [1e4, 0.0, -1e4]], requires_grad=True)
    labels = torch.tensor([[2.0, 0.0, 1.0]] * 2)
    loss = RANKING_LOSSES[name](scores, labels, torch.ones(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.isfinite() and loss > 0 and scores.grad.isfinite().all() and scores.grad.any()


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised(name, dtype):
    """The loss is that of the rounded scores in float32, not one that is rounded itself."""
    generator = torch.Generator().manual_seed(0)
    scores = (4 * torch.randn(3, 20, generator=generator)).to(dtype)
    labels, mask = torch.randint(0, 4, (3, 20), generator=generator), torch.ones(3, 20, dtype=torch.bool)
    loss = RANKING_LOSSES[name](scores, labels, mask)
    assert loss.dtype == torch.float32
    assert loss.item() == RANKING_LOSSES[name](scores.float(), labels, mask).item()


# --------------------------------------------------------------------------------- what must change nothing


@st.composite
def batches(draw, unique_labels=False):
    """Up to four lists of five places: quarters as scores, so that sums are exact and ties are common."""
    lists = draw(st.integers(1, 4))
    numbers = st.lists(st.integers(-20, 20), min_size=5, max_size=5)
    grades = (
        st.permutations(range(5)) if unique_labels else st.lists(st.integers(0, 3), min_size=5, max_size=5)
    )
    flags = st.lists(st.booleans(), min_size=5, max_size=5)
    scores, labels, mask = (
        draw(st.lists(column, min_size=lists, max_size=lists)) for column in (numbers, grades, flags)
    )
    return torch.tensor(scores) / 4.0, torch.tensor(labels), torch.tensor(mask)


def same(value, other):
    """Equal but for rounding, which depends on the order of sums."""
    return value.item() == pytest.approx(other.item(), rel=1e-5, abs=1e-6)


@every_loss
@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_the_order_of_documents_changes_nothing(name, data):
    """In ListMLE only if no labels are tied: there places decide."""
    scores, labels, mask = data.draw(batches(unique_labels=name == "listmle"))
    order = torch.tensor(data.draw(st.permutations(range(5))))
    loss = RANKING_LOSSES[name]
    assert same(loss(scores[:, order], labels[:, order], mask[:, order]), loss(scores, labels, mask))


@every_loss
@given(batch=batches(), garbage=st.sampled_from([0.0, 50.0, math.inf, -math.inf, math.nan]))
@settings(deadline=None, max_examples=50)
def test_padding_changes_nothing(name, batch, garbage):
    """Before, behind and within the documents; also what stands where there is none."""
    scores, labels, mask = batch
    loss = RANKING_LOSSES[name]

    def wider(values, fill):
        column = torch.full_like(values[:, :1], fill)
        return torch.cat([column, values[:, :2], column, values[:, 2:], column], dim=1)

    wide = wider(scores.masked_fill(~mask, garbage), garbage), wider(labels.float(), garbage)
    assert same(loss(*wide, wider(mask, False)), loss(scores, labels, mask))


@pytest.mark.parametrize("name", [name for name in RANKING_LOSSES if name != "pointwise"])
@given(batch=batches(), constant=st.integers(-64, 64))
@settings(deadline=None, max_examples=50)
def test_a_constant_added_to_all_scores_changes_nothing(name, batch, constant):
    """All but the pointwise loss compare documents of a list."""
    scores, labels, mask = batch
    loss = RANKING_LOSSES[name]
    assert same(loss(scores + constant, labels, mask), loss(scores, labels, mask))


@every_loss
@given(batch=batches())
@settings(deadline=None, max_examples=50)
def test_lists_do_not_touch_one_another(name, batch):
    """The sum of a batch is that of its lists, its mean that over their number."""
    scores, labels, mask = batch
    loss = RANKING_LOSSES[name]
    alone = sum(loss(s[None], y[None], m[None]) for s, y, m in zip(scores, labels, mask, strict=True))
    assert same(loss(scores, labels, mask, "sum"), alone)
    assert same(loss(scores, labels, mask) * len(scores), alone)
