"""Scores don't depend on order, budget or buffer; memory stays; modes are restored."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.evaluation import compute_metrics
from gemma_encoder.scoring import labels_on, probabilities, score, score_all, score_token_ids
from gemma_encoder.testing import tiny_tokenizer
from gemma_encoder.text import TextConfig, TextTokenizer, TokenizedBatch


class CountingEncoder(nn.Module):
    """A stand-in whose scores can be worked out by hand: the sum of a row's ids and their number."""

    def __init__(self, fail_above: int | None = None) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_labels=2, text=TextConfig())
        self.device = torch.device("cpu")
        self.compile_layers = False
        self.frozen = nn.Dropout(0.5)
        self.passes: list[int] = []
        self.fail_above = fail_above

    def tokenize(self, rows):
        ids = [
            [1 + ord(letter) for letter in (row if isinstance(row, str) else "".join(row))][:20]
            for row in rows
        ]
        return TokenizedBatch(ids, [len(row) > 20 for row in rows], [False] * len(ids))

    def collate(self, ids):
        length = max(map(len, ids))
        padded = torch.tensor([[*row, *[0] * (length - len(row))] for row in ids])
        return {"input_ids": padded, "attention_mask": (padded > 0).long()}

    def forward(self, input_ids, attention_mask):
        assert not self.training and not torch.is_grad_enabled()
        tokens = int(attention_mask.sum())
        if self.fail_above is not None and tokens > self.fail_above:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.passes.append(tokens)
        logits = torch.stack([input_ids.sum(1), attention_mask.sum(1)], dim=1).to(torch.bfloat16)
        return SimpleNamespace(logits=logits)


def expected(ids):
    return (
        torch.tensor([[sum(row), len(row)] for row in ids]).to(torch.bfloat16).float().numpy().reshape(-1, 2)
    )


rows_of_ids = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=12), max_size=12)


@settings(deadline=None)
@given(ids=rows_of_ids, max_tokens=st.integers(1, 60))
def test_any_budget_gives_each_row_its_own_scores_in_order(ids, max_tokens):
    encoder = CountingEncoder()
    logits = score_token_ids(encoder, ids, max_tokens)
    assert logits.dtype == np.float32 and logits.shape == (len(ids), 2)
    np.testing.assert_array_equal(logits, expected(ids))
    assert all(tokens <= max(max_tokens, max(map(len, ids))) for tokens in encoder.passes)


@settings(deadline=None)
@given(texts=st.lists(st.text("abc", min_size=1, max_size=30), max_size=20), buffer_rows=st.integers(1, 25))
def test_a_stream_gives_the_same_scores_and_counts_whatever_the_buffer(texts, buffer_rows):
    scored = list(score(CountingEncoder(), texts, max_tokens=16, buffer_rows=buffer_rows))
    assert [row.index for row in scored] == list(range(len(texts)))
    assert [row.truncated for row in scored] == [len(text) > 20 for text in texts]
    ids = CountingEncoder().tokenize(texts).input_ids
    np.testing.assert_array_equal(np.array([row.logits for row in scored]).reshape(-1, 2), expected(ids))
    np.testing.assert_array_equal(score_all(CountingEncoder(), texts, max_tokens=7), expected(ids))


def test_a_stream_without_end_is_read_a_buffer_at_a_time():
    read = itertools.count()
    stream = score(CountingEncoder(), (f"row {number}" for number in read), max_tokens=64, buffer_rows=8)
    assert [row.index for row in itertools.islice(stream, 20)] == list(range(20))
    assert next(read) == 24


def test_pairs_are_rows_too():
    np.testing.assert_array_equal(
        score_all(CountingEncoder(), [("ab", "c"), "abc"]), expected([[98, 99, 100], [98, 99, 100]])
    )


PAIRS = TextConfig("{text} / {text_pair}")


@pytest.mark.parametrize(
    ("text", "rows", "fix"),
    [
        (TextConfig(), "hello", r"one string, 'hello'. Mend: give a list, \[\"your text\"\]"),
        (TextConfig(), "", "one string"),
        (PAIRS, "hello", r"give a list, \[\(\"first text\", \"second text\"\)\]"),
        (PAIRS, ("a", "b"), r"two strings, 'a' and 'b'.*\[\(text, text_pair\)\]"),
        (TextConfig(), {"text": "a"}, "rows are a dict.*list of texts"),
        (TextConfig(), b"hello", "rows are a bytes"),
        (TextConfig(), None, "rows are a NoneType"),
        (TextConfig(), 5, "rows are a int"),
    ],
)
def test_one_row_is_not_taken_for_rows(text, rows, fix):
    encoder = CountingEncoder()
    encoder.config.text = text
    for function in (score, score_all, lambda _, rows: TextTokenizer(tiny_tokenizer(), text).encode(rows)):
        with pytest.raises(DataError, match=fix) as caught:
            function(encoder, rows)
        assert len(str(caught.value)) < 200


def test_a_tuple_of_two_strings_is_two_texts_for_a_model_of_single_texts():
    assert score_all(CountingEncoder(), ("ab", "c")).shape == (2, 2)
    assert (
        TextTokenizer(tiny_tokenizer(), TextConfig()).encode(np.array(["ab", "c"])).truncated == [False] * 2
    )


def test_every_module_is_back_in_its_mode_also_after_an_error():
    encoder = CountingEncoder(fail_above=2)
    encoder.train()
    encoder.frozen.eval()
    score_token_ids(encoder, [[1]], 4)
    with pytest.raises(ConfigError):
        score_token_ids(encoder, [[1, 2, 3]], 4)
    assert encoder.training and not encoder.frozen.training


@pytest.mark.parametrize(
    ("ids", "fix"), [([[1] * 6] * 2, "lower max_tokens, e.g. to 6"), ([[1] * 12], "lower max_length")]
)
def test_out_of_memory_names_the_budget_and_what_to_lower(ids, fix):
    with pytest.raises(ConfigError, match="max_tokens=12") as raised:
        score_token_ids(CountingEncoder(fail_above=8), ids, 12)
    assert fix in str(raised.value)


def test_other_errors_of_the_model_keep_their_type():
    encoder = CountingEncoder()
    encoder.forward = lambda **_: (_ for _ in ()).throw(RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        score_token_ids(encoder, [[1]], 4)


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"buffer_rows": 0}])
def test_a_budget_below_one_is_refused_before_anything_is_read(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        score(CountingEncoder(), ["a"], **options)


def test_probabilities_of_each_problem_type():
    logits = np.array([[0.0, np.log(3.0)], [1000.0, -1000.0]], dtype=np.float32)
    np.testing.assert_allclose(
        probabilities(logits, "single_label_classification"), [[0.25, 0.75], [1, 0]], atol=1e-7
    )
    np.testing.assert_allclose(
        probabilities(logits, "multi_label_classification"), [[0.5, 0.75], [1, 0]], atol=1e-7
    )
    np.testing.assert_array_equal(probabilities(logits, "regression"), logits)


def test_a_label_applies_above_one_half():
    """The same for metrics and predictions; exactly one half does not count."""
    logits = np.array([[1e-6, 0.0, -1e-6], [3.0, -0.0, -3.0]], dtype=np.float32)
    assert labels_on(logits).tolist() == [[True, False, False]] * 2
    above = probabilities(logits, "multi_label_classification") > 0.5
    np.testing.assert_array_equal(labels_on(logits), above)
    assert compute_metrics(["accuracy"], logits, labels_on(logits)) == {"accuracy": 1.0}
