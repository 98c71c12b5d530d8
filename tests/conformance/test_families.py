"""One suite over every family."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_encoder.encoder import Encoder
from gemma_encoder.pooling import first_k, last_k, mean
from gemma_encoder.testing import CHECKS, FAMILIES, FOLDER_CHECKS, tiny_decoder


def make(family: str, **options) -> Encoder:
    return Encoder.from_decoder(tiny_decoder(family), **options)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("family", FAMILIES)
def test_check(family, check):
    check(partial(make, family))


@pytest.mark.parametrize("check", FOLDER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("family", FAMILIES)
def test_folder_check(family, check, tmp_path):
    check(partial(make, family), tmp_path)


@pytest.fixture(scope="module")
def encoders() -> list[Encoder]:
    return [make("gemma3", seed=0, pooling=pooling) for pooling in (mean(), first_k(2), last_k(2))]


@settings(deadline=None, max_examples=40)
@given(texts=st.lists(st.text("ab thefilmgood\n", max_size=30), min_size=1, max_size=6), data=st.data())
def test_any_texts_in_any_order_score_as_they_do_alone(encoders, texts, data):
    order = data.draw(st.permutations(range(len(texts))))
    encoder = encoders[data.draw(st.integers(0, len(encoders) - 1))]
    ids = encoder.tokenize(texts).input_ids
    with torch.no_grad():
        alone = torch.cat([encoder(**encoder.collate([row])).logits for row in ids])
        together = encoder(**encoder.collate([ids[row] for row in order])).logits
    torch.testing.assert_close(together, alone[list(order)], rtol=1e-4, atol=1e-5)
