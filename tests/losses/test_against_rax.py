"""Losses over lists against rax, another implementation of them (in JAX), list by list."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rax
import torch

from gemma_encoder.losses import RANKING_LOSSES

LISTS, DOCS = 12, 7


def batch(seed):
    """Random lists with ties in labels and in scores, padding anywhere, and three special ones."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 3, (LISTS, DOCS))
    scores[: LISTS // 2] = np.round(scores[: LISTS // 2])  # ties
    labels = generator.integers(0, 4, (LISTS, DOCS)).astype(np.float64)
    labels[::3] = labels[::3] > 2  # one grade, few relevant documents
    mask = generator.random((LISTS, DOCS)) < 0.8
    mask[0] = False  # no document
    labels[1] = 0.0  # nothing relevant
    mask[1, :2] = True
    mask[2] = np.arange(DOCS) == 3  # one document
    return scores.astype(np.float32), labels.astype(np.float32), mask


def ours(name, scores, labels, mask):
    """Loss of each list."""
    rows = zip(torch.tensor(scores), torch.tensor(labels), torch.tensor(mask), strict=True)
    return np.array([RANKING_LOSSES[name](s[None], y[None], m[None]).item() for s, y, m in rows])


def theirs(loss, scores, labels, mask):
    """Loss of each list, as one list's reduction: rax would pool the documents or pairs of all lists."""
    return np.asarray(jax.vmap(lambda s, y, m: loss(s, y, where=m))(scores, labels, mask))


def kl(scores, labels, where):
    """A cross-entropy less its least value."""
    p = jnp.where(where, jax.nn.softmax(jnp.where(where, labels, -1e30)), 0.0)
    return rax.softmax_loss(scores, p, where=where) - rax.softmax_loss(labels, p, where=where)


def margin_mse(scores, labels, where):
    """rax counts each document and itself as a pair, ours doesn't: n^2 pairs, not n (n - 1)."""
    n = where.sum()
    return rax.pairwise_mse_loss(scores, labels, where=where) * n / jnp.maximum(n - 1, 1)


def softmax(loss):
    """rax leaves labels as they are, ours sum to 1."""

    def normalised(scores, labels, where):
        labels = jnp.where(where, labels, 0.0)
        return loss(scores, labels / jnp.maximum(labels.sum(), 1e-30), where=where)

    return normalised


def listmle(scores, labels, where):
    """rax sums over the documents, ours is their mean."""
    return rax.listmle_loss(scores, labels, where=where) / jnp.maximum(where.sum(), 1)


def lambda_loss(scores, labels, where):
    """rax multiplies by the places in a list, and takes equal scores by place: the least relevant first."""
    order = jnp.argsort(labels)
    weights = partial(rax.dcg2_lambdaweight, normalize=True)
    total = rax.pairwise_logistic_loss(
        scores[order], labels[order], where=where[order], lambdaweight_fn=weights, reduce_fn=jnp.sum
    )
    return total / DOCS


RAX = {
    "pointwise": rax.pointwise_sigmoid_loss,
    "pairwise": rax.pairwise_logistic_loss,
    "softmax": softmax(rax.softmax_loss),
    "poly1": softmax(rax.poly1_softmax_loss),
    "listmle": listmle,
    "lambda": lambda_loss,
    "margin_mse": margin_mse,
    "kl": kl,
}


def alike(labels, mask):
    """Which lists have documents, all with the same label."""
    return np.array([len(set(y[m])) == 1 for y, m in zip(labels, mask, strict=True)])


@pytest.mark.parametrize("name", RANKING_LOSSES)
@pytest.mark.parametrize("seed", range(10))
def test_each_list_has_the_loss_that_rax_gives_it(name, seed):
    """Where both say the same of a list; the tests below have those where they don't."""
    scores, labels, mask = batch(seed)
    compared = np.ones(LISTS, dtype=bool)
    if name == "poly1":
        compared = ~mask.any(axis=1) | (np.where(mask, labels, 0).sum(axis=1) > 0)
    if name == "listmle":
        compared = ~alike(labels, mask)
    assert compared.sum() > LISTS / 2
    expected = theirs(RAX[name], scores, labels, mask)
    np.testing.assert_allclose(
        ours(name, scores, labels, mask)[compared], expected[compared], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["softmax", "poly1", "lambda"])
def test_labels_below_zero_are_not_relevant(name):
    """Judges' -1 and -2 are as 0; left as they are, rax's losses would have no lower bound."""
    scores, labels, mask = batch(3)
    graded = np.maximum(labels - 1, 0)
    found = ours(name, scores, labels - 1, mask)
    relevant = (np.where(mask, graded, 0) > 0).any(axis=1)
    assert (labels[mask] < 1).any() and relevant.sum() > LISTS / 3
    expected = theirs(RAX[name], scores, graded, mask)
    np.testing.assert_allclose(found[relevant], expected[relevant], rtol=1e-5, atol=1e-5)
    assert not found[~relevant].any()


def test_poly1_of_a_list_where_nothing_is_relevant():
    """rax takes all documents as equally relevant in the second term: 1 - 1/n. Ours is 0, as in the first."""
    scores, labels, mask = batch(0)
    n = mask[1].sum()
    assert theirs(RAX["poly1"], scores, labels, mask)[1] == pytest.approx(1 - 1 / n)
    assert ours("poly1", scores, labels, mask)[1] == 0


def test_listmle_of_a_list_whose_labels_are_equal():
    """rax learns the order of the places, which the labels don't tell. Ours is 0."""
    scores, labels, mask = batch(0)
    assert theirs(RAX["listmle"], scores, labels, mask)[1] > 0.1
    assert ours("listmle", scores, labels, mask)[1] == 0


def test_pointwise_labels_between_none_and_one():
    """rax takes 1/2 as half relevant. Ours is relevant: -log sigmoid(0.8)."""
    scores, labels, mask = np.float32([[0.8]]), np.float32([[0.5]]), np.array([[True]])
    assert theirs(RAX["pointwise"], scores, labels, mask)[0] == pytest.approx(np.log1p(np.exp(-0.8)) + 0.4)
    assert ours("pointwise", scores, labels, mask)[0] == pytest.approx(np.log1p(np.exp(-0.8)))
