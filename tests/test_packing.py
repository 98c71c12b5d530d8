"""Packing: what goes in comes out, wherever the padding is, and every row is planned once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.packing import pack, plan_batches, repad, rounded, unpad

rows = st.lists(st.tuples(st.integers(1, 7), st.integers(0, 3), st.booleans()), min_size=1, max_size=6)


def mask_of(rows: list[tuple[int, int, bool]]) -> torch.Tensor:
    """Attention mask of texts of given lengths, each padded on its own side."""
    width = max(length + padding for length, padding, _ in rows)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for row, (length, _, left) in enumerate(rows):
        mask[row, width - length :] = 1 if left else 0
        if not left:
            mask[row, :length] = 1
    return mask


@given(rows)
def test_unpad_takes_the_real_tokens_in_order(rows):
    mask = mask_of(rows)
    values = torch.arange(mask.numel()).view(mask.shape)
    expected = [value for row in range(len(mask)) for value in values[row][mask[row] == 1].tolist()]
    assert unpad(values, pack(mask)).tolist() == expected


@given(rows, st.integers(0, 9))
def test_a_filled_row_has_more_texts_none_of_them_longer(rows, more):
    layout = pack(mask_of(rows))
    filled = layout.filled(layout.tokens + more)
    assert (layout.filled(layout.tokens) is layout) and filled.tokens == layout.tokens + more
    others = filled.lengths[len(layout.lengths) :]
    assert filled.lengths[: len(layout.lengths)] == layout.lengths and sum(others) == more
    assert filled.max_length == layout.max_length and min(others, default=1) > 0
    assert filled.cu_seqlens.dtype == layout.cu_seqlens.dtype
    assert filled.cu_seqlens.diff().tolist() == list(filled.lengths)
    assert filled.position_ids.tolist() == [place for length in filled.lengths for place in range(length)]
    assert torch.equal(filled.indices, layout.indices) and filled.padded_shape == layout.padded_shape


@given(st.integers(1, 100_000), st.sampled_from([16, 64]))
def test_rounded_numbers_are_near(tokens, parts):
    up = rounded(tokens, parts)
    assert tokens <= up <= tokens + max(7, tokens / parts) and rounded(up, parts) == up


@pytest.mark.parametrize(("parts", "few"), [(16, 96), (64, 256)])
def test_rounded_numbers_are_few(parts, few):
    assert len({rounded(tokens, parts) for tokens in range(1, 4097)}) == few


@given(rows)
def test_repad_undoes_unpad_and_zeroes_padding(rows):
    mask = mask_of(rows)
    values = torch.randn(*mask.shape, 3)
    layout = pack(mask)
    assert torch.equal(repad(unpad(values, layout), layout), values * mask.unsqueeze(-1))


@given(rows)
def test_layout_counts_and_restarts_positions(rows):
    layout = pack(mask_of(rows))
    lengths = [length for length, _, _ in rows]
    assert layout.lengths == tuple(lengths)
    assert layout.cu_seqlens.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    assert layout.position_ids.tolist() == [position for length in lengths for position in range(length)]
    assert layout.tokens == sum(lengths) and layout.max_length == max(lengths)


def test_repad_lets_gradients_through_to_every_token():
    mask = mask_of([(2, 1, True), (3, 0, False)])
    layout = pack(mask)
    packed = torch.ones(layout.tokens, 2, requires_grad=True)
    repad(packed, layout).sum().backward()
    assert torch.equal(packed.grad, torch.ones_like(packed))


def test_a_text_without_tokens_is_named():
    with pytest.raises(DataError, match="no token.*row 1"):
        pack(torch.tensor([[1, 1], [0, 0]]))


def test_padding_inside_a_text_is_named():
    with pytest.raises(DataError, match="between real tokens.*row 1"):
        pack(torch.tensor([[1, 1, 1], [1, 0, 1]]))


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 60))
def test_plan_covers_every_row_once_within_its_budget(lengths, max_tokens):
    plan = plan_batches(lengths, max_tokens)
    assert sorted(row for batch in plan for row in batch) == list(range(len(lengths)))
    for batch in plan:
        assert sum(lengths[row] for row in batch) <= max_tokens or len(batch) == 1
    ordered = [lengths[row] for batch in plan for row in batch]
    assert ordered == sorted(ordered, reverse=True)


def test_a_budget_that_fits_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        plan_batches([1, 2], 0)
