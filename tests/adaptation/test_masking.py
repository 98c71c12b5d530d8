"""Masks, targets, batches of documents, and the token that stands for a masked one."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_encoder.adaptation.masking import (
    NO_TARGET,
    MaskedCollator,
    MaskedDocuments,
    Masking,
    mask_token,
)
from gemma_encoder.errors import ConfigError
from gemma_encoder.testing import tiny_decoder
from gemma_encoder.testing.tokenizer import tiny_tokenizer

BOS, EOS, MASK = 2, 1, 9
SPECIAL = frozenset({BOS, EOS})
N = NO_TARGET


class Draws:
    """Draws the places it was told to."""

    def __init__(self, *places: int) -> None:
        self.places = places

    def choice(self, places, size, replace):
        assert size == len(self.places) and not replace and set(self.places) <= set(places.tolist())
        return np.array(self.places)


@pytest.mark.parametrize(
    ("objective", "targets"),
    [("mlm", [N, N, 21, N, 23, N]), ("mntp", [N, 21, N, 23, N, N])],
)
def test_masks_and_targets_written_out_by_hand(objective, targets):
    ids = np.array([BOS, 20, 21, 22, 23, EOS], dtype=np.int32)
    masked, found = Masking(objective, 0.5, MASK).apply(ids, SPECIAL, Draws(2, 4))
    assert masked.tolist() == [BOS, 20, MASK, 22, MASK, EOS]
    assert found.tolist() == targets
    assert ids.tolist() == [BOS, 20, 21, 22, 23, EOS], "the document itself stays"


def test_without_bos_the_first_token_has_no_place_to_be_predicted_from():
    ids = np.array([20, 21], dtype=np.int32)
    masked, targets = Masking("mntp", 0.9, MASK).apply(ids, SPECIAL, np.random.default_rng(0))
    assert masked.tolist() == [20, MASK] and targets.tolist() == [21, N]


@given(
    text=st.lists(st.integers(10, 40), min_size=0, max_size=60),
    rate=st.floats(0.01, 0.9),
    objective=st.sampled_from(["mlm", "mntp"]),
    seed=st.integers(0, 5),
)
def test_a_share_of_the_text_is_masked_and_nothing_else(text, rate, objective, seed):
    ids = np.array([BOS, *text, EOS], dtype=np.int32)
    masked, targets = Masking(objective, rate, MASK).apply(ids, SPECIAL, np.random.default_rng(seed))
    hidden = np.flatnonzero(masked != ids)
    asked = np.flatnonzero(targets != N)
    assert len(asked) == (max(1, round(rate * len(text))) if text else 0)
    np.testing.assert_array_equal(asked + (objective == "mntp"), hidden)
    np.testing.assert_array_equal(targets[asked], ids[hidden])
    assert (masked[hidden] == MASK).all() and not SPECIAL & set(ids[hidden].tolist())


@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=40),
    batch_tokens=st.integers(30, 80),
    epoch=st.integers(0, 3),
)
def test_an_epoch_has_every_document_once_and_no_empty_batch(lengths, batch_tokens, epoch):
    documents = [np.full(length, number + 10, dtype=np.int32) for number, length in enumerate(lengths)]
    items = MaskedDocuments(documents, Masking("mlm", 0.2, MASK), SPECIAL, batch_tokens=batch_tokens, seed=0)
    batches = len(items)
    items.set_epoch(epoch)
    assert len(items) == batches == max(1, sum(lengths) // batch_tokens)
    found = [[row["rows"] for row in items[number]] for number in range(batches)]
    assert all(found) and sorted(chain.from_iterable(found)) == list(range(len(lengths)))


def test_masks_and_order_are_new_in_an_epoch_and_the_same_when_it_comes_again():
    documents = [np.arange(10, 30, dtype=np.int32) + number for number in range(20)]
    items = MaskedDocuments(documents, Masking("mlm", 0.2, MASK), SPECIAL, batch_tokens=40, seed=0)

    def drawn(epoch: int) -> list:
        items.set_epoch(epoch)
        return [[row["input_ids"].tolist() for row in items[number]] for number in range(len(items))]

    first = drawn(0)
    assert drawn(1) != first == drawn(0)
    again = MaskedDocuments(documents, Masking("mlm", 0.2, MASK), SPECIAL, batch_tokens=40, seed=0)
    other = MaskedDocuments(documents, Masking("mlm", 0.3, MASK), SPECIAL, batch_tokens=40, seed=0)
    assert again.fingerprint() == items.fingerprint() != other.fingerprint()
    batches = MaskedDocuments(documents, Masking("mlm", 0.2, MASK), SPECIAL, batch_tokens=80, seed=0)
    assert batches.fingerprint() == items.fingerprint(), "how many at a time is no other text"


def test_a_document_longer_than_a_batch_is_refused():
    with pytest.raises(ConfigError, match="batch_tokens is 10.*20 tokens"):
        MaskedDocuments([np.zeros(20, np.int32)], Masking("mlm", 0.2, 9), SPECIAL, batch_tokens=10, seed=0)


def test_a_batch_is_padded_on_the_right_and_asks_nothing_of_padding():
    documents = [np.array([BOS, 20, EOS], np.int32), np.array([BOS, 21, 22, EOS], np.int32)]
    items = MaskedDocuments(documents, Masking("mlm", 0.5, MASK), SPECIAL, batch_tokens=100, seed=0)
    batch = MaskedCollator(0)([items[0]])
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(documents[row]) for row in batch["rows"]]
    assert (batch["labels"] != N).sum(dim=1).tolist() == [1, 1]
    assert not ((batch["labels"] != N) & (batch["attention_mask"] == 0)).any()
    assert batch["lists"].tolist() == [0, 1]


def test_the_mask_token_is_one_that_has_no_other_use():
    tokenizer = tiny_decoder("gemma3").tokenizer
    chosen = mask_token(tokenizer)
    assert chosen not in tokenizer("a bank of the river is good")["input_ids"]
    assert mask_token(tokenizer, tokenizer.convert_ids_to_tokens(10)) == 10
    with pytest.raises(ConfigError, match="'bank money' is .* tokens"):
        mask_token(tokenizer, "bank money")


@pytest.mark.parametrize(
    "name", ["<mask>", "[MASK]", "<unused0>", "<|reserved_special_token_3|>", "[unused7]"]
)
def test_a_reserved_token_is_found_by_its_name(name):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([name])
    assert mask_token(tokenizer) == tokenizer.get_vocab()[name]


@pytest.mark.parametrize(("field", "value"), [("objective", "clm"), ("rate", 0.0), ("rate", 1.0)])
def test_what_can_not_be_is_refused(field, value):
    with pytest.raises(ConfigError, match=str(value)):
        Masking(**({"objective": "mlm", "rate": 0.2, "token": 9} | {field: value}))
