"""Training the embeddings of the tokens that occur is training them all."""

import pytest
import torch
from toy_training import arguments, data_of, difference, encoder_of, weights

from gemma_encoder.training import train
from gemma_encoder.training.embeddings import only_rows_of
from gemma_encoder.training.trainer import EncoderTrainer


def table(encoder) -> torch.nn.Embedding:
    return encoder.stock_backbone.get_input_embeddings()


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_what_is_learnt_is_what_all_rows_would_learn(tmp_path, monkeypatch, layout):
    options = {"train_embeddings": True, "weight_decay": 0.0, "load_best_model_at_end": False}
    few, every = encoder_of(layout=layout), encoder_of(layout=layout)
    torch.manual_seed(0)
    result = train(few, data_of(), arguments(tmp_path / "few", **options))
    monkeypatch.setattr(
        "gemma_encoder.training.training.only_rows_of",
        lambda encoder, texts: only_rows_of(encoder, [range(encoder.stock_backbone.config.vocab_size)]),
    )
    torch.manual_seed(0)
    dense = train(every, data_of(), arguments(tmp_path / "all", **options))
    assert difference(weights(few), weights(every)) < 1e-6
    trained, all_of_them = (each.run["parameters"]["trained"] for each in (result, dense))
    assert trained < all_of_them and result.run["parameters"]["total"] < dense.run["parameters"]["total"]


def test_tokens_that_do_not_occur_stay(tmp_path):
    encoder = encoder_of()
    before = table(encoder).weight.detach().clone()
    train(encoder, data_of(), arguments(tmp_path, train_embeddings=True, weight_decay=0.5))
    moved = (table(encoder).weight != before).any(dim=1)
    rows = data_of()
    seen = {
        token
        for split in (rows.train, rows.validation)
        for ids in encoder.tokenize(list(split["text"])).input_ids
        for token in ids
    }
    assert moved.any() and set(moved.nonzero().flatten().tolist()) <= seen | {0}


def test_scores_inside_are_those_outside():
    encoder = encoder_of()
    ids = encoder.tokenize(["good film", "a bad film by the river"]).input_ids
    batch = encoder.collate(ids)
    before, padding = encoder(**batch).logits, table(encoder).padding_idx
    with only_rows_of(encoder, ids):
        assert len(table(encoder).weight) == table(encoder).num_embeddings <= len({0, *ids[0], *ids[1]}) + 1
        assert torch.equal(encoder(**batch).logits, before)
    assert torch.equal(encoder(**batch).logits, before) and table(encoder).padding_idx == padding


def test_the_whole_table_is_back_after_an_error(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise RuntimeError("stop")

    encoder = encoder_of()
    shape = table(encoder).weight.shape
    monkeypatch.setattr(EncoderTrainer, "evaluate", stop)
    with pytest.raises(RuntimeError, match="stop"):
        train(encoder, data_of(), arguments(tmp_path, train_embeddings=True))
    assert table(encoder).weight.shape == shape
    assert encoder(**encoder.collate(encoder.tokenize(["river"]).input_ids)).logits.isfinite().all()


def test_an_interrupted_run_goes_on(tmp_path):
    options = {"train_embeddings": True, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps"}
    options |= {"eval_steps": 1}
    whole = encoder_of()
    train(whole, data_of(), arguments(tmp_path / "whole", **options))
    interrupted = encoder_of()
    args = arguments(tmp_path / "parts", **options)
    stop_at = 2

    class Interrupted(KeyboardInterrupt):
        pass

    original = EncoderTrainer.training_step

    def step(self, *inputs, **keywords):
        if self.state.global_step == stop_at:
            raise Interrupted
        return original(self, *inputs, **keywords)

    EncoderTrainer.training_step = step
    try:
        with pytest.raises(Interrupted):
            train(interrupted, data_of(), args)
    finally:
        EncoderTrainer.training_step = original
    resumed = encoder_of()
    train(resumed, data_of(), args, resume=True)
    assert difference(weights(resumed), weights(whole)) == 0
