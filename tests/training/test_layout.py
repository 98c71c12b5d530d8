"""The padded layout learns what the packed one does, wherever its padding is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_training import arguments, data_of, difference, encoder_of, weights

from gemma_encoder.errors import ConfigError
from gemma_encoder.packing import aligned
from gemma_encoder.training import train

PADDED = [
    {"layout": "padded"},
    {"layout": "padded", "padding_side": "left"},
    {"layout": "padded", "padding_side": "left", "padded_positions": "row"},
]


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("pooling", ["mean", "last_k", "first_k"])
def test_all_layouts_learn_the_same(tmp_path, attention, pooling):
    found = []
    for number, layout in enumerate([{}, *PADDED]):
        encoder = encoder_of(attention=attention, pooling=pooling)
        args = arguments(tmp_path / str(number), num_train_epochs=1, learning_rate=1e-3, **layout)
        result = train(encoder, data_of(), args, save=False)
        assert encoder.layout == "packed" and encoder.padding_side is None
        found.append((weights(encoder), result.scores))
    for learnt, scores in found[1:]:
        assert difference(learnt, found[0][0]) < 1e-3
        assert abs(scores - found[0][1]).max() < 1e-2


def test_padding_is_where_it_is_asked_for(monkeypatch):
    encoder = encoder_of()
    encoder.layout, encoder.padding_side, encoder.padded_positions = "padded", "left", "row"
    seen = {}
    forward = encoder.backbone.forward

    def spy(**inputs):
        seen.update(inputs)
        return forward(**inputs)

    monkeypatch.setattr(encoder.backbone, "forward", spy)
    encoder(torch.tensor([[5, 6, 0, 0], [7, 8, 9, 4]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]))
    assert seen["input_ids"].tolist() == [[0, 0, 5, 6], [7, 8, 9, 4]]
    assert seen["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert seen["position_ids"].tolist() == [[0, 1, 2, 3]] * 2


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), st.booleans())
def test_aligned_rows_keep_the_order_of_their_tokens(masks, left):
    mask = torch.tensor(masks, dtype=torch.long)
    places = aligned(mask, "left" if left else "right")
    moved = mask.gather(1, places)
    for row in range(len(mask)):
        tokens = [place for place in places[row].tolist() if mask[row, place]]
        assert tokens == mask[row].nonzero().flatten().tolist()
        assert moved[row].tolist() == sorted(mask[row].tolist(), reverse=not left)
        assert sorted(places[row].tolist()) == list(range(5))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"padding_side": "left"}, "do nothing in the packed layout"),
        ({"padded_positions": "row"}, "do nothing in the packed layout"),
        ({"layout": "padded", "compile_layers": True}, "compile_layers does nothing in the padded layout"),
    ],
)
def test_options_that_do_nothing_are_refused(tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        train(encoder_of(), data_of(), arguments(tmp_path, **options))


def test_nothing_is_saved_unless_it_is_to_be(tmp_path):
    result = train(encoder_of(), data_of(), arguments(tmp_path), save=False)
    assert result.run["status"] == "finished" and not result.output_dir.exists()
